"""The record of a run as values: entries, results, complaints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.lib.errors import ExitCode
from harness.verdict.detector import Detector
from harness.verdict.words import SERIES_FAULTS, Kind, Strength, Verdict


def repetition_mark(number: int) -> str:
    """What tells a repetition from the others of its scenario; nothing for the first."""
    return f" #{number}" if number > 1 else ""


@dataclass(frozen=True)
class Entry:
    """One line of the plan; ``id`` is unique in it (a pytest node id for a scenario).

    ``strength`` is that of the most binding requirement.  ``repetition`` counts from
    1; the id of every repetition but the first ends with it: ``test_x[c] #2``.
    ``alone`` says that it has its machine for itself, since it may break the kernel.
    """

    id: str
    kind: Kind
    title: str
    requirements: tuple[str, ...] = ()
    expected: Verdict = Verdict.CONFORMS
    strength: Strength = Strength.MUST
    repetition: int = 1
    alone: bool = False

    @property
    def scenario(self) -> str:
        """What all repetitions of it have in common: the id without its number."""
        return self.id.removesuffix(repetition_mark(self.repetition))

    @property
    def binding(self) -> bool:
        """Whether a violation is held against the series; else it is a finding, if the kernel is well."""
        return self.strength is not Strength.INFO

    def violated(self, verdict: Verdict, complained: bool) -> bool:
        """Whether this verdict shows a fault of the kernel that nobody expected.

        ``complained`` tells whether the kernel said so itself, on its console.  Who
        expects a wrong answer expects no complaint, unless the scenario may break the
        kernel; and no answer is so open that the kernel may complain or die of it.
        """
        if verdict not in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
            return False
        if verdict is self.expected:
            return complained and verdict is Verdict.VIOLATES and not self.alone
        return self.binding or complained or verdict is Verdict.KERNEL_DIED

    def judge(self, observed: Verdict) -> Verdict:
        """The verdict on what was observed.

        A pass that nobody expected is as wrong as a failure: either the manifest
        or the scenario is mistaken about this kernel.  All else is told as observed;
        a violation that was expected stays ``violates``, and of what is not binding
        nothing is expected.
        """
        if self.binding and observed is Verdict.CONFORMS and self.expected is not Verdict.CONFORMS:
            return Verdict.UNEXPECTEDLY_CONFORMS
        return observed


@dataclass(frozen=True)
class ConsoleRange:
    """Bytes ``start`` (included) to ``end`` (left out) of ``file`` in the results folder."""

    file: str
    start: int
    end: int


@dataclass(frozen=True)
class Complaint:
    """What the kernel complained of: its kind, first telling line and whole text.

    The same complaint of another run has the same ``fingerprint``.  ``fault`` is
    false if it only says that a detector could not see.
    """

    kind: str
    title: str
    fingerprint: str
    text: str
    fault: bool = True


@dataclass(frozen=True)
class Result:
    """An entry of the plan and what became of it.

    ``reason`` is a sentence, ``details`` the evidence; both may quote the guest.
    ``transcript`` is a path relative to the results folder, ``duration`` is in
    seconds and None for what did not end, ``ended`` tells whether the verdict was
    given or is the one that stands until it is given; ``noted`` are the scenario's
    own findings; ``complaints`` what was found on the console, and ``silent`` the
    verdict had nothing been there, if it is another.
    """

    entry: Entry
    verdict: Verdict = Verdict.NOT_REACHED
    reason: str = ""
    details: str = ""
    transcript: str = ""
    console: ConsoleRange | None = None
    duration: float | None = None
    ended: bool = False
    noted: tuple[str, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    silent: Verdict | None = None

    @property
    def violated(self) -> bool:
        """Whether it shows a fault of the kernel that nobody expected."""
        return self.ended and self.entry.violated(self.verdict, any(one.fault for one in self.complaints))

    @property
    def is_finding(self) -> bool:
        """Whether the verdict is to be told and held against nobody: the entry ended, and is not binding."""
        told = self.verdict not in (Verdict.CONFORMS, Verdict.NOT_APPLICABLE)
        return self.ended and not self.entry.binding and told and not self.violated

    @property
    def findings(self) -> tuple[str, ...]:
        """What to tell a reader beside the verdict: what was noted, and the verdict if it is a finding."""
        if not self.is_finding:
            return self.noted
        why = f" ({self.reason})" if self.reason else ""
        return (*self.noted, f"{self.verdict}: {self.entry.title}{why}")

    @property
    def as_expected(self) -> bool:
        """Whether nobody needs to look at this.

        ``not-applicable`` never surprises: it carries its reason, and whether it
        is seen may hang on the machine (a QEMU without the device).  What did not
        end never is as expected: ``kernel-died`` is then only the pessimistic guess.
        What is not binding has to end, and to leave the kernel well.
        """
        well = not self.entry.binding or self.verdict in (self.entry.expected, Verdict.NOT_APPLICABLE)
        return self.ended and well and not self.violated


@dataclass(frozen=True)
class Record:
    """A whole run: plan joined with events, in the order of the plan.

    ``results`` ends with what the journal holds beyond the plan, as
    ``harness-error``.  ``interrupted`` says by what (a signal), or is empty;
    ``complete`` tells whether the run came to its own end; both are about its last
    part, if it was resumed.  ``started`` is the UTC time of its beginning in ISO
    8601, empty if it never started, ``resumed`` those of its other parts;
    ``machines`` are the names of all that it ever started; ``damage`` says where plan
    and journal contradict each other, if they do.
    ``detectors`` are what is known of each machine's, by its name; nothing of one
    that was up and whose detectors were shown nothing.
    """

    run: str
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()
    interrupted: str = ""
    complete: bool = False
    started: str = ""
    resumed: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    damage: str = ""
    detectors: Mapping[str, tuple[Detector, ...]] = field(default_factory=dict)

    @property
    def scenarios(self) -> tuple[Result, ...]:
        """The results that are scenarios."""
        return tuple(result for result in self.results if result.entry.kind is Kind.SCENARIO)

    @property
    def differing(self) -> dict[str, tuple[Result, ...]]:
        """The scenarios whose repetitions got more than one verdict: those that got one, in order.

        What was not reached, or did not end, got none.
        """
        given: dict[str, list[Result]] = {}
        for result in self.scenarios:
            if result.ended:
                given.setdefault(result.entry.scenario, []).append(result)
        return {
            name: tuple(sorted(results, key=lambda result: result.entry.repetition))
            for name, results in given.items()
            if len({result.verdict for result in results}) > 1
        }

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the run.  The first that holds, in this order:

        1. 130: the run was interrupted; the user knows why it says little.
        2. 1: something is the series' fault.  It stays proven whatever else went
           wrong, and it explains why the rest was not reached (a series that does
           not apply leaves every scenario ``not-reached``).  Only a verdict that was
           given proves it: a scenario left open may have died with the harness.
        3. 2: something has no verdict, or not the same in each repetition, or the run
           did not come to its end.
        4. 3: no scenario was applicable, or none was selected.
        5. 0: all as expected.
        """
        unexpected = [result for result in self.results if not result.as_expected]
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if any(result.ended and result.verdict in SERIES_FAULTS for result in unexpected):
            return ExitCode.SERIES
        if unexpected or self.differing or not self.complete:
            return ExitCode.HARNESS
        if all(result.verdict is Verdict.NOT_APPLICABLE for result in self.scenarios):
            return ExitCode.NOTHING_APPLICABLE
        return ExitCode.OK
