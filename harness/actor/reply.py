"""An actor's replies, as values and exceptions.

A fault is a value, as a scenario compares it.  A refusal by the kernel is an
exception with its errno.  An actor that misses its deadline or dies is another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.lib.errors import HarnessError, NoReturnError, PatchproofError
from harness.lib.text import counted, printable

BUS_ADRERR = "adrerr"
SEGV_MAPERR = "maperr"
SEGV_ACCERR = "accerr"
_HEXADECIMAL = re.compile(r"(?:0x)?[0-9a-fA-F]{1,16}")


class Refused(Exception):  # noqa: N818 - the kernel's answer, not an error of the harness
    """The kernel refused an operation; ``errno`` is the name of the errno (``EINVAL``)."""

    def __init__(self, errno: str, operation: str, message: str) -> None:
        super().__init__(f"{operation}: {errno} ({message})")
        self.errno = errno
        self.operation = operation


def outcome(attempt: Callable[[], object]) -> str:
    """Return the errno by which the kernel refuses, ``success`` if it does not refuse."""
    try:
        attempt()
    except Refused as refused:
        return refused.errno
    return "success"


class DeadlineError(NoReturnError):
    """An operation missed its deadline.

    ``answered`` is true if the actor itself reported that.  Otherwise the actor is
    stuck in the kernel, and a further operation would wait in vain.  ``seconds`` is the deadline.
    """

    def __init__(self, operation: str, seconds: float, answered: bool) -> None:
        end = "the actor reported the timeout" if answered else "the actor did not answer"
        super().__init__(f"The operation `{operation}` did not end within {seconds:.0f} s; {end}.")
        self.answered = answered
        self.seconds = seconds


class ActorDiedError(PatchproofError):
    """The actor's process ended in the middle of an operation."""


@dataclass(frozen=True)
class Fault:
    """An access that ended in a signal; ``offset`` is in bytes of the mapping, None outside of it."""

    code: str
    offset: int | None


@dataclass(frozen=True)
class Sigbus(Fault):
    """A SIGBUS with its si_code; ``adrerr`` (BUS_ADRERR) means that no memory is mapped there any more."""


@dataclass(frozen=True)
class Sigsegv(Fault):
    """A SIGSEGV with its si_code: ``maperr`` without a VMA, ``accerr`` if the VMA forbids the access."""


@dataclass(frozen=True)
class Vma:
    """A VMA of a mapping: offsets in it (bytes), ``rw-s``, file offset (bytes), name, smaps' VmFlags."""

    start: int
    end: int
    permissions: str
    file_offset: int
    name: str
    flags: frozenset[str]

    def __str__(self) -> str:
        return (
            f"a VMA of {self.name} {self.permissions} from {self.start:#x} to {self.end:#x} "
            f"at file offset {self.file_offset:#x} with the flags {' '.join(sorted(self.flags))}"
        )

    @classmethod
    def parse(cls, word: str) -> Vma:
        """Parse a word of a ``vmas`` reply.  Raises ValueError."""
        extent, permissions, file_offset, name, flags = word.split(",")
        start, end = map(hex_number, extent.split("-"))
        return cls(start, end, permissions, hex_number(file_offset), name, frozenset(flags.split("+")))


def judge(line: str, reply: str, seconds: float) -> str | Fault:
    """Return the words after ``ok``, or the fault, of the ``reply`` to ``line``.

    ``seconds`` is the deadline of the operation.  Raises Refused, DeadlineError,
    ActorDiedError; HarnessError if the actor did not understand the line.
    """
    kind, _, rest = reply.partition(" ")
    match kind:
        case "ok":
            return rest
        case "sigbus" | "sigsegv":
            code, _, place = rest.partition(" ")
            return _fault(kind, code.removeprefix("code="), place.removeprefix("offset="))
        case "timeout":
            raise DeadlineError(line, seconds, answered=True)
        case "died":
            raise ActorDiedError(f"The actor ended while it did `{line}`: {printable(rest)}.")
        case "error" if refusal := re.fullmatch(r"(E[A-Z0-9]{1,30}) (.*)", rest):
            raise Refused(refusal[1], line, printable(refusal[2]))
    raise HarnessError(f"The actor did not understand `{line}`: {printable(reply)}")


def _fault(kind: str, code: str, place: str) -> Fault:
    """Return a fault; ``place`` is a hexadecimal offset, or anything else if outside of the mapping."""
    offset = int(place, 16) if re.fullmatch(r"0x[0-9a-f]{1,16}", place) else None
    return Sigbus(code, offset) if kind == "sigbus" else Sigsegv(code, offset)


def word_or_fault(word: str) -> int | Fault:
    """Parse a word of a ``loadpages`` reply.  Raises ValueError."""
    if found := re.fullmatch(r"(sigbus|sigsegv):(\w+):(\w+)", word):
        return _fault(*found.groups())
    return hex_number(word)


def hex_number(reply: str) -> int:
    """Parse a number of at most 64 bits in hexadecimal.  Raises ValueError."""
    if not _HEXADECIMAL.fullmatch(reply):
        raise ValueError(f"no number of 64 bits: {printable(reply)!r}")
    return int(reply, 16)


@dataclass(frozen=True)
class Watched:
    """The result of a watch: successful loads, faults by signal, and the 32-bit values loaded.

    ``more`` is true if there were more values than the 16 that an actor keeps.
    """

    loads: int
    sigbus: int
    sigsegv: int
    values: frozenset[int]
    more: bool

    def __str__(self) -> str:
        values = ", ".join(map(hex, sorted(self.values))) + (", and more" if self.more else "")
        return (
            f"{counted(self.loads, 'load')} of {values or 'nothing'}, {self.sigbus} SIGBUS, "
            f"{self.sigsegv} SIGSEGV"
        )

    @classmethod
    def parse(cls, reply: str) -> Watched:
        """Parse a ``watched`` reply.  Raises ValueError, LookupError."""
        words = dict(word.split("=") for word in reply.split())
        values = [word for word in words["values"].split(",") if word]
        return cls(
            loads=int(words["loads"]),
            sigbus=int(words["sigbus"]),
            sigsegv=int(words["sigsegv"]),
            values=frozenset(hex_number(value) for value in values if value != "more"),
            more="more" in values,
        )
