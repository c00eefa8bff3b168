"""A shard: one of several parts of a selection, each for a machine of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.lib.errors import UsageError

FIRST = 1  # the number of the shard that also does what is done once in all shards


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` (from 1) of ``total``; as text ``2/4``."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that an option names, ``2/4``.  Raises UsageError."""
        found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
        number, total = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= total:
            raise UsageError(f"--shard {text!r} is no part: write 2/4 for the second of four.")
        return cls(number, total)

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def cut(weights: Sequence[float], total: int) -> list[int]:
    """Return the number, from 1 to ``total``, of the shard of each element of a sequence.

    Each shard is one piece of the sequence; it is empty if there are fewer elements than
    shards.  The pieces have about the same weight.  A weight is positive.
    """
    whole, before = sum(weights), 0.0
    numbers = []
    for weight in weights:
        # By its middle, so that a heavy element is in the piece that has most of it.
        numbers.append(min(int((before + weight / 2) / whole * total), total - 1) + 1)
        before += weight
    return numbers
