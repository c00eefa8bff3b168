"""Talking to an actor line by line, and the record of it that can be replayed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from harness.lib.errors import PatchproofError
from harness.reply import ActorDiedError, DeadlineError
from harness.vm.ssh import SshTimeoutError

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


class Wire:
    """One top-level actor's channel, shared with the actors that it spawns."""

    def __init__(self, channel: Channel, transcript: Transcript, margin: float = MARGIN) -> None:
        self._channel = channel
        self._transcript = transcript
        self._margin = margin
        self._lost: PatchproofError | None = None

    def ask(self, line: str, seconds: float) -> str:
        """One line and its reply.

        Raises DeadlineError, ActorDiedError, and SshLostError if the guest is gone.
        A line that was never answered leaves nothing to talk to: asking again
        raises the same error at once.
        """
        if self._lost is not None:
            raise self._lost
        self._transcript.operation(line)
        try:
            self._channel.write(line.encode(errors="surrogateescape") + b"\n", self._margin)
            raw = self._channel.read_line(seconds + self._margin, LIMIT)
        except SshTimeoutError as error:
            self._lost = DeadlineError(line, seconds + self._margin, answered=False)
            self._transcript.comment(f"no answer: {self._lost}")
            raise self._lost from error
        except EOFError as error:
            self._lost = ActorDiedError(f"The actor ended while it did `{line}`: {self._last_words()}")
            self._transcript.comment(str(self._lost))
            raise self._lost from error
        except PatchproofError as error:
            self._lost = error
            self._transcript.comment(f"no answer: {error}")
            raise
        reply = raw.decode(errors="backslashreplace").rstrip("\r")
        self._transcript.reply(reply)
        return reply

    def comment(self, text: str) -> None:
        """A line for people in the transcript."""
        self._transcript.comment(text)

    def close(self) -> None:
        """End the actor, which sees the end of its input, and wait until it is gone with all it held."""
        try:
            if self._lost is None:
                self._channel.end_input()
                self._channel.wait(self._margin)
        except PatchproofError as error:
            self._transcript.comment(f"it did not end when it was asked to: {error}")
        finally:
            self._channel.close()

    def _last_words(self) -> str:
        try:
            status = self._channel.wait(self._margin)
        except SshTimeoutError:
            return "it closed its output, but did not exit."
        said = self._channel.read_errors().decode(errors="backslashreplace").strip()
        how = f"exit status {status}" if status >= 0 else "killed by a signal"
        return f"{how}{f'; it said: {said}' if said else ''}."
