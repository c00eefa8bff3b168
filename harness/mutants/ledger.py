"""What became of the mutants: the journal of their trials, and what it adds up to.

``events.jsonl`` in the results folder grows by one JSON object per line, each on
the disk before the next trial begins:

===================  ============================================================
event                further members
===================  ============================================================
``trial-started``    ``id``, ``key``
``trial-ended``      those of Trial
``control-ended``    ``key``, ``passed``, ``failed``: what the series without a
                     fault made of scenarios that killed a mutant
===================  ============================================================

A trial is known by the digest of what was built, so a mutant that was changed is
tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.lib import jsonl
from harness.lib.errors import ExitCode, HarnessError
from harness.series.mutant import Mutant
from harness.verdict.record import Record, Result
from harness.verdict.words import Kind, Verdict

EVENTS = "events.jsonl"


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    """A scenario that has to catch it unexpectedly failed."""
    MISTAKEN = "killed by the wrong scenario"
    """All of those passed, and another one failed: the mutant or the matrix is mistaken."""
    SURVIVED = "survived"
    ERROR = "error"
    """It does not build, or the harness failed: nothing is known."""


@dataclass(frozen=True)
class MutantTrial:
    """One mutant's trial.

    ``key`` is the digest of what was built, ``suites`` that of what tested it,
    ``control`` the key of the control that it is held against.  ``killer`` is the id
    of a scenario or stage, ``verdict`` what that got, ``results`` the folder of the
    run relative to the results folder.
    """

    id: str
    key: str
    suites: str
    control: str
    fate: Fate
    killer: str = ""
    requirements: tuple[str, ...] = ()
    verdict: str = ""
    reason: str = ""
    results: str = ""
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        """Whether a scenario, right or wrong, has shown the fault."""
        return self.fate in (Fate.KILLED, Fate.MISTAKEN)


@dataclass
class CleanRun:
    """What a series without a fault made of scenarios: their ids, and why those that failed did."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The journal of trials in a results folder, and what it said when it was opened.

    Raises HarnessError if it cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS
        self.trials: dict[str, MutantTrial] = {}
        self.controls: dict[str, CleanRun] = {}
        try:
            jsonl.cut_torn_line(self.path)
            lines = jsonl.whole_lines(self.path)
        except OSError as error:
            raise HarnessError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        for number, raw in enumerate(lines, 1):
            try:
                self._take(json.loads(raw))
            except (ValueError, KeyError, TypeError) as error:
                raise HarnessError(
                    f"Line {number} of {self.path} cannot be read ({error!r}). Delete it to begin anew."
                ) from error

    def started(self, mutant: Mutant, key: str) -> None:
        """A trial begins."""
        self._write("trial-started", id=mutant.id, key=key)

    def ended(self, trial: MutantTrial) -> None:
        """A trial ended."""
        self._write("trial-ended", **asdict(trial))

    def controlled(self, key: str, control: CleanRun) -> None:
        """The series was tried without a fault."""
        self._write(
            "control-ended",
            key=key,
            passed=sorted(control.passed),
            failed=control.failed,
        )

    def is_open(self, trial: MutantTrial) -> bool:
        """Whether its killer was not seen to pass on the series without a fault."""
        return trial.killed and trial.killer not in self.controls.get(trial.control, CleanRun()).passed

    @property
    def settled(self) -> dict[str, MutantTrial]:
        """The trials of which all is known."""
        return {name: trial for name, trial in self.trials.items() if not self.is_open(trial)}

    def is_done(self, mutant: Mutant, key: str, suites: str) -> bool:
        """Whether a mutant need not be tried again.

        It was killed as it should be, and its killer held against the series without
        a fault; or it was tried in any other way, and the scenarios are still the same.
        """
        trial = self.trials.get(mutant.id)
        if trial is None or trial.key != key or trial.fate is Fate.ERROR:
            return False
        return trial.suites == suites or (trial.fate is Fate.KILLED and not self.is_open(trial))

    def _take(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "trial-ended":
                known = {name: event[name] for name in MutantTrial.__dataclass_fields__}
                known |= {"fate": Fate(event["fate"]), "requirements": tuple(event["requirements"])}
                self.trials[known["id"]] = MutantTrial(**known)
            case "control-ended":
                control = self.controls.setdefault(event["key"], CleanRun())
                control.passed |= set(event["passed"])
                control.failed |= dict(event["failed"])

    def _write(self, event: str, **members: object) -> None:
        jsonl.append(self.path, event, **members)
        self._take({"event": event, **members})


def judge(mutant: Mutant, record: Record) -> tuple[Fate, Result | None, str]:
    """What the run of a mutant says: its fate, the scenario or stage that shows it, and why."""
    results = record.results
    shown = next((one for one in results if one.violated), None)
    if shown is not None:
        fate = _fate(mutant, shown)
        if fate is Fate.MISTAKEN:
            for result in results:
                if result.verdict is Verdict.HARNESS_ERROR and _is_right(mutant, result):
                    return Fate.ERROR, result, result.reason
        return fate, shown, shown.reason
    for result in results:
        if result.verdict is Verdict.HARNESS_ERROR or not result.ended:
            return Fate.ERROR, result, result.reason or f"It is {result.verdict}."
    if not record.complete:
        return Fate.ERROR, None, "The run did not come to its end."
    return Fate.SURVIVED, None, f"{len(record.scenarios)} scenarios did not see it"


def _fate(mutant: Mutant, shown_by: Result) -> Fate:
    """What became of a mutant that made this stage or scenario unexpectedly fail."""
    entry = shown_by.entry
    if entry.kind is Kind.STAGE and entry.id in ("apply", "build"):
        return Fate.ERROR
    return Fate.KILLED if _is_right(mutant, shown_by) else Fate.MISTAKEN


def _is_right(mutant: Mutant, result: Result) -> bool:
    """Whether it is a result of a scenario that must catch the mutant."""
    return bool(set(result.entry.requirements) & set(mutant.caught_by))


@dataclass(frozen=True)
class Score:
    """What the trials of some mutants add up to; ``untried`` and ``equivalent`` are mutants."""

    trials: tuple[MutantTrial, ...]
    untried: tuple[Mutant, ...]
    equivalent: tuple[Mutant, ...]

    @classmethod
    def of(cls, mutants: Iterable[Mutant], trials: Mapping[str, MutantTrial]) -> Score:
        """The score of these mutants, of which ``trials`` has those that are settled, by their ids."""
        counted = list(mutants)
        equivalent = tuple(one for one in counted if one.equivalent)
        others = [one for one in counted if not one.equivalent]
        return cls(
            tuple(trials[one.id] for one in others if one.id in trials),
            tuple(one for one in others if one.id not in trials),
            equivalent,
        )

    def with_fate(self, *fates: Fate) -> Iterator[MutantTrial]:
        """The trials that came out in one of these ways."""
        return (trial for trial in self.trials if trial.fate in fates)

    def count(self, *fates: Fate) -> int:
        """How many came out in one of these ways."""
        return sum(1 for _ in self.with_fate(*fates))

    @property
    def total(self) -> int:
        """How many there are to be killed."""
        return len(self.trials) + len(self.untried)

    @property
    def exit_code(self) -> ExitCode:
        """0 if every one was killed as it should be, 1 if one was not, 2 if that cannot be told."""
        if self.count(Fate.SURVIVED, Fate.MISTAKEN):
            return ExitCode.SERIES
        return ExitCode.OK if self.count(Fate.KILLED) == self.total else ExitCode.HARNESS
