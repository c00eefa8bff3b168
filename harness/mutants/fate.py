"""The fate of a mutant: killed, survived, or an error of the trial."""

from __future__ import annotations

from enum import StrEnum

from harness.series.mutant import Mutant
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Kind, Verdict


class Fate(StrEnum):
    """The outcome of a mutant's trial."""

    KILLED = "killed"
    """A scenario that must catch the mutant unexpectedly failed."""
    MISTAKEN = "killed by the wrong scenario"
    """The scenarios that must catch the mutant passed, and another one failed.

    The mutant or the matrix of requirements is mistaken.
    """
    SURVIVED = "survived"
    ERROR = "error"
    """The mutant does not build, or the harness failed: nothing is known."""


def judge(mutant: Mutant, record: Record) -> tuple[Fate, Result | None, str]:
    """Return the fate of a mutant by the record of its run, the result that shows it, and the reason.

    The result is None for a mutant that survived, and for a run without an end.
    """
    results = record.results
    violation = next((one for one in results if one.violated), None)
    if violation is not None:
        fate = _fate(mutant, violation)
        if fate is Fate.MISTAKEN:
            for result in results:
                if result.verdict is Verdict.HARNESS_ERROR and _is_right(mutant, result):
                    return Fate.ERROR, result, result.reason
        return fate, violation, violation.reason
    for result in results:
        if result.verdict is Verdict.HARNESS_ERROR or not result.ended:
            return Fate.ERROR, result, result.reason or f"It is {result.verdict}."
    if not record.complete:
        return Fate.ERROR, None, "The run did not come to its end."
    return Fate.SURVIVED, None, f"{len(record.scenarios)} scenarios did not see it"


def _fate(mutant: Mutant, shown_by: Result) -> Fate:
    """Return the fate of a mutant on which this stage or scenario unexpectedly failed."""
    entry = shown_by.entry
    if entry.kind is Kind.STAGE and entry.id in ("apply", "build"):
        return Fate.ERROR
    return Fate.KILLED if _is_right(mutant, shown_by) else Fate.MISTAKEN


def _is_right(mutant: Mutant, result: Result) -> bool:
    """Return whether the scenario of ``result`` must catch the mutant."""
    return bool(set(result.entry.requirements) & set(mutant.caught_by))
