"""Examine the health of the kernel during a scenario, after it, and between two scenarios."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from harness.actor.reply import DeadlineError
from harness.actor.start import stopped_actors
from harness.guest.guest import Guest
from harness.guest.health import Deterioration, KernelHealth, Symptom
from harness.guest.waiting import note_waiting
from harness.journal.results_folder import ResultsFolder
from harness.klog.patterns import PANIC
from harness.klog.splat import Splat
from harness.lib.errors import HarnessError, PatchproofError
from harness.run.error_to_verdict import (
    LOST,
    VIOLATION,
    BlindConsoleError,
    KernelDiedError,
    UnhealthyKernelError,
    observation_of,
)
from harness.run.machines import Machines
from harness.run.needs import Needs
from harness.run.outside_cause import cause_outside, lost_write_behind, pause_behind
from harness.verdict.verdict import Verdict
from harness.vm import diagnose, pauses
from harness.vm.diagnose import QemuDefectError
from harness.vm.machine import QEMU_END_SECONDS
from harness.vm.ssh import SshLostError, SshTimeoutError

SETTLE_SECONDS = 2.0  # for the kernel to free what the last process released


@dataclass(frozen=True)
class MachineState:
    """The state of a guest at a moment: its console had ``mark`` bytes.

    ``health`` is None if the kernel's state was not read.  ``time`` is on the clock of pauses.now().
    """

    guest: Guest
    mark: int
    health: KernelHealth | None
    time: float = field(default_factory=pauses.now)


class Examiner:
    """Compares the health of the kernel with that at the start of a scenario.

    A machine whose kernel is not well is ended.
    """

    def __init__(self, machines: Machines, results: ResultsFolder) -> None:
        self._machines = machines
        self._results = results
        self._left: MachineState | None = None  # the machine as the last scenario left it

    def begin(self, needs: Needs) -> MachineState:
        """Return a guest for the next scenario, with its state after the last one if that is known.

        Raises BootError, HarnessError.
        """
        last = self.check_between_scenarios()
        guest = self._machines.guest_for(needs)
        if last is not None and last.guest is guest:
            return last
        return MachineState(guest, guest.machine.console.mark(), None)

    def remember(self, seen: MachineState) -> None:
        """Remember the state of the machine at the end of a scenario, for check_between_scenarios()."""
        self._left = seen

    def check_between_scenarios(self) -> MachineState | None:
        """Return the state of the last scenario's machine, or end the machine if its kernel complained since.

        A complaint between two scenarios belongs to neither of them, so the journal has
        it in the entry of the machine.  The result is None if there is no such machine any
        more.
        """
        guest, before = self._machines.guest, self._left
        if guest is None or before is None or before.guest is not guest:
            return None
        mark = guest.machine.console.mark()
        splats = guest.machine.console.splats(before.mark)
        faults = [one for one in splats if one.fault]
        unseen = [one for one in splats if one.detector_lost]
        if not faults and not unseen and guest.machine.alive():
            return replace(before, mark=mark)
        if faults:
            self._machines.write_stacks(faults)
            if cause := cause_outside(guest.machine, before.time, faults):
                self._machines.end(f"{cause}; then the kernel said: {faults[0].title}", Verdict.HARNESS_ERROR)
                return None
            self._machines.end(f"the kernel said: {faults[0].title}", Verdict.VIOLATES)
        elif fault := guest.machine.outside_fault():
            self._machines.end(fault)
        elif unseen:
            reason = f"a complaint of the kernel may have been missed: {unseen[0].title}"
            self._machines.end(reason, Verdict.HARNESS_ERROR)
        else:
            self._machines.end("the machine ended by itself", Verdict.KERNEL_DIED)
        return None

    def examine(
        self, start: MachineState, error: BaseException | None, needs: Needs, *, passed: bool
    ) -> KernelHealth | None:
        """Return the kernel's health now; raise if it is worse than at the ``start`` of the scenario.

        This is _examine(), except that nothing is held against a kernel that did not run for a while:
        HarnessError is raised, and the machine ended, unless the kernel has a complaint that no pause causes.
        """
        try:
            health = self._examine(start, error, needs, passed=passed)
        except (KernelDiedError, UnhealthyKernelError) as found:
            self._excuse(start, found)
            raise
        if isinstance(error, (*VIOLATION, *LOST)):
            self._excuse(start, error)
        return health

    def _excuse(self, start: MachineState, error: BaseException) -> None:
        """Raise HarnessError if a pause may be the cause of the ``error``, or a defect of QEMU."""
        if pause := pause_behind(start.guest.machine, start.time, _faults(start)):
            if start.guest is self._machines.guest:
                self._machines.end(pause)
            raise HarnessError(f"The scenario was cut off: {pause}.") from error
        if start.guest is self._machines.guest:
            self._require_no_lost_write(start.guest, _faults(start), error)

    def _require_no_lost_write(self, guest: Guest, faults: list[Splat], error: BaseException | None) -> None:
        """End the machine and raise QemuDefectError if a write that QEMU lost explains all ``faults``."""
        if fault := lost_write_behind(guest.machine, faults):
            self._machines.end(fault)
            raise QemuDefectError(f"The scenario was cut off: {fault}.") from error

    def _examine(
        self, start: MachineState, error: BaseException | None, needs: Needs, *, passed: bool
    ) -> KernelHealth | None:
        """Return the kernel's health now; raise if it is worse than at the ``start`` of the scenario.

        ``error`` is the error that ended a phase of the scenario, None if there was none;
        a failure of the kernel is taken for its cause.  ``needs`` are those of the
        scenario, ``passed`` is true if no earlier phase has failed.  The result is None
        if the state was not read, or another machine runs now.

        Raises KernelDiedError, UnhealthyKernelError, HarnessError, and BlindConsoleError
        if nothing else was wrong.  The machine is then ended.  It is also ended after an
        operation that missed its deadline.
        """
        guest = start.guest
        if guest is not self._machines.guest:
            return None
        if needs.alone and isinstance(error, VIOLATION):
            # The scenario may have broken the kernel, as it was meant to.  What a broken
            # kernel does next is chance, so no verdict may depend on reading its state.
            splats = _faults(start)
            self._machines.end("a scenario that had it for itself has failed")
            self._raise(splats, [], error, passed)
            return None
        worse: list[str] = []
        changes: list[Deterioration] = []
        unread: PatchproofError | None = None
        latest: KernelHealth | None = None
        lost = isinstance(error, LOST) or not guest.machine.alive()
        if not lost and start.health is not None:
            try:
                latest = _read_after_frees(guest, start.health)
                changes = latest.worse_than(start.health, needs.taints)
                worse = [one.text for one in changes]
            except SshTimeoutError as timeout:
                lost = True
                worse = [f"the kernel's state cannot be read: {timeout.message}"]
            except (HarnessError, *LOST) as failure:
                lost = isinstance(failure, LOST)
                unread = failure
        if lost and (death := self._death(start, error)):
            self._machines.end(death)
            raise KernelDiedError(f"The kernel died: {death}") from error
        if lost:
            self._require_no_lost_write(guest, _faults(start), error)
            note_waiting(guest, error)
            self._machines.end(f"an operation did not end: {error or unread or worse[0]}")
        # The console comes last: reading the state may make a damaged kernel complain.
        splats = _faults(start)
        if [one.symptom for one in changes] == [Symptom.LOCKDEP] and not splats and error is None:
            self._machines.end(worse[0])
            raise HarnessError(f"{worse[0].capitalize()} and has found nothing: it has no room left.")
        if worse and not splats and not lost and (fault := self._stopped_clause(guest)):
            self._machines.end(fault)
            raise HarnessError(f"The scenario was cut off: {fault}.") from error
        self._raise(splats, worse, error, passed)
        if unread is not None and error is None:
            self._machines.end(f"its kernel's state cannot be read: {unread.message}")
            raise HarnessError(f"The kernel's state cannot be read: {unread.message}") from unread
        if error is None:
            self._require_complete_console(start)
        return latest

    def _raise(
        self, splats: list[Splat], worse: list[str], error: BaseException | None, passed: bool
    ) -> None:
        """Raise the error for the complaints on the console and the changes for the ``worse``, if any.

        Raises KernelDiedError if a splat is a panic, else UnhealthyKernelError; QemuDefectError if QEMU
        is the cause of all splats.
        """
        if not splats and not worse:
            return
        guest = self._machines.guest
        if guest is not None and splats:
            self._require_no_lost_write(guest, splats, error)
        for one in splats:
            if one.kind == PANIC:  # after the state was read
                self._machines.end(one.title)
                raise KernelDiedError(f"The kernel died: {one.title}") from error
        complaints = [*(f"the kernel said: {splat.title}" for splat in splats), *worse]
        self._machines.end(complaints[0])
        clause = "; ".join(complaints)
        passed = passed and error is None
        silent = Verdict.CONFORMS if error is None else observation_of(error, "").verdict
        raise UnhealthyKernelError(
            f"The scenario passed, but {clause}" if passed else clause,
            None if worse else silent,
            on_console=bool(splats),
            changes=tuple(worse),
        ) from error

    def _require_complete_console(self, start: MachineState) -> None:
        """Raise BlindConsoleError if a complaint may have been missed."""
        unseen = [one for one in start.guest.machine.console.splats(start.mark) if one.detector_lost]
        if unseen:
            self._machines.end(unseen[0].title)
            raise BlindConsoleError(
                f"A complaint of the kernel may have been missed: {unseen[0].title}. A verdict needs a "
                "complete kernel log."
            )

    def _death(self, start: MachineState, error: BaseException | None) -> str:
        """Return how the kernel died, as a clause; empty if it lives.

        Raises HarnessError if the machine or the actor was stopped from outside of the
        kernel, QemuDefectError if QEMU has failed it.
        """
        guest = start.guest
        if guest.machine.alive():
            guest.machine.wait_ended(QEMU_END_SECONDS)
        splats = _faults(start)
        fault = "" if splats else guest.machine.outside_fault()
        answers = not fault and guest.machine.alive() and self._answers(guest)
        if answers and not splats:
            fault = self._stopped_while_waiting(guest, error)
        if fault:
            crashed = diagnose.crashed(guest.machine.exit_status())
            self._machines.end(fault)
            kind = QemuDefectError if crashed else HarnessError
            raise kind(f"The scenario was cut off: {fault}.") from error
        if answers:
            return ""
        if guest.machine.alive():
            path, fault = guest.machine.dump_processors()
            location = f"the state of its processors: {path.relative_to(self._results.dir)}"
            if fault:
                self._machines.end(fault)
                raise QemuDefectError(f"The scenario was cut off: {fault} ({location}).") from error
            return f"it does not answer any more ({location})"
        return splats[0].title if splats else "the machine ended by itself"

    @staticmethod
    def _answers(guest: Guest) -> bool:
        try:
            return guest.run(["true"]).status == 0
        except SshTimeoutError:
            return False
        except SshLostError:
            return guest.machine.can_log_in()

    def _stopped_while_waiting(self, guest: Guest, error: BaseException | None) -> str:
        """Return why an actor that missed its deadline does not answer, as a clause.

        The result is empty if the actor answered, or no signal has stopped it.
        """
        return self._stopped_clause(guest) if isinstance(error, DeadlineError) and not error.answered else ""

    @staticmethod
    def _stopped_clause(guest: Guest) -> str:
        """Return which actors a signal has stopped, as a clause; empty if none.

        A stopped actor keeps its DMABUFs, so they count as left over.
        """
        stopped = ", ".join(map(str, stopped_actors(guest)))
        return f"a signal has stopped the actor (process {stopped})" if stopped else ""


def _read_after_frees(guest: Guest, before: KernelHealth) -> KernelHealth:
    """Return the kernel's state, re-read until released DMABUFs are freed (fput() is deferred).

    The wait ends when there are no more DMABUFs than ``before``, or after SETTLE_SECONDS.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while (now := KernelHealth.of(guest)).dmabufs > before.dmabufs and time.monotonic() < deadline:
        pass
    return now


def _faults(start: MachineState) -> list[Splat]:
    """Return the faults on the console since ``start``."""
    return [splat for splat in start.guest.machine.console.splats(start.mark) if splat.fault]
