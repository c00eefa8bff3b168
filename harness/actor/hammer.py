"""Hammers: threads of an actor that keep accessing a mapping, even after it was revoked."""

from __future__ import annotations

from dataclasses import dataclass, fields

from harness.actor.session import Session
from harness.lib.text import counted


@dataclass(frozen=True)
class Counts:
    """The accesses of one hammer thread, on ``cpu``: successful ones, and those that ended in a signal.

    ``sigbus`` counts BUS_ADRERR at the exact address of the access, ``other`` any
    other SIGBUS.
    """

    cpu: int
    stored: int
    loaded: int
    sigbus: int
    sigsegv: int
    other: int

    def __str__(self) -> str:
        return (
            f"{counted(self.stored, 'store')} and {counted(self.loaded, 'load')} that landed, {self.sigbus} "
            f"SIGBUS at the address, {self.sigsegv} SIGSEGV and {self.other} other SIGBUS on CPU {self.cpu}"
        )

    @property
    def landed(self) -> int:
        """The number of accesses that reached the device."""
        return self.stored + self.loaded

    @classmethod
    def parse(cls, word: str) -> Counts:
        """Parse a word of a ``hammered`` reply.  Raises ValueError, LookupError."""
        counts = dict(pair.split("=") for pair in word.split(","))
        return cls(**{field.name: int(counts[field.name]) for field in fields(cls)})


@dataclass(frozen=True)
class Hammer:
    """A running hammer of ``threads`` threads; ``name`` is its name in the actor.

    ``accesses_per_round`` is the number of accesses in which a thread visits every place once.
    """

    actor: Session
    name: str
    threads: int
    accesses_per_round: int

    def counts(self, more: int = 0, deadline: int | None = None) -> tuple[Counts, ...]:
        """Return the counts of each thread, after each has begun and ended ``more`` further accesses.

        Raises DeadlineError if that takes more than ``deadline`` seconds.  The default is
        10 s and 1 ms for each access, fifty times what a fault takes under emulation.
        """
        seconds = deadline or 10 + more * self.threads // 1000
        return self.actor.read(_parse, "hammered", self.name, more=more or None, deadline=seconds)

    def stop(self) -> tuple[Counts, ...]:
        """End the hammer; return the counts of each thread.  DeadlineError if one is stuck in an access."""
        return self.actor.read(_parse, "unhammer", self.name)


def _parse(reply: str) -> tuple[Counts, ...]:
    counts = tuple(map(Counts.parse, reply.split()))
    if not counts:
        raise ValueError("a hammer without threads")
    return counts
