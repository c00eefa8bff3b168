"""Do a scenario of a stored run again, by its transcript, and say whether it shows again what it showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness.actor.reply import DeadlineError
from harness.actor.steps import Step
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.lib.errors import BootError, HarnessError, PatchproofError, UsageError
from harness.report.comparison_of_runs.transcripts import Operation, kind
from harness.run.claim import LEFTOVER, Claim, Kind
from harness.run.error_to_verdict import Phase
from harness.run.examine_kernel import Examiner
from harness.run.machines import Machines, TestedSoftware
from harness.run.needs import Needs
from harness.run.player import Player, without_waiting
from harness.run.request import Request
from harness.run.scenario import ScenarioRun
from harness.verdict.record import Complaint, Result
from harness.verdict.verdict import Verdict
from harness.vm.pci_devices import Layout

TAINT_OF_FENCES = 14  # sw_sync sets this bit: Documentation/admin-guide/tainted-kernels.rst


class Outcome(Enum):
    """The outcome of a try: the claim shows again, or the kernel conforms now, or neither can be said."""

    CONFORMS = 0
    SHOWN = 1
    UNSAID = 2


@dataclass(frozen=True)
class Played:
    """A step that was done again, and its reply now; None without one."""

    step: Step
    now: str | None

    @property
    def repeated(self) -> bool:
        """True if the reply is that of the run, or the run recorded none."""
        return self.step.reply is None or (self.now is not None and self.step.repeats(self.now))

    @property
    def differs(self) -> bool:
        """True if the reply is another one than in the run, and no measurement."""
        return not self.step.measured and not self.repeated

    @property
    def differs_in_kind(self) -> bool:
        """True if the reply also has another errno or signal, or succeeds where the other did not."""
        replies = (self.step.reply or "", self.now or "")
        first, second = (kind(Operation(self.step.text, reply, self.step.line)) for reply in replies)
        return self.differs and first != second


@dataclass(frozen=True)
class Attempt:
    """One try: its ``outcome`` and a sentence why, what was done, and what the kernel complained of now.

    ``error`` is what ended it early, None if all steps were done.  ``folder`` has its files.
    """

    outcome: Outcome
    sentence: str
    played: tuple[Played, ...]
    result: Result
    error: PatchproofError | None
    folder: Path

    @property
    def differences(self) -> tuple[Played, ...]:
        """The steps before the last one whose replies differ from the run's."""
        return tuple(one for one in self.played if one.differs)


class Reproducer:
    """Tries a claim of a stored ``result`` on the same software; each try has a machine of its own."""

    def __init__(
        self, claim: Claim, result: Result, software: TestedSoftware, request: Request, root: Path
    ) -> None:
        self._claim = claim
        self._result = result
        self._software = software
        self._request = request
        self._root = root
        self._needs = needs_of(claim, result)

    def attempt(self) -> Attempt:
        """Boot a machine, do the steps, and decide.  Raises HarnessError."""
        results = ResultsFolder.create(self._root, self._result.entry.id.rpartition("::")[2])
        journal = results.journal()
        machines = Machines(self._request, results, journal)
        machines.software = self._software
        entry = self._result.entry
        try:
            journal.plan((entry,))
            journal.run_started()
            scenario = ScenarioRun(
                entry,
                self._needs,
                machines=machines,
                examiner=Examiner(machines, results),
                results=results,
                journal=journal,
            )
            scenario.begin()
            try:
                scenario.guest()
            except BootError as fault:  # the kernel's fault in a run, and no answer to this claim
                raise HarnessError(f"The kernel did not come up this time: {fault.message}") from fault
            played, error = self._play(scenario)
            scenario.end()
            journal.run_ended()
        finally:
            machines.close()
            journal.unlock()
        now = next(one for one in read(results.dir).results if one.entry.id == entry.id)
        outcome, sentence = decide(self._claim, self._result, played, now, error)
        return Attempt(outcome, sentence, tuple(played), now, error, results.dir)

    def _play(self, scenario: ScenarioRun) -> tuple[list[Played], PatchproofError | None]:
        """Do the steps; return them with their replies, and the error that ended them."""
        player = Player(scenario, self._claim.recording.devices)
        played: list[Played] = []
        error: PatchproofError | None = None
        try:
            with player.cleaned_up():
                for step in without_waiting(self._claim.needed):
                    played.append(Played(step, None))
                    played[-1] = Played(step, player.play(step))
        except PatchproofError as failure:
            error = failure
        try:
            scenario.examine(error)
        except PatchproofError as failure:
            scenario.observe(Phase.CALL, failure, "")
        else:
            scenario.observe(Phase.CALL, error, "")
        return played, error


def needs_of(claim: Claim, result: Result) -> Needs:
    """Return the machine that a transcript names.  Raises UsageError if it names none."""
    try:
        layout = Layout.parse(claim.recording.machine)
    except ValueError as error:
        raise UsageError(f"The transcript does not tell the machine that it needs: {error}.") from error
    fences = any(step.verb == "timeline" for step in claim.recording.steps)
    taints = frozenset({TAINT_OF_FENCES} if fences else ())
    return Needs(layout, fresh=True, alone=result.entry.alone, taints=taints)


def decide(
    claim: Claim, before: Result, played: Sequence[Played], now: Result, error: PatchproofError | None
) -> tuple[Outcome, str]:
    """Return what a try says about a claim, and a sentence why."""
    complaints = [one for one in now.complaints if one.fault]
    match claim.kind:
        case Kind.REPLY:
            return _decide_reply(claim, played, error)
        case Kind.SILENCE:
            last = played[-1] if played else None
            silent = isinstance(error, DeadlineError) or (last and (last.now or "").startswith("timeout"))
            if silent and last and last.step.line == claim.line:
                return Outcome.SHOWN, "The deadline was missed, as in the run."
            if error is None:
                return Outcome.CONFORMS, "The operation ended in time."
        case Kind.DEATH:
            if now.verdict is Verdict.KERNEL_DIED:
                return Outcome.SHOWN, "The kernel died, as in the run."
            if error is None and not complaints:
                return Outcome.CONFORMS, "The kernel lives, and complained of nothing."
        case Kind.COMPLAINT:
            known = {place for one in before.complaints if one.fault for place in _places(one)}
            if any(known & _places(one) for one in complaints):
                return Outcome.SHOWN, "The kernel complained of the same, in the same place."
            if error is None and not complaints:
                return Outcome.CONFORMS, "The kernel complained of nothing."
        case Kind.LEFTOVER:
            if LEFTOVER in now.reason:
                return Outcome.SHOWN, "DMABUFs are left over, as in the run."
            if error is None and now.verdict is Verdict.CONFORMS:
                return Outcome.CONFORMS, "No DMABUF is left over."
        case Kind.ANSWERS:
            different = [one for one in played if one.differs or (one.step.measured and not one.repeated)]
            if error is None and not different:
                return Outcome.SHOWN, "All replies are those of the run."
            if error is None and not complaints:
                return Outcome.UNSAID, f"Line {different[0].step.line} was answered in another way."
        case Kind.CONFORMS:
            different = [one for one in played if one.differs]
            if error is None and not different and now.verdict is Verdict.CONFORMS:
                return Outcome.CONFORMS, "All replies are those of the run, which conformed."
            if different and error is None and not complaints:
                return Outcome.UNSAID, f"Line {different[0].step.line} was answered in another way."
    if complaints:
        return Outcome.UNSAID, f"The kernel complained of something else: {complaints[0].title}."
    if error is not None:
        return Outcome.UNSAID, f"The steps could not all be done: {error.message}"
    return Outcome.UNSAID, f"Something else is wrong now: {now.reason or now.verdict}"


def _decide_reply(
    claim: Claim, played: Sequence[Played], error: PatchproofError | None
) -> tuple[Outcome, str]:
    last = played[-1] if played else None
    if last is None or last.step.line != claim.line or last.now is None:
        why = error.message if error is not None else "it has no reply."
        return Outcome.UNSAID, f"The operation that decided was not answered: {why}"
    step, now = last.step, last.now
    if step.conforms(now):
        return Outcome.CONFORMS, "The reply is the expected one."
    if step.wanted and step.repeats(now):
        return Outcome.SHOWN, "The reply is that of the run."
    earlier = next((one for one in played[:-1] if one.differs_in_kind), None)
    if earlier is not None:
        return Outcome.UNSAID, f"Line {earlier.step.line} was already answered in another way."
    if step.repeats(now):
        return Outcome.SHOWN, "The reply is that of the run."
    if step.wanted:
        return Outcome.SHOWN, "The reply is neither the expected one nor that of the run."
    return Outcome.UNSAID, "The reply is another one than in the run."


def _places(complaint: Complaint) -> set[str]:
    return {complaint.fingerprint, complaint.place or complaint.fingerprint}


@dataclass(frozen=True)
class CachedModule:
    """The test importer in the cache, None if it is not there."""

    found: Path | None

    def path(self) -> Path:
        """Return its file; raise HarnessError if it is not in the cache."""
        if self.found is None:
            raise HarnessError(
                "The test importer for the kernel of this run is not in the cache. Run a scenario of "
                "suites/test_importer_map.py on this kernel, which builds it."
            )
        return self.found
