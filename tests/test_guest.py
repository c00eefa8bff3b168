"""The booted guest: its devices, the probes in it, and its kernel's health."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import real
from small_run import until

from harness.actor.actor import Actor
from harness.actor.build import build_actor
from harness.actor.footprint import FootprintChanges
from harness.actor.handles import Range
from harness.actor.reply import BUS_ADRERR, Refused, Sigbus
from harness.actor.start import start_actor, start_python
from harness.actor.transcript import Transcript
from harness.guest.guest import Guest, PciFunction, UnbindTimeoutError
from harness.guest.health import KernelHealth
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.vm import machine
from harness.vm.hardware import PAGE
from harness.vm.pci_devices import SLOTS
from harness.vm.ram_bar import RamBar
from harness.vm.ssh import Completed

MEMORY_ENABLE = 2  # PCI_COMMAND_MEMORY, include/uapi/linux/pci_regs.h
RAM_BAR = 2
MIB = 1 << 20


LISTED = (Path(__file__).parent / "data/guest-devices.txt").read_text()


class RecordedGuest(Guest):
    """A guest with these files, whose list of devices is ``listed``."""

    def __init__(self, files: Mapping[str, str] = MappingProxyType({}), listed: str = LISTED) -> None:
        self.files = files
        self.listed = listed

    def read(self, path: str) -> str:
        return self.files[path]

    def script(self, text: str, *arguments: str, seconds: float | None = None) -> Completed:
        return Completed(0, self.listed.encode(), b"")


def test_devices_of_a_recorded_guest_are_read() -> None:
    devices = RecordedGuest().devices
    edu, ram = devices["edu"], devices["ram"]
    assert len(devices) == 2
    assert edu == PciFunction("edu", "0000:01:00.0", 0x1234, 0x11E8, "4", "", "", {0: MIB})
    assert ram == PciFunction(
        "ram", "0000:02:00.0", 0x1AF4, 0x1110, "5", "vfio-pci", "vfio-pci", {0: 256, 2: 64 * MIB}
    )


def test_second_function_has_a_role_of_its_own() -> None:
    first = LISTED.splitlines()[1].replace("0000:00:11.0", f"0000:00:{SLOTS['pair']:02x}.0")
    second = first.replace("0000:02:00.0", "0000:02:00.1")
    devices = RecordedGuest(listed=f"{first}\n{second}\n").devices
    assert {role: device.address for role, device in devices.items()} == {
        "pair": "0000:02:00.0",
        "pair2": "0000:02:00.1",
    }


def test_memory_bar_of_each_role() -> None:
    roles = {"ram": ({0: 256, 2: MIB}, 2), "edu": ({0: MIB}, None), "display": ({0: 16 * MIB, 2: PAGE}, 0)}
    roles |= {"edu2": ({0: MIB, 1: 64 * MIB}, 1), "rng": ({4: PAGE}, None)}
    for role, (bars, memory) in roles.items():
        assert PciFunction(role, "0000:01:00.0", 0, 0, "1", "", "", bars).memory_bar == memory


def test_claims_name_the_owner_of_a_bar() -> None:
    device = PciFunction("ram", "0000:02:00.0", 0, 0, "1", "", "", {0: 256, 2: 64 * MIB})
    guest = RecordedGuest(
        {
            "/sys/bus/pci/devices/0000:02:00.0/resource": "0x00000000fe800000 0x00000000fe8000ff 0x40200\n"
            "0x0000000000000000 0x0000000000000000 0x0\n0x0000000380000000 0x0000000383ffffff 0x14220c\n",
            "/proc/iomem": "fe800000-fe9fffff : PCI Bus 0000:02\n  fe800000-fe8000ff : 0000:02:00.0\n"
            "  fe800100-fe800fff : vfio sub-page reserved\n380000000-383ffffff : PCI Bus 0000:02\n"
            "  380000000-383ffffff : 0000:02:00.0\n    380000000-383ffffff : vfio\n",
        }
    )
    assert guest.claimed_bars(device) == {2: "vfio"}


@dataclass
class UnpatchedMachine:
    """A machine with the unpatched kernel, and what is needed to start actors in it."""

    guest: Guest
    actor: Path
    transcripts: Path
    health: KernelHealth  # when it had booted

    def start(self, kind: str, name: str) -> Actor:
        transcript = Transcript(self.transcripts / f"{name}.txt")
        if kind == "actor":
            return start_actor(self.guest, self.actor, transcript)
        return start_python(self.guest, transcript, {})


@pytest.fixture(scope="module")
def unpatched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnpatchedMachine]:
    folder = tmp_path_factory.mktemp("unpatched")
    built = real.base_kernel()
    actor = build_actor(Store(), built.headers, folder / "actor.log")
    with machine.boot(
        built.bzimage, real.guest_image(), run_dir=folder / "machine", accelerator=real.accelerator()
    ) as booted:
        guest = Guest(booted)
        yield UnpatchedMachine(guest, actor, folder / "transcripts", KernelHealth.of(guest))


BOTH = pytest.mark.parametrize("kind", ["actor", "python"])
VIA = pytest.mark.parametrize("via", ["group", "cdev"])


@pytest.mark.vm
class TestBind:
    def now(self, guest: Guest, role: str) -> tuple[str, str]:
        """Return driver and driver_override of a device as they are now."""
        found = Guest(guest.machine).devices[role]
        return found.driver, found.override

    def test_bind_restores_the_driver(self, unpatched: UnpatchedMachine) -> None:
        before = self.now(unpatched.guest, "edu")
        with unpatched.guest.bind("edu") as device:
            assert self.now(unpatched.guest, "edu") == ("vfio-pci", "vfio-pci")
            nodes = unpatched.guest.run(
                ["ls", f"/dev/vfio/{device.group}", "/dev/vfio/vfio", "/dev/vfio/devices/vfio0"]
            )
            assert nodes.status == 0
        assert self.now(unpatched.guest, "edu") == before

    def test_bind_restores_the_driver_after_an_error(self, unpatched: UnpatchedMachine) -> None:
        before = self.now(unpatched.guest, "ram")
        with pytest.raises(ZeroDivisionError), unpatched.guest.bind("ram"):
            raise ZeroDivisionError
        assert self.now(unpatched.guest, "ram") == before

    def test_bind_leaves_a_bound_device_bound(self, unpatched: UnpatchedMachine) -> None:
        with unpatched.guest.bind("edu2"):
            inner = Guest(unpatched.guest.machine)
            with inner.bind("edu2"):
                pass
            assert self.now(unpatched.guest, "edu2") == ("vfio-pci", "vfio-pci")
        assert self.now(unpatched.guest, "edu2") == ("", "")

    def test_bind_of_an_unknown_role_is_an_error(self, unpatched: UnpatchedMachine) -> None:
        with pytest.raises(HarnessError, match="no device 'gpu'"), unpatched.guest.bind("gpu"):
            pass

    def test_rebind_after_unbind_restores_the_driver(self, unpatched: UnpatchedMachine) -> None:
        before = self.now(unpatched.guest, "ram")
        with unpatched.guest.bind("ram") as device:
            unpatched.guest.unbind(device)
            assert self.now(unpatched.guest, "ram") == ("", "vfio-pci")
            unpatched.guest.rebind(device)
            assert self.now(unpatched.guest, "ram") == ("vfio-pci", "vfio-pci")
            unpatched.guest.unbind(device)
        assert self.now(unpatched.guest, "ram") == before

    def test_replug_finds_the_device_again(self, unpatched: UnpatchedMachine) -> None:
        with unpatched.guest.bind("ram") as device:
            unpatched.guest.replug(device)
            found = Guest(unpatched.guest.machine).devices["ram"]
            assert (found.address, found.bars) == (device.address, device.bars)
            assert (found.driver, found.override) == ("", "")
            unpatched.guest.rebind(device)
            assert self.now(unpatched.guest, "ram") == ("vfio-pci", "vfio-pci")

    def test_unbind_of_a_device_in_use_is_reported(
        self, unpatched: UnpatchedMachine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """unbind() raises an error; the kernel unbinds the device when its last user is gone."""
        with unpatched.guest.bind("edu") as device, unpatched.start("actor", "held") as owner:
            opened = owner.open(device.address)
            with monkeypatch.context() as patched:
                patched.setattr(Guest, "deadline", 3.0)
                with pytest.raises(UnbindTimeoutError, match=rf"did not unbind the device {device.address}"):
                    unpatched.guest.unbind(device)
            opened.close()
            driver = f"/sys/bus/pci/devices/{device.address}/driver"
            unpatched.guest.script('while [ -e "$1" ]; do :; done', driver)


@pytest.mark.vm
class TestProbes:
    @BOTH
    @VIA
    def test_actor_reads_and_writes_registers(self, unpatched: UnpatchedMachine, kind: str, via: str) -> None:
        with unpatched.guest.bind("edu") as edu, unpatched.start(kind, f"registers-{kind}-{via}") as owner:
            device = owner.open(edu.address, via)
            assert device.bars == edu.bars
            mapping = owner.map(device, bar=0)
            assert mapping.load32(0) == device.read(0, 0, 4) == 0x010000ED
            assert mapping.store32(4, 0x12345678) is None
            assert mapping.load32(4) == 0xEDCBA987
            # Only accesses of exactly four bytes are decoded here.
            assert mapping.load(64, 0) != 0x010000ED

    @BOTH
    def test_access_with_memory_disabled_is_sigbus(self, unpatched: UnpatchedMachine, kind: str) -> None:
        with unpatched.guest.bind("edu") as edu, unpatched.start(kind, f"disabled-{kind}") as owner:
            device = owner.open(edu.address)
            mapping = owner.map(device, 3 * PAGE, bar=0)
            assert len(mapping.pages()) == 3
            assert mapping.page_table().mapped("pte") == 3 * PAGE
            assert mapping.page_table().caching() == {"uncached-minus"}
            command = device.read("config", 4, 2)
            device.write("config", 4, 2, command & ~MEMORY_ENABLE)
            assert mapping.page_table().is_empty()
            assert mapping.pages() == [Sigbus(BUS_ADRERR, page * PAGE) for page in range(3)]
            assert mapping.store32(PAGE + 8, 1) == Sigbus(BUS_ADRERR, PAGE + 8)
            assert mapping.page_table().is_empty()
            device.write("config", 4, 2, command)
            assert mapping.load32(0) == 0x010000ED

    @BOTH
    def test_host_and_actor_share_the_ram_bar(self, unpatched: UnpatchedMachine, kind: str) -> None:
        with (
            unpatched.guest.bind("ram") as ram,
            RamBar(unpatched.guest.machine.ram_bar) as witness,
            unpatched.start(kind, f"ram-{kind}") as owner,
        ):
            mapping = owner.map(owner.open(ram.address), 16 * PAGE, 4 * PAGE, bar=RAM_BAR)
            assert witness.size == ram.bars[RAM_BAR]
            assert mapping.stamp(100) is None
            assert witness.pages(4 * PAGE, 16 * PAGE) == list(range(100, 116))
            witness.write(5 * PAGE, b"\x01\x02\x03\x04")
            assert mapping.load32(PAGE) == 0x04030201

    @BOTH
    @VIA
    def test_export_without_the_series_cannot_be_mapped(
        self, unpatched: UnpatchedMachine, kind: str, via: str
    ) -> None:
        with unpatched.guest.bind("ram") as ram, unpatched.start(kind, f"export-{kind}-{via}") as owner:
            device = owner.open(ram.address, via)
            before = KernelHealth.of(unpatched.guest)
            buffer = owner.export(device, RAM_BAR, [Range(0, PAGE), Range(2 * MIB, 4 * PAGE)])
            assert buffer.size == buffer.seek() == 5 * PAGE
            assert [one.text for one in KernelHealth.of(unpatched.guest).worse_than(before)] == [
                "1 DMABUFs are left over"
            ]
            with pytest.raises(Refused) as refused:
                owner.map(buffer)
            assert refused.value.errno == "EINVAL"
            client = owner.spawn("client", uid=65534)
            assert owner.give(buffer, client).seek() == 5 * PAGE
            with pytest.raises(Refused) as refused:
                owner.export(device, RAM_BAR, [Range(0, 128 * MIB)])
            assert refused.value.errno == "EINVAL"
        # fput() is deferred, so a DMABUF may be freed after its process has ended.
        until(lambda: KernelHealth.of(unpatched.guest) == before, "the kernel to be as it was")

    @BOTH
    def test_transcript_is_replayed_with_the_same_replies(
        self, unpatched: UnpatchedMachine, kind: str
    ) -> None:
        """The C actor replays the transcript of either probe and gets the same replies."""
        with unpatched.guest.bind("edu") as edu:
            with unpatched.start(kind, f"replay-{kind}") as owner:
                device = owner.open(edu.address)
                owner.map(device, bar=0).pages(0, 4 * PAGE)
                client = owner.spawn("client")
                owner.give(owner.export(device, 0, [Range(0, PAGE)]), client).seek()
            unpatched.guest.push(unpatched.transcripts / f"replay-{kind}.txt", "/run/transcript", 0o644)
            unpatched.guest.push(unpatched.actor, "/run/actor")
            done = unpatched.guest.run(["/run/actor", "--replay", "/run/transcript"])
        assert done.stdout == b"8 operations, 0 replies differ\n"

    def test_end_of_an_actor_frees_its_device(self, unpatched: UnpatchedMachine) -> None:
        """A client stopped by SIGSTOP does not keep the device from being unbound."""
        with unpatched.guest.bind("edu") as edu, unpatched.start("actor", "ends") as owner:
            device = owner.open(edu.address)
            client = owner.fork("client")
            owner.signal(client, "stop")
            assert device.read(0, 0, 4) == 0x010000ED


@pytest.mark.vm
class TestHealth:
    def test_new_kernel_is_healthy(self, unpatched: UnpatchedMachine) -> None:
        assert (unpatched.health.taint, unpatched.health.dmabufs) == (0, 0)
        until(lambda: KernelHealth.of(unpatched.guest).dmabufs == 0, "released DMABUFs (fput() is deferred)")

    @BOTH
    def test_footprint_ignores_messages_of_a_slow_host(self, unpatched: UnpatchedMachine, kind: str) -> None:
        with unpatched.start(kind, f"log-{kind}") as owner:
            leftovers = FootprintChanges(owner)
            for message in ("clocksource: Long readout", "hrtimer: interrupt took 5 ns", "tsc: unstable"):
                unpatched.guest.script(f'echo "{message}" >/dev/kmsg')
            assert leftovers.look() == ""
            unpatched.guest.script('echo "vfio-pci: clocksource: no such thing" >/dev/kmsg')
            assert leftovers.look() == "1 record in the kernel log"

    def test_warning_sets_its_taint_bit(self, unpatched: UnpatchedMachine) -> None:
        before = KernelHealth.of(unpatched.guest)
        unpatched.guest.run(["sh", "-c", "echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT"])
        assert "new taint bit 9 (WARN)" in [
            one.text for one in KernelHealth.of(unpatched.guest).worse_than(before)
        ]
