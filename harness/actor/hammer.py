"""Hammers: threads of an actor that keep accessing a mapping whatever becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from harness.actor.session import Session


@dataclass(frozen=True)
class Counts:
    """What the thread on ``cpu`` has done: accesses that went through, and those that ended in a signal.

    ``sigbus`` were BUS_ADRERR at the very address of the access, ``other`` any
    other SIGBUS.
    """

    cpu: int
    stored: int
    loaded: int
    sigbus: int
    sigsegv: int
    other: int

    @property
    def landed(self) -> int:
        """How many reached the device."""
        return self.stored + self.loaded

    @classmethod
    def parse(cls, word: str) -> Counts:
        """From a word of a ``hammered`` reply.  Raises ValueError, LookupError if it is none."""
        counts = dict(pair.split("=") for pair in word.split(","))
        return cls(**{field.name: int(counts[field.name]) for field in fields(cls)})


@dataclass(frozen=True)
class Hammer:
    """A running hammer of so many ``threads``, by the name that its actor gave it.

    After ``lap`` accesses a thread has been everywhere and begins anew.
    """

    actor: Session
    name: str
    threads: int
    lap: int

    def counts(self, more: int = 0, deadline: int | None = None) -> tuple[Counts, ...]:
        """What each thread has done, once it has begun and ended ``more`` accesses from now on.

        Raises DeadlineError if that takes it more than ``deadline`` seconds; 1 ms
        an access if not said, which is fifty times what a fault takes under emulation.
        """
        seconds = deadline or 10 + more * self.threads // 1000
        return self.actor.read(_parse, "hammered", self.name, more=more or None, deadline=seconds)

    def stop(self) -> tuple[Counts, ...]:
        """End it; what each thread has done.  DeadlineError if one does not come back from an access."""
        return self.actor.read(_parse, "unhammer", self.name)


def _parse(said: str) -> tuple[Counts, ...]:
    counts = tuple(map(Counts.parse, said.split()))
    if not counts:
        raise ValueError("a hammer without threads")
    return counts
