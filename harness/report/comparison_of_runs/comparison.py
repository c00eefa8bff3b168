"""The comparison of two runs as a value, from which text, HTML and JSON are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.lib.errors import ExitCode, UsageError
from harness.lib.text import counted
from harness.report.comparison_of_runs.complaints import ComplaintChange, complaint_changes
from harness.report.comparison_of_runs.differences import Difference, Patches, differences, patches
from harness.report.comparison_of_runs.pairs import Category, Pair, pairs
from harness.report.comparison_of_runs.runs import Run, damage, obstacles, read_both
from harness.verdict.verdict import Kind


@dataclass(frozen=True)
class RunComparison:
    """Two runs compared.

    ``notes`` are sentences that a reader has to know.  ``overridden`` are the reasons why the runs
    cannot be compared, which --force overrode.
    """

    before: Run
    after: Run
    pairs: tuple[Pair, ...]
    complaints: tuple[ComplaintChange, ...]
    differences: tuple[Difference, ...]
    patches: Patches | None
    notes: tuple[str, ...]
    overridden: tuple[str, ...]
    forced: bool

    def of(self, *categories: Category) -> tuple[Pair, ...]:
        """Return the pairs of these categories."""
        return tuple(pair for pair in self.pairs if pair.category in categories)

    @property
    def regressions(self) -> tuple[Pair, ...]:
        """The pairs in which the newer series does worse, through its own fault."""
        return tuple(pair for pair in self.pairs if pair.regression)

    @property
    def in_common(self) -> int:
        """The number of scenarios that have a verdict in both runs."""
        apart = (Category.NEW, Category.VANISHED, Category.UNSAID)
        return sum(one.category not in apart and one.shown.entry.kind is Kind.SCENARIO for one in self.pairs)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code: 1 for a regression, 2 if one cannot be excluded, else 0.

        A regression cannot be excluded if no scenario has a verdict in both runs, or if one
        that has a verdict in the older run has none in the newer.  With --force this is accepted.
        """
        if self.regressions:
            return ExitCode.SERIES
        if not self.forced and (not self.in_common or any(pair.loses_knowledge for pair in self.pairs)):
            return ExitCode.HARNESS
        return ExitCode.OK

    @property
    def summary(self) -> str:
        """The sentence at the end: ``v4 fixes 3, breaks 1, inherits 2, keeps 14 of v3's violations.``"""
        broken = [pair for pair in self.of(Category.BROKEN) if not pair.inherited]
        kept = [pair for pair in self.of(Category.STILL) if not pair.inherited]
        inherited = [pair for pair in self.of(Category.BROKEN, Category.STILL) if pair.inherited]
        fixed = self.of(Category.FIXED)
        return (
            f"{self.after.label} fixes {len(fixed)}, breaks {len(broken)}, inherits {len(inherited)}, "
            f"keeps {len(kept)} of {self.before.label}'s violations."
        )

    @property
    def unanswered(self) -> str:
        """A sentence if a regression cannot be excluded; empty otherwise."""
        if not self.in_common:
            return "No scenario has a verdict in both runs, so nothing can be said."
        lost = sum(pair.loses_knowledge for pair in self.pairs)
        if not lost:
            return ""
        return f"Of {counted(lost, 'scenario')} it cannot be said whether {self.after.label} breaks it."


def compare_runs(first: Path, second: Path, *, force: bool = False) -> RunComparison:
    """Compare the run in ``second`` with the older one in ``first``.

    Raises UsageError if the runs cannot be compared, unless ``force`` is true, and HarnessError for
    a folder that holds no run.
    """
    before, after = read_both(first, second)
    reasons = obstacles(before, after)
    if reasons and not force:
        raise UsageError(
            "These runs cannot be compared. " + " ".join(reasons) + " --force compares them nevertheless."
        )
    return RunComparison(
        before,
        after,
        pairs(before, after),
        complaint_changes(before, after),
        differences(before, after),
        patches(before, after),
        tuple(_notes((before, after))),
        reasons,
        force,
    )


def _notes(runs: Iterable[Run]) -> Iterator[str]:
    for run in runs:
        if sentence := damage(run):
            yield sentence
