"""The record of a run: its entries, results, and splats (complaints); values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.lib.errors import ExitCode
from harness.verdict.case import Case
from harness.verdict.comparison import BaseAnswer, Comparison, Origin, compare
from harness.verdict.detector import Detector
from harness.verdict.deviation import Deviation
from harness.verdict.halving import Since, Try
from harness.verdict.interruption import is_time_limit
from harness.verdict.verdict import ON_KERNEL, SERIES_FAULTS, Kind, Strength, Verdict


def repetition_mark(number: int) -> str:
    """Return the suffix of the id of repetition ``number`` (from 1); it is empty for the first."""
    return f" #{number}" if number > 1 else ""


@dataclass(frozen=True)
class Entry:
    """One entry of the plan; ``id`` is unique in the plan (a pytest node id for a scenario).

    ``strength`` is that of the most binding requirement.  ``repetition`` counts from
    1; the id of every repetition but the first ends with it: ``test_x[c] #2``.
    ``alone`` means that no other scenario runs on its machine, because this one may
    break the kernel.  ``shard`` is the number of the shard that runs it, from 1; it is 0 for a
    stage, which every shard runs, and in a run that is not split.
    """

    id: str
    kind: Kind
    title: str
    requirements: tuple[str, ...] = ()
    expected: Verdict = Verdict.CONFORMS
    strength: Strength = Strength.MUST
    repetition: int = 1
    alone: bool = False
    shard: int = 0

    @property
    def scenario(self) -> str:
        """The id without the number of the repetition; all repetitions share it."""
        return self.id.removesuffix(repetition_mark(self.repetition))

    @property
    def binding(self) -> bool:
        """Return whether a violation is a fault of the series.

        A violation of an ``info`` requirement is a finding if the kernel has no fault.
        """
        return self.strength is not Strength.INFO

    def violated(self, verdict: Verdict, complained: bool) -> bool:
        """Return whether ``verdict`` shows an unexpected fault of the kernel.

        ``complained`` means that the console shows a splat.  An expected violation does
        not cover a splat, unless the scenario may break the kernel (``alone``).  A splat or
        the kernel's death is a fault for a requirement of every strength.
        """
        if verdict not in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
            return False
        if verdict is self.expected:
            return complained and verdict is Verdict.VIOLATES and not self.alone
        return self.binding or complained or verdict is Verdict.KERNEL_DIED

    def judge(self, observed: Verdict) -> Verdict:
        """Return the verdict for ``observed``.

        An unexpected pass is as wrong as a failure: the manifest or the scenario is
        mistaken about this kernel.  It becomes ``unexpectedly-conforms``, except for an
        entry that is not binding.  Every other verdict stays, an expected violation too.
        """
        if self.binding and observed is Verdict.CONFORMS and self.expected is not Verdict.CONFORMS:
            return Verdict.UNEXPECTEDLY_CONFORMS
        return observed


@dataclass(frozen=True)
class ConsoleRange:
    """Bytes ``start`` to ``end`` (excluded) of ``file``, a path relative to the results folder."""

    file: str
    start: int
    end: int


@dataclass(frozen=True)
class Complaint:
    """A splat on the console of an entry; see ``harness.klog.splat.Splat`` for the members.

    The same splat in another run has the same ``fingerprint``.  ``fault`` is false if
    the splat only reports a detector as disabled, or messages as lost.  ``place`` is empty
    if it is that of the fingerprint.
    """

    kind: str
    title: str
    fingerprint: str
    text: str
    fault: bool = True
    place: str = ""


@dataclass(frozen=True)
class Result:
    """An entry of the plan and its result.

    - ``reason`` is a sentence, ``details`` the evidence; both may quote the guest.
    - ``transcript`` is a path relative to the results folder.
    - ``console`` is the part of the console that was written while the entry ran.
    - ``duration`` is in seconds, and None if the entry did not end.
    - ``ended`` is true if the verdict is final; otherwise it is the provisional one.
    - ``noted`` holds the scenario's own findings.
    - ``complaints`` are the splats on the console.  ``without_console`` is the verdict without
      the console's evidence, and None if that is the same verdict.
    - ``deviation`` is what it expected and saw instead; None if it conforms, or did not say.
    - ``failure`` is how it failed, as text that can be compared with another kernel's.
      ``base`` is the result on the base alone, and None if the base was not to be asked.
    - ``cases`` are the results that a test program of the kernel reported.
    - ``refused`` are the operations of the series' interface that the kernel refused.
    - ``tries`` are the prefixes of the series on which the scenario ran (``--bisect``), ``since`` is
      the first patch with which it violates, None if that is not known.
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
    without_console: Verdict | None = None
    failure: str = ""
    deviation: Deviation | None = None
    base: BaseAnswer | None = None
    cases: tuple[Case, ...] = ()
    refused: tuple[str, ...] = ()
    tries: tuple[Try, ...] = ()
    since: Since | None = None

    @property
    def comparison(self) -> Comparison | None:
        """Return the origin of a violation, None for another result or if no base was to be asked."""
        if self.base is None or not self.violated:
            return None
        known = self.base.complaints  # by their places; in earlier runs by their fingerprints
        faults = (
            one.fingerprint if one.fingerprint in known else one.place or one.fingerprint
            for one in self.complaints
            if one.fault
        )
        return compare(self.verdict, self.failure, faults, self.base)

    @property
    def inherited(self) -> bool:
        """Return whether the result is a violation, and the base does the same."""
        return self.comparison is not None and self.comparison.origin is Origin.INHERITED

    @property
    def violated(self) -> bool:
        """Return whether the result shows an unexpected fault of the kernel."""
        return self.ended and self.entry.violated(self.verdict, any(one.fault for one in self.complaints))

    @property
    def left_open(self) -> bool:
        """Return whether the entry began and never ended, so that its verdict is the pessimistic default."""
        return not self.ended and self.verdict in SERIES_FAULTS

    @property
    def on_kernel(self) -> bool:
        """Return whether the entry ended with a verdict on the kernel."""
        return self.ended and self.verdict in ON_KERNEL

    @property
    def is_finding(self) -> bool:
        """Return whether the verdict is reported as a finding: the entry ended and is not binding."""
        notable = self.verdict not in (Verdict.CONFORMS, Verdict.NOT_APPLICABLE)
        return self.ended and not self.entry.binding and notable and not self.violated

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings: those that the scenario noted, and the verdict if it is one."""
        if not self.is_finding:
            return self.noted
        reason = f" ({self.reason})" if self.reason else ""
        return (*self.noted, f"{self.verdict}: {self.entry.title}{reason}")

    @property
    def as_expected(self) -> bool:
        """Return whether nobody needs to look at the result.

        - ``not-applicable`` is always as expected: it has its reason, and may depend on
          the machine (a QEMU without the device).
        - An entry that did not end is never as expected: its ``kernel-died`` is only
          the pessimistic default.
        - An entry that is not binding only has to end without a fault of the kernel.
        """
        acceptable = not self.entry.binding or self.verdict in (self.entry.expected, Verdict.NOT_APPLICABLE)
        return self.ended and acceptable and not self.violated


@dataclass(frozen=True)
class Record:
    """A whole run: plan joined with events, in the order of the plan.

    - ``run`` is the name of the run.
    - ``results`` ends with the entries that only the journal has: machines whose kernel
      had a fault between scenarios, and events without a planned entry (``harness-error``).
    - ``interrupted`` names the signal or the time limit that interrupted the run, or is empty.
      ``complete`` is true if the run came to its own end.  In a resumed run both are
      about the last part.
    - ``started`` is the UTC time of the start in ISO 8601, or empty if the run never
      started; ``resumed`` are those of its other parts.
    - ``machines`` are the names of all machines that were started.
    - ``damage`` lists the contradictions between plan and journal, or is empty.
    - ``detectors`` are the detectors of each machine that came up, by the machine's
      name; the tuple is empty if they had no positive control.
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
    def selftests(self) -> tuple[Result, ...]:
        """The results of the kernel's own test programs."""
        return tuple(result for result in self.results if result.entry.kind is Kind.SELFTEST)

    @property
    def patches(self) -> tuple[Result, ...]:
        """The results of the patches of the series, one by one; empty without ``--bisect``."""
        return tuple(result for result in self.results if result.entry.kind is Kind.PATCH)

    @property
    def differing(self) -> dict[str, tuple[Result, ...]]:
        """The scenarios whose repetitions got more than one verdict, by the scenario's id.

        Each value has the repetitions that ended, in order; the others have no verdict.
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
    def nothing_said(self) -> bool:
        """Return whether applicable scenarios ended, and none of them with a verdict on the kernel."""
        applicable = any(one.ended and one.verdict is not Verdict.NOT_APPLICABLE for one in self.scenarios)
        return applicable and not any(one.on_kernel for one in self.scenarios)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the run: the first of this list that applies.

        1. 130: the run was interrupted, but not by its time limit.
        2. 1: an unexpected result is a fault of the series, which it did not inherit
           from its base.  It stays proven whatever else went wrong, and it explains why
           other entries were not reached: a series that does not apply leaves every
           scenario ``not-reached``.  Only an entry that
           ended proves a fault; a scenario left open may have died with the harness.
        3. 2: another result is not as expected, repetitions of a scenario differ,
           no applicable scenario gave a verdict on the kernel, or
           the run did not come to its own end, or was ended by its time limit.
        4. 3: no scenario was applicable, or none was selected.
        5. 0: every result is as expected.
        """
        unexpected = [one for one in self.results if not one.as_expected and not one.inherited]
        if self.interrupted and not is_time_limit(self.interrupted):
            return ExitCode.INTERRUPTED
        if any(result.ended and result.verdict in SERIES_FAULTS for result in unexpected):
            return ExitCode.SERIES
        if unexpected or self.differing or self.nothing_said or self.interrupted or not self.complete:
            return ExitCode.HARNESS
        if all(result.verdict is Verdict.NOT_APPLICABLE for result in self.scenarios):
            return ExitCode.NOTHING_APPLICABLE
        return ExitCode.OK
