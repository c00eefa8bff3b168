"""A Python probe started ahead: under emulation an interpreter takes most of a second to start."""

from __future__ import annotations

from harness.guest.guest import Guest
from harness.probe import python_stream
from harness.vm.ssh import Stream


class Spare:
    """The probe that the next scenario to want one will get; it has done nothing yet."""

    def __init__(self) -> None:
        self._ready: tuple[Guest, Stream] | None = None

    def take(self, guest: Guest) -> Stream:
        """A probe in this guest; another is started for the next.  Raises SshLostError, SshTimeoutError."""
        waiting = self._ready
        self._ready = None
        stream = waiting[1] if waiting and waiting[0] is guest and waiting[1].running() else None
        if waiting and stream is None:
            waiting[1].close()
        stream = stream or python_stream(guest)
        self._ready = guest, python_stream(guest)
        return stream

    def close(self) -> None:
        """End the one that nobody took."""
        if self._ready is not None:
            self._ready[1].close()
            self._ready = None
