"""The mutants that a user asks for, in the order of their trials."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from harness.lib import paths
from harness.lib.errors import UsageError
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
    return found if shard is None else _part(found, shard)


def _part(mutants: Sequence[Mutant], shard: str) -> list[Mutant]:
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", shard)
    number, total = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= total:
        raise UsageError(f"--shard {shard!r} is no part: write 2/4 for the second of four.")
    return list(mutants[number - 1 :: total])
