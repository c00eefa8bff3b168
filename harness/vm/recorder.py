"""The recorder of what a scenario does beside its actors: in the host, and in the guest by a shell."""

from __future__ import annotations

from typing import Protocol


class Recorder(Protocol):
    """A record of steps in order; harness.actor.transcript.Transcript is one."""

    def device(self, role: str, address: str) -> None:
        """Record the address of a device before the first step with it."""

    def step(self, text: str) -> None:
        """Record a step before it is done, in the words of probes/PROTOCOL.md."""

    def reply(self, line: str) -> None:
        """Record the answer to the last step."""

    def comment(self, text: str) -> None:
        """Record what is no step."""


class NoRecord:
    """A recorder that keeps nothing: for what the harness does outside of a scenario."""

    def device(self, role: str, address: str) -> None:
        """Forget a device."""

    def step(self, text: str) -> None:
        """Forget a step."""

    def reply(self, line: str) -> None:
        """Forget an answer."""

    def comment(self, text: str) -> None:
        """Forget a comment."""
