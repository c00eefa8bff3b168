"""Count what a call leaves behind: descriptors, DMABUFs, kernel log records."""

from __future__ import annotations

from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.lib.errors import HarnessError


@dataclass(frozen=True)
class Footprint:
    """What a call can leave behind: descriptors of its process, DMABUFs, records of the kernel log."""

    descriptors: int
    dmabufs: int
    log: int

    @classmethod
    def of(cls, actor: Actor) -> Footprint:
        """Ask an actor.  HarnessError if it cannot see all of that."""
        said = actor.say("footprint")
        found = dict(word.split("=") for word in said.split())
        try:
            return cls(*(int(found[name]) for name in ("fds", "dmabufs", "log")))
        except (KeyError, ValueError) as error:
            raise HarnessError(
                f"The actor does not see what a call leaves behind, but only: {said}"
            ) from error

    def until(self, now: Footprint) -> str:
        """What there is more of, as a phrase; empty if nothing."""
        phrases = [
            f"{count} {what}"
            for count, what in (
                (now.descriptors - self.descriptors, "descriptors"),
                (now.dmabufs - self.dmabufs, "DMABUFs"),
                (now.log - self.log, "records in the kernel log"),
            )
            if count
        ]
        return " and ".join(phrases)


class Leftovers:
    """What an actor's calls leave behind, from one look to the next."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._last = Footprint.of(actor)

    def look(self) -> str:
        """What there is more of than at the last look, as a phrase; empty if nothing."""
        before, self._last = self._last, Footprint.of(self._actor)
        return before.until(self._last)
