"""The errors of the harness, one branch of classes for each party at fault.

Every message is a sentence or two: what was tried, what happened, what to do.
Each class has the exit code that it leads to.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Self

from harness.lib.text import shortened

#: Characters of a message, and of its tail: a guest or a program may have written either.
MESSAGE_LIMIT = 8 << 10
TAIL_LIMIT = 64 << 10


class ExitCode(IntEnum):
    """The exit codes of ``tox -e vm`` and ``python -m harness``; Record.exit_code has the rules."""

    OK = 0
    SERIES = 1
    HARNESS = 2
    NOTHING_APPLICABLE = 3
    INTERRUPTED = 130


class PatchproofError(Exception):
    """Base of all errors that are shown to a user as a sentence, not a traceback.

    ``log`` is the file with the whole output; ``tail`` holds its last lines, which
    are printed below the message.
    """

    exit_code: ExitCode = ExitCode.HARNESS

    def __init__(self, message: str, *, log: Path | None = None, tail: str = "") -> None:
        self.message = shortened(message, MESSAGE_LIMIT)
        super().__init__(self.message)
        self.log = log
        self.tail = tail[-TAIL_LIMIT:]

    @classmethod
    def in_place_of(cls, error: PatchproofError, message: str) -> Self:
        """Return an error of this class with this message, and with the log and the tail of ``error``."""
        return cls(message, log=error.log, tail=error.tail)

    def __str__(self) -> str:
        parts = [self.message]
        if self.tail:
            parts.append("\n".join(f"    {line}" for line in self.tail.splitlines()))
        if self.log is not None:
            parts.append(f"The whole log: {self.log}")
        return "\n".join(parts)


class NoReturnError(PatchproofError):
    """A call into the kernel did not return in time.

    ``waits_in`` names the functions in which its thread waits, empty if nobody has looked, or seen it.
    """

    waits_in: str = ""


class UsageError(PatchproofError):
    """The user asked for something impossible: an unknown series, a bad option."""


class HarnessError(PatchproofError):
    """The harness or its host failed; the series is not judged."""


class SeriesError(PatchproofError):
    """The series under test failed in ``stage``: ``apply``, ``build`` or ``boot``."""

    exit_code = ExitCode.SERIES
    stage: str = "series"


class ApplyError(SeriesError):
    """The series was refused before applying, or a patch did not apply."""

    stage = "apply"


class BuildError(SeriesError):
    """The patched kernel does not configure or compile."""

    stage = "build"


class BootError(SeriesError):
    """The built kernel does not come up."""

    stage = "boot"


class BootTimeoutError(BootError):
    """The built kernel does not come up before the deadline, and its console does not show why."""


class UnreachableError(HarnessError):
    """One source does not provide the file; a caller may try the next source."""
