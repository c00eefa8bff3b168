"""Count the descriptors, DMABUFs and kernel log records that a call leaks."""

from __future__ import annotations

from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.lib.errors import HarnessError
from harness.lib.text import counted


@dataclass(frozen=True)
class Footprint:
    """The resources that a call can leak: descriptors of its process, DMABUFs, kernel log records."""

    descriptors: int
    dmabufs: int
    log: int

    def __str__(self) -> str:
        return (
            f"{counted(self.descriptors, 'descriptor')}, {counted(self.dmabufs, 'DMABUF')} and "
            f"{counted(self.log, 'record')} in the kernel log"
        )

    @classmethod
    def of(cls, actor: Actor) -> Footprint:
        """Count these in an actor.  Raises HarnessError if the actor cannot count all of them."""
        reply = actor.say("footprint")
        try:
            found = dict(word.split("=") for word in reply.split())
            return cls(*(int(found[name]) for name in ("fds", "dmabufs", "log")))
        except (KeyError, ValueError) as error:
            raise HarnessError(
                f"The actor could not count descriptors, DMABUFs and log records; its reply was: {reply}"
            ) from error

    def until(self, now: Footprint) -> str:
        """Return the differences to ``now`` as a phrase (``2 DMABUFs``); empty if there are none."""
        phrases = [
            counted(count, name) + where
            for count, name, where in (
                (now.descriptors - self.descriptors, "descriptor", ""),
                (now.dmabufs - self.dmabufs, "DMABUF", ""),
                (now.log - self.log, "record", " in the kernel log"),
            )
            if count
        ]
        return " and ".join(phrases)


class FootprintChanges:
    """The changes of an actor's footprint from one look() to the next."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._last = Footprint.of(actor)

    def look(self) -> str:
        """Return the differences since the last look as a phrase; empty if there are none."""
        before, self._last = self._last, Footprint.of(self._actor)
        return before.until(self._last)
