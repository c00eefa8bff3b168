"""The mutants that a user asks for, in the order of their trials."""

from __future__ import annotations

from typing import Protocol

from harness.lib import paths
from harness.lib.errors import UsageError
from harness.lib.shard import Shard
from harness.series import mutant
from harness.series.mutant import Mutant
from harness.verdict.requirements import Matrix


class Matcher(Protocol):
    """An expression of -k: called with a text, return whether the text matches."""

    @property
    def text(self) -> str:
        """The expression as the user wrote it."""

    def __call__(self, text: str, /) -> bool: ...


def load(rules: Matrix, only: str | None, matches: Matcher | None, shard: str | None) -> list[Mutant]:
    """Read the mutants that a user asks for, and sort them in the order of their trials.

    ``only`` names a series.  ``matches`` is called with id and subject of each
    mutant.  ``shard`` is "2/4" for the second of four parts.  None selects all.
    Raises UsageError.
    """
    found = mutant.load(paths.PATCHES, rules, only)
    # A kernel with a debugging configuration has a build folder of its own, and is slow: last.
    found.sort(key=lambda one: (one.needs_debug_kernel, one.series, one.name))
    if matches is not None:
        found = [one for one in found if matches(f"{one.id} {one.subject}")]
        if not found:
            raise UsageError(f"No mutant has a name or subject that fits -k {matches.text!r}.")
    if shard is None:
        return found
    part = Shard.parse(shard)
    # Every N-th: neighbours are faults of the same code, and take about the same time.
    return found[part.number - 1 :: part.total]
