"""Foreign text made harmless: what a guest says must steer neither a terminal nor an XML parser."""

from __future__ import annotations

from collections.abc import Sequence

from harness.verdict.record import Result
from harness.verdict.words import Verdict


def tally(results: Sequence[Result]) -> str:
    """How often the repetitions of a scenario got each verdict, and which got the rarer ones.

    For example ``9 conforms, 1 violates (#4)``.
    """
    usual, *others = _by_verdict(results)
    return ", ".join(
        [
            f"{len(usual)} {usual[0].verdict}",
            *(
                f"{len(each)} {each[0].verdict} ({', '.join(f'#{one.entry.repetition}' for one in each)})"
                for each in others
            ),
        ]
    )


def deviating(results: Sequence[Result]) -> list[Result]:
    """The repetitions of a scenario whose verdict is not the most frequent."""
    return [result for each in _by_verdict(results)[1:] for result in each]


def _by_verdict(results: Sequence[Result]) -> list[list[Result]]:
    groups: dict[Verdict, list[Result]] = {}
    for result in results:
        groups.setdefault(result.verdict, []).append(result)
    return sorted(groups.values(), key=lambda each: -len(each))
