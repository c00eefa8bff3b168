"""Watches: a thread of an actor that loads from a mapping over and over, and keeps every value it saw."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Watched:
    """What a watch saw: loads that went through, faults, and the 32-bit values.

    ``more`` is true if there were more than the 16 values that are kept.
    """

    loads: int
    sigbus: int
    sigsegv: int
    values: frozenset[int]
    more: bool

    @classmethod
    def parse(cls, said: str) -> Watched:
        """From a ``watched`` reply.  Raises ValueError, LookupError if it is none."""
        words = dict(word.split("=") for word in said.split())
        values = [word for word in words["values"].split(",") if word]
        return cls(
            loads=int(words["loads"]),
            sigbus=int(words["sigbus"]),
            sigsegv=int(words["sigsegv"]),
            values=frozenset(int(value, 16) for value in values if value != "more"),
            more="more" in values,
        )
