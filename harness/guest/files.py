"""Files of the guest, read and written in steps by a program that stays: vmimage/files.c."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.guest.persistent import Connection, PersistentProgram
from harness.lib.errors import HarnessError
from harness.lib.text import printable
from harness.vm.ssh_limits import OUTPUT_LIMIT

PATH = "/run/patchproof/files"  # where vmimage/init.c installs it
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_MEANINGS = {b"n": b"\n", b"t": b"\t", b"\\": b"\\"}


@dataclass(frozen=True)
class Step:
    """One step, in the words of vmimage/files.c."""

    words: str

    def __post_init__(self) -> None:
        if "\t" in self.words or "\n" in self.words:
            raise ValueError(f"a step has no tabs and newlines: {self.words!r}")


def read(path: str, *, may_lack: bool = False) -> Step:
    """Return the step that reads a file."""
    return Step(f"{'R' if may_lack else 'r'} {path}")


def write(path: str, text: str, *, may_lack: bool = False) -> Step:
    """Return the step that writes a text and a newline to a file."""
    return Step(f"{'W' if may_lack else 'w'} {path} {text}")


def present(path: str) -> Step:
    """Return the step that fails if the path is absent."""
    return Step(f"p {path}")


def absent(path: str) -> Step:
    """Return the step that fails if the path is there."""
    return Step(f"a {path}")


class StepFailedError(HarnessError):
    """A step has failed, for a ``reason`` that begins with its path; the steps after it were not done."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The guest has refused a step: {reason}.")
        self.reason = reason


class Files:
    """The program that does the steps."""

    def __init__(self, connection: Connection, program: str = PATH) -> None:
        self._program = PersistentProgram(connection, [program], "program for files")

    def do(self, steps: Sequence[Step], timeout: float) -> list[bytes | None]:
        """Do the steps in order; return what each has read, None for a file that is absent and may be.

        Raises StepFailedError, SshTimeoutError after ``timeout`` seconds (a step may still be
        going on), SshOutputError beyond OUTPUT_LIMIT, SshLostError if the connection breaks.
        """
        deadline = time.monotonic() + timeout
        first = steps[0].words[:80]
        with self._program.request("steps that begin with", first, timeout) as stream:
            stream.write("\t".join(step.words for step in steps).encode() + b"\n", timeout)
            line = stream.read_line(max(deadline - time.monotonic(), 0.0), OUTPUT_LIMIT)
            try:
                found = _parse(line, len(steps))
            except (ValueError, LookupError) as error:
                said = printable(str(error))
                raise HarnessError(
                    f"The guest's {self._program.name} answered `{first}` by {said}."
                ) from error
        if isinstance(found, str):
            raise StepFailedError(found)
        return found


def _parse(line: bytes, count: int) -> list[bytes | None] | str:
    """Return what each of ``count`` steps has read, or why one has failed.  Raises ValueError."""
    found: list[bytes | None] = []
    *words, rest = line.split(b"\t")
    for word in words:
        if word[:1] == b"!":
            return printable(word[1:])
        if word[:1] not in (b"=", b"-"):
            raise ValueError(f"the word {word[:80]!r}")
        found.append(None if word == b"-" else _ESCAPED.sub(lambda one: _MEANINGS[one[1]], word[1:]))
    if rest or len(found) != count:
        raise ValueError(f"{len(found)} words instead of {count}")
    return found
