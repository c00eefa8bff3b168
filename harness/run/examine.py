"""The health of the kernel, examined during a scenario, after it, and between two."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from harness.actor.reply import DeadlineError
from harness.actor.start import stopped_actors
from harness.guest.guest import Guest
from harness.guest.health import Deterioration, KernelHealth, Symptom
from harness.journal.folder import ResultsFolder
from harness.klog.patterns import PANIC
from harness.klog.splat import Splat
from harness.lib.errors import HarnessError, PatchproofError
from harness.run.machines import Machines
from harness.run.needs import Needs
from harness.run.observation import (
    LOST,
    VIOLATION,
    BlindConsoleError,
    KernelDiedError,
    UnhealthyKernelError,
    observation_of,
)
from harness.verdict.verdict import Verdict
from harness.vm.machine import QEMU_END_SECONDS
from harness.vm.ssh import SshLostError, SshTimeoutError

SETTLE_SECONDS = 2.0  # for the kernel to free what the last process released


@dataclass(frozen=True)
class Seen:
    """The state of a guest when its console stood at ``mark`` (bytes).

    ``healthy`` is None if the kernel's state was not read.
    """

    guest: Guest
    mark: int
    healthy: KernelHealth | None


class Examiner:
    """Compares the health of the kernel with that at the start of a scenario.

    A machine whose kernel is not well is ended.
    """

    def __init__(self, machines: Machines, results: ResultsFolder) -> None:
        self._machines = machines
        self._results = results
        self._left: Seen | None = None  # the machine as the last scenario left it

    def begin(self, needs: Needs) -> Seen:
        """Return a guest for the next scenario, with what is known of its health.

        Raises BootError, HarnessError.
        """
        known = self.aftermath()
        guest = self._machines.guest_for(needs)
        return known if known and known.guest is guest else Seen(guest, guest.machine.console.mark(), None)

    def leave(self, seen: Seen) -> None:
        """Remember how a scenario left its machine, for aftermath()."""
        self._left = seen

    def aftermath(self) -> Seen | None:
        """The machine of the last scenario, as it was seen last, if nothing has happened to it since.

        What the kernel did since the verdict was given cannot be that scenario's any
        more, and is nothing that the next one did: it is the run's.
        """
        guest, before = self._machines.guest, self._left
        if guest is None or before is None or before.guest is not guest:
            return None
        mark = guest.machine.console.mark()
        said = guest.machine.console.splats(before.mark)
        splats = [one for one in said if one.fault]
        unseen = [one for one in said if one.detector_lost]
        if not splats and not unseen and guest.machine.alive():
            return replace(before, mark=mark)
        if splats:
            self._machines.explain(splats)
            self._machines.end(f"the kernel said: {splats[0].title}", Verdict.VIOLATES)
        elif fault := guest.machine.outside_fault():
            self._machines.end(fault)
        elif unseen:
            reason = f"what the kernel complained of may have been missed: {unseen[0].title}"
            self._machines.end(reason, Verdict.HARNESS_ERROR)
        else:
            self._machines.end("the machine ended by itself", Verdict.KERNEL_DIED)
        return None

    def examine(
        self, start: Seen, error: BaseException | None, *, alone: bool, passed: bool
    ) -> KernelHealth | None:
        """Return the kernel's health now; raise if it is worse than at the ``start`` of the scenario.

        ``error`` is what ended a phase of the scenario, if anything did: the kernel's
        failure explains the error, not the other way round.  ``alone`` says that the
        scenario may break its kernel, ``passed`` that no phase before has failed.
        Returns None if the state was not read, or the machine is another one now.

        Raises KernelDiedError, UnhealthyKernelError, HarnessError, and
        BlindConsoleError where nothing else was wrong.  The machine is then ended, as
        it is after an operation that did not end.
        """
        guest = start.guest
        if guest is not self._machines.guest:
            return None
        if alone and isinstance(error, VIOLATION):
            # It may have broken the kernel, as it was meant to.  What such a kernel does
            # when more is asked of it is chance, and no verdict should hang on that.
            splats = _faults(start)
            self._machines.end("a scenario that had it for itself has failed")
            self._raise(splats, [], error, passed)
            return None
        worse: list[str] = []
        changes: list[Deterioration] = []
        unread: PatchproofError | None = None
        latest: KernelHealth | None = None
        lost = isinstance(error, LOST) or not guest.machine.alive()
        if not lost and start.healthy is not None:
            try:
                latest = _settled(guest, start.healthy)
                changes = latest.worse_than(start.healthy)
                worse = [one.text for one in changes]
            except SshTimeoutError as stuck:
                lost = True
                worse = [f"the kernel's state cannot be read: {stuck.message}"]
            except (HarnessError, *LOST) as unreadable:
                lost = isinstance(unreadable, LOST)
                unread = unreadable
        if lost and (death := self._death(start, error)):
            self._machines.end(death)
            raise KernelDiedError(f"The kernel died: {death}") from error
        if lost:
            self._machines.end(f"an operation did not end: {error or unread or worse[0]}")
        # The console last: a kernel that is damaged may show it only when it is asked.
        splats = _faults(start)
        if [one.symptom for one in changes] == [Symptom.LOCKDEP] and not splats and error is None:
            self._machines.end(worse[0])
            raise HarnessError(f"{worse[0].capitalize()} and has found nothing: it has no room left.")
        if worse and not splats and not lost and (fault := self._stopped(guest)):
            self._machines.end(fault)
            raise HarnessError(f"The scenario was cut off: {fault}.") from error
        self._raise(splats, worse, error, passed)
        if unread is not None and error is None:
            self._machines.end(f"its kernel's state cannot be read: {unread.message}")
            raise HarnessError(f"The kernel's state cannot be read: {unread.message}") from unread
        if error is None:
            self._require_sight(start)
        return latest

    def _raise(
        self, splats: list[Splat], worse: list[str], error: BaseException | None, passed: bool
    ) -> None:
        """Hold against the kernel what the console said, and what else is ``worse`` than before."""
        if not splats and not worse:
            return
        for one in splats:
            if one.kind == PANIC:  # in the moment since its state was read
                self._machines.end(one.title)
                raise KernelDiedError(f"The kernel died: {one.title}") from error
        said = [f"the kernel said: {splat.title}" for splat in splats]
        complaints = "; ".join([*said, *worse])
        self._machines.end([*said, *worse][0])
        passed = passed and error is None
        silent = Verdict.CONFORMS if error is None else observation_of(error, "").verdict
        raise UnhealthyKernelError(
            f"The scenario passed, but {complaints}" if passed else complaints,
            None if worse else silent,
            told=bool(splats),
        ) from error

    def _require_sight(self, start: Seen) -> None:
        """Raise BlindConsoleError if a complaint may have been missed."""
        unseen = [one for one in start.guest.machine.console.splats(start.mark) if one.detector_lost]
        if unseen:
            self._machines.end(unseen[0].title)
            raise BlindConsoleError(
                f"What the kernel complained of may have been missed: {unseen[0].title}. A verdict needs "
                "a kernel log that is whole."
            )

    def _death(self, start: Seen, error: BaseException | None) -> str:
        """How the kernel died, empty if it lives.

        Raises HarnessError if something was done to the machine, or to the actor, that
        the kernel cannot help.
        """
        guest = start.guest
        if guest.machine.alive():
            guest.machine.wait_ended(QEMU_END_SECONDS)
        said = _faults(start)
        fault = "" if said else guest.machine.outside_fault()
        answers = not fault and guest.machine.alive() and self._answers(guest)
        if answers and not said:
            fault = self._actors_fault(guest, error)
        if fault:
            self._machines.end(fault)
            raise HarnessError(f"The scenario was cut off: {fault}.") from error
        if answers:
            return ""
        if guest.machine.alive():
            path, fault = guest.machine.dump_processors()
            where = f"where its processors are stands in {path.relative_to(self._results.dir)}"
            if fault:
                self._machines.end(fault)
                raise HarnessError(f"The scenario was cut off: {fault} ({where}).") from error
            return f"it does not answer any more ({where})"
        return said[0].title if said else "the machine ended by itself"

    @staticmethod
    def _answers(guest: Guest) -> bool:
        try:
            return guest.run(["true"]).status == 0
        except SshTimeoutError:
            return False
        except SshLostError:
            return guest.machine.can_log_in()

    def _actors_fault(self, guest: Guest, error: BaseException | None) -> str:
        """What was done to the actor that does not answer, as a clause; empty if nothing was."""
        return self._stopped(guest) if isinstance(error, DeadlineError) and not error.answered else ""

    @staticmethod
    def _stopped(guest: Guest) -> str:
        """Which actors do nothing any more, and so keep what they have, as a clause; empty if none."""
        stopped = ", ".join(map(str, stopped_actors(guest)))
        return f"a signal has stopped the actor (process {stopped})" if stopped else ""


def _settled(guest: Guest, before: KernelHealth) -> KernelHealth:
    """The kernel's state once what was let go is gone: the last reference to a file is put a little later."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (now := KernelHealth.of(guest)).dmabufs > before.dmabufs and time.monotonic() < deadline:
        pass
    return now


def _faults(start: Seen) -> list[Splat]:
    """Return what the kernel has complained of since ``start``."""
    return [splat for splat in start.guest.machine.console.splats(start.mark) if splat.fault]
