"""DMA as suites see it, with an engine, an IOMMU and a target that are simulated."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import cast

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import PCI_COMMAND, Buffer, Device
from harness.actor.iommufd import AddressSpace, Container
from harness.guest import iommu_faults
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError
from harness.vm.recorder import NoRecord
from suites.support.constants import EDU_BAR, PCI_COMMAND_MASTER
from suites.support.dma import ENGINES, Engine, Faults, Path


@dataclass
class Registers:
    """The registers of an edu, whose transfer is over when its command was read ``polls`` times."""

    polls: int = 2
    address: str = "0000:01:00.0"
    written: list[tuple[int | str, int, int]] = field(default_factory=list)

    def read(self, region: int | str, offset: int, width: int) -> int:
        if region == "config":
            return 0x3
        self.polls -= 1
        return int(self.polls > 0)

    def write(self, region: int | str, offset: int, width: int, value: int) -> None:
        self.written.append((region, offset, value))


class TestEngine:
    def test_write_programs_the_engine_and_waits(self) -> None:
        registers = Registers()
        Engine(cast(Device, registers)).write(0x100000, 64)
        assert registers.written == [
            ("config", PCI_COMMAND, 0x3 | PCI_COMMAND_MASTER),
            (EDU_BAR, 0x80, 0x40000),
            (EDU_BAR, 0x88, 0x100000),
            (EDU_BAR, 0x90, 64),
            (EDU_BAR, 0x98, 3),
        ]
        assert registers.polls == 0

    def test_read_goes_the_other_way(self) -> None:
        registers = Registers()
        Engine(cast(Device, registers)).read(0x100000)
        assert [value for _, _, value in registers.written[1:]] == [0x100000, 0x40000, 4, 1]

    def test_transfer_without_an_end_is_a_harness_error(self) -> None:
        with pytest.raises(HarnessError, match=r"0000:01:00\.0 does not end"):
            Engine(cast(Device, Registers(polls=1 << 30))).finish()


class TestFaults:
    """The script that counts, on this host, with a folder in place of /sys/kernel/irq."""

    @pytest.fixture
    def interrupts(self, tmp_path: File) -> File:
        for number, name, counts in (
            (1, "dmar0", "1,2,30"),
            (2, "ahci", "500"),
            (3, "", ""),
            (4, "dmar1", "4"),
        ):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "actions").write_text(f"{name}\n")
            (tmp_path / str(number) / "per_cpu_count").write_text(f"{counts}\n")
        return tmp_path

    @pytest.mark.parametrize("above", ["-1", "36", "37"])
    def test_count_adds_up_those_of_the_iommu(self, interrupts: File, above: str) -> None:
        script = iommu_faults._FAULTS.replace("/sys/kernel/irq", str(interrupts))
        done = subprocess.run(["sh", "-c", script, "sh", above], capture_output=True, text=True, timeout=30)
        assert (done.stdout, done.stderr) == ("37\n", "")

    def test_count_without_an_iommu_prints_nothing(self, interrupts: File) -> None:
        for number in (1, 4):
            (interrupts / str(number) / "actions").write_text("other\n")
        script = iommu_faults._FAULTS.replace("/sys/kernel/irq", str(interrupts))
        done = subprocess.run(["sh", "-c", script, "sh", "-1"], capture_output=True, text=True, timeout=30)
        assert (done.stdout, done.stderr) == ("", "")

    def test_answer_that_is_no_number_is_a_harness_error(self) -> None:
        class Silent:
            recorder = NoRecord()

            def script(self, text: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
                return subprocess.CompletedProcess([], 1, b"", b"")

        with pytest.raises(HarnessError, match="cannot be counted"):
            Faults(cast(Guest, Silent())).count()


@dataclass
class Machine:
    """A target with an IOMMU in front of it; ``permits`` and ``reports`` are what the IOMMU does."""

    permits: bool = True
    reports: bool = True
    word: int = 0
    faults: int = 7

    def transfer(self, iova: int) -> None:
        if self.permits:
            self.word = ENGINES
        elif self.reports:
            self.faults += 1

    def path(self) -> Path:
        """Return a path through this machine."""
        machine = self

        class SimulatedEngine(Engine):
            def write(self, address: int, count: int = 4) -> None:
                machine.transfer(address)

        class SimulatedFaults(Faults):
            def count(self, above: int = -1) -> int:
                return machine.faults

        class Word:
            def read(self) -> int:
                return machine.word

            def write(self, value: int) -> None:
                machine.word = value

        engine = SimulatedEngine(cast(Device, None))
        return Path(engine, SimulatedFaults(cast(Guest, None)), Word(), 0x100000)


class TestPath:
    def test_permitted_dma_lands_and_is_not_lost(self) -> None:
        path = Machine().path()
        path.require_lands()
        with pytest.raises(AssertionError, match="A DMA to 0x100000 now landed"):
            path.require_lost("now")
        with pytest.raises(AssertionError, match="did not refuse a DMA to 0x100000 now"):
            path.require_refused("now")

    def test_refused_dma_is_lost_and_does_not_land(self) -> None:
        path = Machine(permits=False).path()
        path.require_lost("now")
        with pytest.raises(AssertionError, match="A DMA to 0x100000 did not land"):
            path.require_lands()

    def test_dma_that_vanishes_without_a_fault_is_not_refused(self) -> None:
        with pytest.raises(AssertionError, match="did not refuse a DMA to 0x100000 after it"):
            Machine(permits=False, reports=False).path().require_lost("after it")

    @pytest.mark.parametrize("lands", [True, False])
    def test_fault_without_effect_convinces_nobody(self, lands: bool) -> None:
        class Both(Machine):
            def transfer(self, iova: int) -> None:
                self.word, self.faults = ENGINES, self.faults + 1

        path = Both().path()
        with pytest.raises(AssertionError, match="reported faults of a DMA" if lands else "now landed"):
            path.require_lands() if lands else path.require_lost("now")


class TestHandles:
    """The lines that the handles of iommufd say."""

    def test_handles_say_what_they_are_asked(self) -> None:
        lines: list[str] = []

        class Speaker:
            def say(self, *words: object, **options: object) -> str:
                given = [f"{key}={value}" for key, value in options.items() if value is not None]
                lines.append(" ".join([*map(str, words), *given]))
                return "0x10"

            def read(self, parse: object, *words: object, **options: object) -> int:
                return int(self.say(*words, **options), 16)

        actor = cast(Actor, Speaker())
        device, buffer = Device(actor, "dev1", "0000:01:00.0", {}), Buffer(actor, "buf1", 0x4000, None)
        space = AddressSpace.of(device)
        assert space.map(buffer, 0x4000, start=0x1000, prot="r") == 16
        space.map(buffer)
        table = space.page_table()
        table.attach()
        assert space.unmap(0x4000, 0x3000) == space.unmap() == 16
        table.destroy()
        space.destroy()
        Container(device).unmap(0, 4096)
        assert lines == [
            "ioas dev1",
            "iomap dev1 16 buf1 start=4096 length=12288 iova=16384 prot=r",
            "iomap dev1 16 buf1 length=16384 prot=rw",
            "hwpt dev1 16",
            "attach dev1 16",
            "iounmap dev1 16 iova=16384 length=12288",
            "iounmap dev1 16",
            "destroy dev1 16",
            "destroy dev1 16",
            "type1unmap dev1 iova=0 length=4096",
        ]
