"""The channel to an actor, and the transcript of a scenario, which can be replayed."""

from __future__ import annotations

import re
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol, TextIO

from harness.actor.scene import Operation, Scene
from harness.lib.errors import HarnessError
from harness.lib.files import write_atomically

MARGIN = 10.0  # seconds after the actor's own deadline until it counts as stuck
LIMIT = 64 << 20  # characters of all replies in one transcript; the guest decides their length
FIRST = "# transcript 2"  # the first line of a transcript
MARKS = ("> ", "! ", "= ", "# ")  # of lines that are no replies


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


_RECENT: ContextVar[tuple[Operation, ...]] = ContextVar("_RECENT")
_KEPT = 64  # answered operations
_KEPT_LENGTH = 1 << 25  # characters of their replies


def recent_operations() -> tuple[Operation, ...]:
    """Return the latest operations and steps of the scenario that runs that have a reply, in order."""
    return _RECENT.get(())


def latest_operation() -> Operation:
    """Return the latest operation, or step, of the scenario that runs."""
    return _LATEST.get(Operation())


def forget_operation() -> None:
    """Begin a scenario, which has no operation yet."""
    _LATEST.set(Operation())
    _RECENT.set(())


class Observer(Protocol):
    """The observer of a scenario's operations and steps, while it does them."""

    def begins(self, line: str) -> None:
        """Take in an operation or a step before it is done; may raise."""

    def replied(self, reply: str) -> None:
        """Take in the reply to the latest one."""


class Transcript:
    """The steps of a scenario and their replies, written line by line (probes/PROTOCOL.md, "Transcripts").

    The file is made by the first step.  ``refused`` are the operations of the series' interface
    that the kernel refused, in order.  ``observer``, if not None, is told of each step before it is done.
    """

    def __init__(self, path: Path, title: str = "", observer: Observer | None = None) -> None:
        self.path = path
        self._observer = observer
        self.refused: dict[str, None] = {}
        self._stream: TextIO | None = None
        self._lines = 0
        self._replied = 0  # characters of all replies
        self._scene = Scene()
        self._actors = 0
        self._current = 0  # the actor that the next operation goes to, unless a line says another
        self._roles: set[str] = set()
        self._head = [FIRST, *([_comment(title)] if title else [])]  # all before the first actor
        self._waiting = list(self._head)

    @property
    def written(self) -> bool:
        """True once there is a file."""
        return self._lines > 0

    def machine(self, words: str) -> None:
        """Write down the layout of the machine, before any step; without a step, nothing is written."""
        self._head.append(f"! machine {words}")
        self._waiting.append(self._head[-1])

    def device(self, role: str, address: str) -> None:
        """Write down the address of a device, before the first step with it."""
        if role not in self._roles:
            self._roles.add(role)
            self._line(f"! device {role} {address}")

    def actor(self, kind: str) -> int:
        """Begin a top-level actor of this ``kind``, ``c`` or ``python``; return its number, from 1."""
        self._actors += 1
        self._current = self._actors
        self._line(f"! actor {self._current} {kind}")
        return self._current

    def end(self, actor: int) -> None:
        """Write down that a top-level actor is asked to end."""
        self._line(f"! end {actor}")
        self._current = 0

    def step(self, text: str) -> None:
        """Write a step of the host, or of the guest beside the actors, before it is done."""
        self._begin("! ", text)

    def comment(self, text: str) -> None:
        """Write a comment, which a replay ignores."""
        self._line(_comment(text))

    def operation(self, line: str, actor: int, kind: str) -> None:
        """Write an operation of a top-level actor."""
        if actor != self._current:
            self._line(f"! actor {actor} {kind}")
            self._current = actor
        self._begin("> ", line, actor)

    def reply(self, line: str) -> None:
        """Write the reply to the latest operation or step.

        Raises HarnessError for a reply beyond the LIMIT of a transcript, which is left out.
        """
        text = _plain(line)
        if text[:2] in MARKS:  # of a program that is no actor
            text = f"?{text}"
        self._replied += len(text)
        if self._replied > LIMIT:
            self._line(_comment(f"left out: a reply of {len(text)} characters, beyond the limit"))
            raise HarnessError(
                f"The replies of one scenario are longer than {LIMIT >> 20} MiB together. A scenario that an "
                "actor answers with so much is not judged."
            )
        self._line(text)
        if self._observer is not None:
            self._observer.replied(text)
        _LATEST.set(self._scene.end(text))
        recent = (*recent_operations()[1 - _KEPT :], latest_operation())
        while len(recent) > 1 and sum(len(one.reply) for one in recent) > _KEPT_LENGTH:
            recent = recent[1:]
        _RECENT.set(recent)

    def begin_anew(self) -> None:
        """Set the file aside as ``NAME-before``, and begin a new one from before the first actor."""
        self.close()
        self.path.rename(self.path.with_stem(f"{self.path.stem}-before"))
        self._stream = None
        self._scene = Scene()
        self._lines = self._actors = self._current = self._replied = 0
        self._waiting = list(self._head)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def expect(self, operation: Operation, wanted: str) -> None:
        """Insert, after the reply to an operation of this closed transcript, the reply that was expected.

        ``wanted`` is a pattern; without the operation at its line nothing is inserted.
        """
        lines = self.path.read_text(encoding="utf-8").split("\n") if self.written else []
        place = operation.line  # the line after the operation, from 0
        if not wanted or not 0 < place < len(lines) or lines[place - 1][2:] != operation.text:
            return
        place += lines[place][:2] not in MARKS and lines[place] != ""
        lines.insert(place, f"= {_plain(wanted)}")
        write_atomically(self.path, "\n".join(lines))

    def _begin(self, mark: str, line: str, actor: int = 0) -> None:
        text = _plain(line)
        if self._observer is not None:
            self._observer.begins(text)
        self._line(mark + text)
        _LATEST.set(self._scene.begin(text, self._lines, actor))

    def _line(self, text: str) -> None:
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        if not self._actors:
            self._head.append(text)
        for line in (*self._waiting, text):
            self._stream.write(line + "\n")
            self._lines += 1
        self._waiting.clear()
        self._stream.flush()


def _plain(line: str) -> str:
    return re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "?", line)


def _comment(text: str) -> str:
    return "# " + re.sub(r"[\x00-\x1f\x7f]", " ", text)
