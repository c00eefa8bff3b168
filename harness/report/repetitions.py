"""Compare the verdicts of a scenario's repetitions."""

from __future__ import annotations

from collections.abc import Sequence

from harness.verdict.record import Result
from harness.verdict.verdict import Verdict


def tally(results: Sequence[Result]) -> str:
    """Return how often the repetitions of a scenario got each verdict: ``9 conforms, 1 violates (#4)``.

    All but the most frequent verdict have the numbers of their repetitions.
    ``results`` has at least one element.
    """
    most_frequent, *others = _by_verdict(results)
    return ", ".join(
        [
            f"{len(most_frequent)} {most_frequent[0].verdict}",
            *(
                f"{len(each)} {each[0].verdict} ({', '.join(f'#{one.entry.repetition}' for one in each)})"
                for each in others
            ),
        ]
    )


def deviating(results: Sequence[Result]) -> list[Result]:
    """Return the repetitions of a scenario whose verdict is not the most frequent one."""
    return [result for each in _by_verdict(results)[1:] for result in each]


def _by_verdict(results: Sequence[Result]) -> list[list[Result]]:
    """Group results by verdict, the largest group first; of equal groups the one that began first."""
    groups: dict[Verdict, list[Result]] = {}
    for result in results:
        groups.setdefault(result.verdict, []).append(result)
    return sorted(groups.values(), key=lambda each: -len(each))
