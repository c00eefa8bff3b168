"""The errors of the harness, sorted by whose fault they are.

Every message is a sentence or two: what was tried, what happened, what to do.
A caller never has to guess the exit code: the class knows it.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Exit codes of ``tox -e vm`` and ``python -m harness``."""

    OK = 0
    SERIES = 1
    HARNESS = 2
    NOTHING_APPLICABLE = 3
    INTERRUPTED = 130


class PatchproofError(Exception):
    """Base of all errors that are shown to a user as a sentence, not a traceback.

    ``log`` names the file that holds the whole story; ``tail`` holds its last
    lines, which are printed below the message.
    """

    exit_code: ExitCode = ExitCode.HARNESS

    def __init__(self, message: str, *, log: Path | None = None, tail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.log = log
        self.tail = tail

    def __str__(self) -> str:
        parts = [self.message]
        if self.tail:
            parts.append("\n".join(f"    {line}" for line in self.tail.splitlines()))
        if self.log is not None:
            parts.append(f"The whole log: {self.log}")
        return "\n".join(parts)


class UsageError(PatchproofError):
    """The user asked for something that cannot be: unknown series, bad option."""


class HarnessError(PatchproofError):
    """The harness or the machine it runs on failed; nothing is said about the series."""


class SeriesError(PatchproofError):
    """The series under test failed; ``stage`` says where (``apply``, ``build``, ``boot``)."""

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
    """The built kernel does not come up in time, and does not say why."""


class UnreachableError(HarnessError):
    """A source does not give the file; another one may."""
