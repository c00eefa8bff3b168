"""Complaints of a kernel whose processor gets no ticks any more, by a defect of QEMU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from harness.actor.reply import DeadlineError
from harness.guest.guest import Guest
from harness.journal.results_folder import ResultsFolder
from harness.klog.splat import Splat
from harness.lib.errors import HarnessError
from harness.run.examine_kernel import Examiner, MachineState
from harness.run.machines import Machines
from harness.run.needs import Needs
from harness.run.outside_cause import lost_write_behind
from harness.vm import diagnose
from harness.vm.diagnose import QemuDefectError
from harness.vm.machine import Machine
from harness.vm.ssh import Completed

DUMP = Path(__file__).parent / "data" / "processors" / "deaf.txt"
STALL = Splat("rcu-stall", "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "")
WAKEUP = Splat("rcu-stall", "rcu: rcu_preempt kthread timer wakeup didn't happen for 5251 jiffies!", "")
WARNING = Splat("warning", "WARNING: drivers/vfio/vfio_main.c:1 at f", "")


class DumpedMachine:
    """A machine whose processors are in the recorded state; ``running`` is false after QEMU's end."""

    def __init__(self, running: bool, faults: Sequence[Splat] = ()) -> None:
        self._running = running
        self._faults = list(faults)
        self.console = self

    def alive(self) -> bool:
        return self._running

    def dump_processors(self) -> tuple[Path, str]:
        assert self._running, "QEMU has ended"
        return DUMP, diagnose.lost_interrupt(DUMP.read_text())

    def splats(self, mark: int) -> list[Splat]:
        return self._faults[mark:]

    def outside_fault(self) -> str:
        return ""

    def wait_ended(self, timeout: float) -> bool:
        return False

    def paused(self, since: float) -> str:
        return ""


class AnsweringGuest:
    """A guest that answers, as one of its processors is well."""

    def __init__(self, machine: DumpedMachine) -> None:
        self.machine = machine

    def run(self, argv: Sequence[str]) -> Completed:
        return Completed(0, b"", b"")


class WaitingGuest(AnsweringGuest):
    """A guest with a thread that waits in a reset; ``comments`` are those of its recorder."""

    def __init__(self, machine: DumpedMachine) -> None:
        super().__init__(machine)
        self.recorder = self
        self.comments: list[str] = []

    def script(self, text: str) -> Completed:
        listed = b"task 81 83 D actor\n[<0>] msleep+0x2d/0x40\n[<0>] pcie_flr+0x5b/0x90\n"
        return Completed(0, listed, b"")

    def comment(self, text: str) -> None:
        self.comments.append(text)


class HealthyMachine(DumpedMachine):
    """A machine whose processors all get their interrupts."""

    def dump_processors(self) -> tuple[Path, str]:
        return DUMP, ""


class OneMachine:
    """The machines of a run: one; ``ended`` are the reasons of its end."""

    def __init__(self, guest: AnsweringGuest) -> None:
        self.guest: AnsweringGuest | None = guest
        self.ended: list[str] = []

    def end(self, reason: str) -> None:
        self.guest = None
        self.ended.append(reason)


TIMEOUT = "open vfio 0000:01:00.0 via=cdev", 19.0


@pytest.mark.parametrize(
    ("error", "faults"),
    [
        (DeadlineError(*TIMEOUT, answered=True), []),
        (DeadlineError(*TIMEOUT, answered=False), [STALL, WAKEUP]),
        (AssertionError("the revoke did not return"), []),
    ],
)
def test_wait_for_a_deaf_processor_is_no_violation(error: Exception, faults: list[Splat]) -> None:
    guest = AnsweringGuest(DumpedMachine(True, faults))
    machines = OneMachine(guest)
    examiner = Examiner(cast(Machines, machines), cast(ResultsFolder, None))
    start = MachineState(cast(Guest, guest), 0, None)
    with pytest.raises(QemuDefectError, match="QEMU has lost the end of interrupt 236 on processor 0"):
        examiner.examine(start, error, Needs(), passed=False)
    assert machines.ended == [diagnose.lost_interrupt(DUMP.read_text())]


@pytest.mark.parametrize(
    ("faults", "running", "explained"),
    [
        ([STALL, WAKEUP], True, True),
        ([STALL, WARNING], True, False),  # no missing tick causes a warning
        ([STALL], False, False),
        ([], True, True),  # a call that does not return
    ],
)
def test_deaf_processor_explains_stalls_alone(faults: list[Splat], running: bool, explained: bool) -> None:
    found = lost_write_behind(cast(Machine, DumpedMachine(running)), faults)
    assert found.startswith("QEMU has lost the end of interrupt 236 on processor 0") == explained
    assert bool(found) == explained


def test_missed_deadline_is_told_with_the_place_of_the_wait() -> None:
    guest = WaitingGuest(HealthyMachine(True))
    machines = OneMachine(guest)
    examiner = Examiner(cast(Machines, machines), cast(ResultsFolder, None))
    error = DeadlineError("resetsdone", 10.0, answered=True)
    examiner.examine(MachineState(cast(Guest, guest), 0, None), error, Needs(), passed=False)
    assert error.waits_in == "msleep < pcie_flr"
    assert guest.comments == ["thread 83 of process 81 (actor, D) waits in msleep < pcie_flr"]
    assert machines.ended == [f"an operation did not end: {error}"]


class SilentGuest(WaitingGuest):
    """A guest whose shell does not do as it is told."""

    def script(self, text: str) -> Completed:
        raise HarnessError("The guest's shell ran `for` and reported no exit status: x")


def test_place_that_cannot_be_read_leaves_the_verdict_as_it_is() -> None:
    guest = SilentGuest(HealthyMachine(True))
    examiner = Examiner(cast(Machines, OneMachine(guest)), cast(ResultsFolder, None))
    error = DeadlineError("resetsdone", 10.0, answered=True)
    examiner.examine(MachineState(cast(Guest, guest), 0, None), error, Needs(), passed=False)
    assert (error.waits_in, guest.comments) == ("", [])
