"""Fences of sw_sync, which a scenario signals when it wants, among the fences of a DMABUF."""

from __future__ import annotations

from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.actor.handles import Buffer


@dataclass(frozen=True)
class Timeline:
    """A timeline of fences of an actor, which stands at 0.

    Its close, or the end of its actor, signals all its fences.  So a kernel that waits
    for one never waits longer than the actor lives.
    """

    actor: Actor
    name: str

    @classmethod
    def of(cls, actor: Actor) -> Timeline:
        """Make a timeline.  Raises NotOfferedError on a kernel without sw_sync."""
        actor.require("SW_SYNC")
        return cls(actor, actor.say("timeline"))

    def attach(self, buffer: Buffer, usage: str = "write") -> None:
        """Add a fence to those of a DMABUF of the same actor; ``usage`` is ``read`` or ``write``.

        The fence is signalled when the timeline is advanced.
        """
        self.actor.say("attachfence", self.name, buffer.name, usage, at=1)

    def advance(self) -> None:
        """Advance, which signals the fences."""
        self.actor.say("advance", self.name, by=1)

    def close(self) -> None:
        """Close the timeline, which signals all its fences."""
        self.actor.say("close", self.name)


def is_ready(buffer: Buffer) -> bool:
    """Return whether all fences of a DMABUF are signalled, by poll()."""
    return buffer.actor.say("ready", buffer.name) == "read=yes write=yes"
