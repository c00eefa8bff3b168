"""Write a comparison of two runs as one HTML page; the regressions come first and are open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.report.comparison_of_runs import details
from harness.report.comparison_of_runs.comparison import RunComparison
from harness.report.comparison_of_runs.differences import series
from harness.report.comparison_of_runs.sections import Item, sections
from harness.report.evidence import Step
from harness.report.html.environment import environment


@dataclass(frozen=True)
class Shown:
    """An item as it stands on the page."""

    heading: str
    numbers: str
    rows: tuple[details.Row, ...]
    steps: tuple[Step, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A section of the page; ``grave`` if it has a regression."""

    title: str
    pairs: int
    items: tuple[Shown, ...]
    grave: bool


def render(comparison: RunComparison) -> str:
    """Return the comparison as one HTML document without a script."""
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            before=comparison.before,
            after=comparison.after,
            tone="bad" if comparison.regressions else "open" if comparison.unanswered else "good",
            summary=comparison.summary,
            unanswered=comparison.unanswered,
            caveats=[*comparison.overridden, *comparison.notes],
            runs=list(_runs(comparison)),
            patches=comparison.patches,
            same=details.same(comparison),
            sections=[
                Part(
                    section.title,
                    section.pairs,
                    tuple(_shown(item, comparison) for item in section.items),
                    any(pair.regression for item in section.items for pair in item.pairs),
                )
                for section in reversed(sections(comparison))
            ],
            complaints=comparison.complaints,
        )
    )


def _shown(item: Item, comparison: RunComparison) -> Shown:
    return Shown(
        details.heading(item),
        details.numbers(item, comparison),
        tuple(details.rows(item, comparison)),
        details.operations(item, comparison),
        tuple(pair.id for pair in item.pairs),
    )


def _runs(comparison: RunComparison) -> Iterator[tuple[str, str, str]]:
    """Yield the rows that describe both runs: what was tested, and each fact that differs."""
    before, after = comparison.before, comparison.after
    yield "series", series(before), series(after)
    if not any(one.name == "base" for one in comparison.differences):
        yield "base", before.fact("base"), after.fact("base")
    for one in comparison.differences:
        if one.name != "series":
            yield one.name, one.before or "not known", one.after or "not known"
    yield "scenarios", str(len(before.record.scenarios)), str(len(after.record.scenarios))
    # The page may be read on another host, so only the names of the folders tell something.
    yield "run", before.record.run, after.record.run
