"""One processor of a real guest is held while the others go on: the positive control of every hold."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import real

from harness.actor.actor import Actor
from harness.actor.build import build_actor
from harness.actor.call import Call
from harness.actor.start import start_actor
from harness.actor.transcript import Transcript
from harness.guest.guest import Guest
from harness.guest.hold import Hold
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.run.needs import HOLD_ARGUMENTS, HOLD_CPUS
from harness.vm import machine
from harness.vm.gdbstub import Debugger
from harness.vm.hardware import MIB, PAGE
from harness.vm.machine import Machine
from harness.vm.pci_devices import Layout
from harness.vm.ram_bar import RamBar

pytestmark = pytest.mark.vm

PATIENCE = 30.0
REWRITES = 200  # of a word that the host has cleared
FIRST, SECOND = 1, 2  # the processors of the two actors


@dataclass(frozen=True)
class Two:
    """Two actors that keep storing to words of the RAM BAR, each on a processor of its own."""

    guest: Guest
    director: Actor
    bar: RamBar

    def stores(self, cpu: int) -> bool:
        """Clear the word of a processor and tell whether it has been stored to; call it repeatedly."""
        found = self.bar.word(PAGE * cpu) != 0
        self.bar.write(PAGE * cpu, bytes(4))
        return found

    def moving(self, number: int) -> set[int]:
        """Return the processors whose word moves, once ``number`` of them have moved often."""
        for cpu in (FIRST, SECOND):
            self.stores(cpu)
        seen = dict.fromkeys((FIRST, SECOND), 0)
        deadline = time.monotonic() + PATIENCE
        while sum(times >= REWRITES for times in seen.values()) < number and time.monotonic() < deadline:
            for cpu in seen:
                seen[cpu] += self.stores(cpu)
        return {cpu for cpu, times in seen.items() if times}


def boot(run_dir: Path) -> Machine:
    """Boot a machine with a debugger's port."""
    return machine.boot(
        real.base_kernel().bzimage,
        real.guest_image(),
        run_dir=run_dir,
        accelerator=real.accelerator(),
        layout=Layout(ram=4 * MIB, arguments=HOLD_ARGUMENTS, cpus=HOLD_CPUS, debugger=True),
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("hold")
    built = real.base_kernel()
    with boot(folder / "machine") as booted:
        guest = Guest(booted)
        program = build_actor(Store(), built.headers, folder / "actor.log")
        with (
            start_actor(guest, program, Transcript(folder / "transcript.txt")) as director,
            RamBar(booted.ram_bar) as bar,
        ):
            director.confine(0)
            function = guest.devices["ram"]
            guest.script('echo 1 >"/sys/bus/pci/devices/$1/enable"', function.address)
            for cpu in (FIRST, SECOND):
                # Not threads of the director: it would wait for a held processor to flush its TLB.
                storer = director.spawn(f"storer{cpu}")
                mapping = storer.map(storer.resource(function.address, 2), 4 * PAGE)
                mapping.hammer(0x1000 + cpu, offset=PAGE * cpu, length=4, cpus=[cpu])
            yield Two(guest, director, bar)


@pytest.fixture
def debugger(two: Two) -> Iterator[Debugger]:
    assert two.guest.machine.debugger is not None
    with Debugger(two.guest.machine.debugger, 4.0) as one:
        yield one


def test_processor_that_is_not_named_stands_still(two: Two, debugger: Debugger) -> None:
    debugger.resume()
    assert two.moving(2) == {FIRST, SECOND}, "the control: without a hold both move"
    for named in (FIRST, SECOND):
        debugger.interrupt()
        debugger.resume([0, named])
        assert two.moving(1) == {named}
        assert two.director.cpus() == (0,), "the guest answers meanwhile"
    debugger.interrupt()
    debugger.resume()
    assert two.moving(2) == {FIRST, SECOND}


def test_detaching_releases_every_processor(two: Two) -> None:
    assert two.guest.machine.debugger is not None
    with Debugger(two.guest.machine.debugger, 4.0) as one:
        one.resume([0, FIRST])
        assert two.moving(1) == {FIRST}
    assert two.moving(2) == {FIRST, SECOND}
    assert two.guest.machine.outside_fault() == ""


def test_task_is_held_at_a_function_while_others_go_on(two: Two) -> None:
    child = two.director.spawn("held")
    child.pin(FIRST)
    for leaving in (False, True):
        with Hold(two.guest).at("do_sys_openat2", cpu=FIRST, leaving=leaving) as held:
            call = Call.begin(child, child.descriptors)
            held.arrive()
            assert two.moving(1) == {SECOND}
            assert (call.ended(), call.place().state) == (False, "R")
            assert held.sample(0) != "do_sys_openat2"
        assert call.result() == "4"
        assert two.moving(2) == {FIRST, SECOND}
    two.director.signal(child, "kill")
    two.director.reap(child)


def test_task_is_held_at_the_call_of_that_number(two: Two) -> None:
    child = two.director.spawn("stepped")
    child.pin(FIRST)
    points = ("do_filp_open", "fd_install", "no_such_function")
    for number, passed, seen in ((None, True, 2), (1, False, 1), (2, False, 2), (3, True, 2)):
        with Hold(two.guest).at_point("do_sys_openat2", points, number, FIRST) as held:
            call = Call.begin(child, child.descriptors)
            held.arrive()
            assert (held.passed, held.points) == (passed, ("do_filp_open", "fd_install")[:seen])
            if not passed:
                assert two.moving(1) == {SECOND}
                assert not call.ended()
        assert call.result() == "4"
    two.director.signal(child, "kill")
    two.director.reap(child)


def test_function_where_no_task_comes_is_a_harness_error(two: Two) -> None:
    with (
        pytest.raises(HarnessError, match=r"No task on processor 1 came to .* window .* never open"),
        Hold(two.guest).at("vfio_pci_core_ioctl_reset", "vfio_pci_core_ioctl", cpu=FIRST) as held,
    ):
        held.arrive()
    assert two.moving(2) == {FIRST, SECOND}


def test_absent_function_is_a_harness_error(two: Two) -> None:
    with (
        pytest.raises(HarnessError, match="The kernel has no function no_such_function"),
        Hold(two.guest).at("no_such_function", cpu=FIRST),
    ):
        pass


def test_second_debugger_is_refused(tmp_path: Path) -> None:
    # QEMU stops the machine for the second connection when the first has ended, so it is not used again.
    with boot(tmp_path) as booted:
        assert booted.debugger is not None
        with Debugger(booted.debugger, 4.0) as first:
            first.resume()
            with pytest.raises(HarnessError, match=r"was silent|cannot be reached|has closed"):
                Debugger(booted.debugger, 0.2)
