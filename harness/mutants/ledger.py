"""The journal of the trials of mutants, the fate of each mutant, and the score.

``events.jsonl`` in the results folder has one JSON object per line, each on the
disk before the next trial begins:

===================  ============================================================
event                further members
===================  ============================================================
``trial-started``    ``id``, ``key``
``trial-ended``      the fields of MutantTrial
``control-ended``    ``key``, ``passed``, ``failed``: the results of scenarios
                     that killed a mutant on the series without a fault
===================  ============================================================

The key of a trial is the digest of the built series and configuration, so a
changed mutant is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.lib import jsonl
from harness.lib.errors import ExitCode, HarnessError
from harness.mutants.fate import Fate
from harness.series.mutant import Mutant
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Kind, Verdict

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class MutantTrial:
    """The trial of one mutant.

    ``key`` is the digest of the built series and configuration, ``suites`` the
    digest of the harness and the scenarios, ``control`` the key of the control on
    which the killer must pass.  ``killer`` is the id of the scenario or stage that
    shows the fault, with its ``requirements``, ``verdict`` and ``reason``.
    ``results`` is the folder of the run, relative to the results folder.
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
        """Return whether any scenario or stage showed the fault."""
        return self.fate in (Fate.KILLED, Fate.MISTAKEN)

    def ended(
        self, fate: Fate, shown_by: Result | None, reason: str, *, run: str, seconds: float
    ) -> MutantTrial:
        """Return the trial with the judgement of judge() about its run, whose folder has the name ``run``."""
        trial = replace(
            self, fate=fate, reason=reason, results=f"{self.results}/{run}", seconds=round(seconds, 1)
        )
        if shown_by is None:
            return trial
        entry = shown_by.entry
        return replace(trial, killer=entry.id, requirements=entry.requirements, verdict=shown_by.verdict)


@dataclass
class CleanRun:
    """Results of scenarios on a series without a fault: ids that passed, and reasons by id that failed."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record, killers: Iterable[str]) -> CleanRun:
        """Return the results of a run; ``killers`` are the ids to be confirmed by it.

        A complaint of the kernel between scenarios has an id ``machine-N``, whose number says nothing in
        another run.  Without such a result in the record, every killer of that kind counts as passed.
        """
        found = cls()
        for result in record.results:
            if result.ended and result.verdict is Verdict.CONFORMS:
                found.passed.add(result.entry.id)
            elif not result.as_expected:
                found.failed[result.entry.id] = result.reason
        if not any(result.entry.kind is Kind.MACHINE for result in record.results):
            found.passed |= {one for one in killers if one.startswith("machine-")}
        return found


class Ledger:
    """The journal of trials in a results folder, read at the start and appended to.

    ``trials`` has the latest trial by mutant id, ``controls`` the control runs by
    key.  Raises HarnessError if the file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS
        self.trials: dict[str, MutantTrial] = {}
        self.controls: dict[str, CleanRun] = {}
        try:
            jsonl.remove_unfinished_line(self.path)
            lines = jsonl.whole_lines(self.path)
        except OSError as error:
            raise HarnessError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        for number, raw in enumerate(lines, 1):
            try:
                self._apply(json.loads(raw))
            except (ValueError, KeyError, TypeError) as error:
                raise HarnessError(
                    f"Line {number} of {self.path} cannot be read ({error!r}). Delete it to begin anew."
                ) from error

    def started(self, mutant: Mutant, key: str) -> None:
        """Record that a trial begins."""
        self._write("trial-started", id=mutant.id, key=key)

    def ended(self, trial: MutantTrial) -> None:
        """Record that a trial ended."""
        self._write("trial-ended", **asdict(trial))

    def controlled(self, key: str, control: CleanRun) -> None:
        """Record the results of a control run."""
        self._write(
            "control-ended",
            key=key,
            passed=sorted(control.passed),
            failed=control.failed,
        )

    def is_unconfirmed(self, trial: MutantTrial) -> bool:
        """Return whether the trial has a killer that has not passed on the series without a fault yet."""
        return trial.killed and trial.killer not in self.controls.get(trial.control, CleanRun()).passed

    @property
    def confirmed(self) -> dict[str, MutantTrial]:
        """Return by mutant id the trials that are not open."""
        return {name: trial for name, trial in self.trials.items() if not self.is_unconfirmed(trial)}

    def is_done(self, mutant: Mutant, key: str, suites: str) -> bool:
        """Return whether a mutant need not be tried again.

        True if the right scenario killed the mutant and has passed on the series without
        a fault, or if the mutant was tried by the same ``suites``.  An error is tried again.
        """
        trial = self.trials.get(mutant.id)
        if trial is None or trial.key != key or trial.fate is Fate.ERROR:
            return False
        return trial.suites == suites or (trial.fate is Fate.KILLED and not self.is_unconfirmed(trial))

    def _apply(self, event: Mapping[str, Any]) -> None:
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
        self._apply({"event": event, **members})


@dataclass(frozen=True)
class Score:
    """The trials of some mutants, and the mutants that are ``untried`` or ``equivalent``."""

    trials: tuple[MutantTrial, ...]
    untried: tuple[Mutant, ...]
    equivalent: tuple[Mutant, ...]

    @classmethod
    def of(cls, mutants: Iterable[Mutant], trials: Mapping[str, MutantTrial]) -> Score:
        """Return the score of these mutants; ``trials`` has the settled trials by mutant id."""
        counted = list(mutants)
        equivalent = tuple(one for one in counted if one.equivalent)
        others = [one for one in counted if not one.equivalent]
        return cls(
            tuple(trials[one.id] for one in others if one.id in trials),
            tuple(one for one in others if one.id not in trials),
            equivalent,
        )

    def with_fate(self, *fates: Fate) -> Iterator[MutantTrial]:
        """Yield the trials with one of these fates."""
        return (trial for trial in self.trials if trial.fate in fates)

    def count(self, *fates: Fate) -> int:
        """Return the number of trials with one of these fates."""
        return sum(1 for _ in self.with_fate(*fates))

    @property
    def total(self) -> int:
        """Return the number of mutants that scenarios must kill."""
        return len(self.trials) + len(self.untried)

    @property
    def exit_code(self) -> ExitCode:
        """Return OK if every mutant is KILLED, SERIES if one is SURVIVED or MISTAKEN, else HARNESS."""
        if self.count(Fate.SURVIVED, Fate.MISTAKEN):
            return ExitCode.SERIES
        return ExitCode.OK if self.count(Fate.KILLED) == self.total else ExitCode.HARNESS
