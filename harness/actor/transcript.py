"""The channel to an actor, and the transcript of its operations, which can be replayed."""

from __future__ import annotations

import re
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from harness.actor.scene import Operation, Scene

MARGIN = 10.0  # seconds after the actor's own deadline until it counts as stuck
LIMIT = 1 << 24  # maximum bytes of one reply: a word for each page of a 1 GiB BAR


class Channel(Protocol):
    """The input and output of a running program; harness.vm.ssh.Stream is one."""

    def write(self, data: bytes, timeout: float) -> None:
        """Write to the program's standard input.  Raises SshTimeoutError, SshLostError."""

    def read_line(self, timeout: float, limit: int) -> bytes:
        """Return the next line of the program's output, at most ``limit`` bytes, without the newline.

        Raises EOFError, SshTimeoutError, SshLostError.
        """

    def read_errors(self) -> bytes:
        """Return the standard error that arrived since the last call."""

    def end_input(self) -> None:
        """Close the program's standard input."""

    def wait(self, timeout: float) -> int:
        """Return the exit status, negative for a signal, once there is one.  Raises SshTimeoutError."""

    def close(self) -> None:
        """Close the channel."""


_LATEST: ContextVar[Operation] = ContextVar("_LATEST")


def latest_operation() -> Operation:
    """Return the latest operation of the scenario that runs."""
    return _LATEST.get(Operation())


def forget_operation() -> None:
    """Begin a scenario, which has no operation yet."""
    _LATEST.set(Operation())


class Transcript:
    """The operations and replies of one actor, written line by line for ``actor --replay``.

    ``refused`` are the operations of the series' interface that the kernel refused, in order.
    """

    def __init__(self, path: Path, title: str = "") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.refused: dict[str, None] = {}
        self._stream = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
        self._lines = 0
        self._scene = Scene()
        if title:
            self.comment(title)

    def comment(self, text: str) -> None:
        """Write a comment, which a replay ignores."""
        self._line("# " + re.sub(r"[\x00-\x1f\x7f]", " ", text))

    def operation(self, line: str) -> None:
        """Write an operation."""
        text = re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "?", line)
        self._line("> " + text)
        _LATEST.set(self._scene.begin(text, self._lines))

    def reply(self, line: str) -> None:
        """Write a reply."""
        text = re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "?", line)
        self._line(text)
        _LATEST.set(self._scene.end(text))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._lines += 1
        self._stream.flush()
