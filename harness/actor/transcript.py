"""Talking to an actor line by line, and the record of it that can be replayed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

MARGIN = 10.0  # seconds after which an actor that should have answered is stuck
LIMIT = 1 << 24  # bytes of one reply: a word for each page of a BAR of 1 GiB


class Channel(Protocol):
    """A running program that is talked to line by line; harness.ssh.Stream is one."""

    def write(self, data: bytes, timeout: float) -> None:
        """Send to its standard input.  Raises SshTimeoutError, SshLostError."""

    def read_line(self, timeout: float, limit: int) -> bytes:
        """The next line of its output.  Raises EOFError, SshTimeoutError, SshLostError."""

    def read_errors(self) -> bytes:
        """What came on standard error."""

    def end_input(self) -> None:
        """Close its standard input."""

    def wait(self, timeout: float) -> int:
        """Its exit status, negative for a signal.  Raises SshTimeoutError."""

    def close(self) -> None:
        """Hang up."""


class Transcript:
    """What was said to one actor, written as it is said: ``actor --replay`` takes the file."""

    def __init__(self, path: Path, title: str = "") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stream = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
        if title:
            self.comment(title)

    def comment(self, text: str) -> None:
        """A line for people."""
        self._line("# " + re.sub(r"[\x00-\x1f\x7f]", " ", text))

    def operation(self, line: str) -> None:
        """What was asked."""
        self._line("> " + re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "?", line))

    def reply(self, line: str) -> None:
        """What was answered."""
        self._line(re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "?", line))

    def close(self) -> None:
        """End the file."""
        self._stream.close()

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
