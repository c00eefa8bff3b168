"""What an actor answers, as values and exceptions.

A fault is a value, for it is what a scenario waits for; a refusal by the kernel
is an exception with its errno; an actor that is late or dead is another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.lib.errors import HarnessError, PatchproofError

BUS_ADRERR = "adrerr"
SEGV_MAPERR = "maperr"
SEGV_ACCERR = "accerr"


class Refused(Exception):  # noqa: N818 - the kernel's answer, not an error of the harness
    """The kernel refused an operation; ``errno`` is the name of its reason (``EINVAL``)."""

    def __init__(self, errno: str, operation: str, message: str) -> None:
        super().__init__(f"{operation}: {errno} ({message})")
        self.errno = errno
        self.operation = operation


def outcome(attempt: Callable[[], object]) -> str:
    """The errno by which the kernel refuses, ``success`` if it does not."""
    try:
        attempt()
    except Refused as refused:
        return refused.errno
    return "success"


def refusal(attempt: Callable[[], object]) -> str:
    """The errno by which the kernel refuses.  AssertionError if it does not."""
    errno = outcome(attempt)
    assert errno != "success", "The kernel did not refuse."
    return errno


class DeadlineError(PatchproofError):
    """An operation took too long.

    ``answered`` is true if the actor could still say so; otherwise it is stuck in
    the kernel, and whoever asks again only waits again.
    """

    def __init__(self, operation: str, seconds: float, answered: bool) -> None:
        how = "the actor gave it up" if answered else "the actor does not even say that it gave it up"
        super().__init__(f"The operation `{operation}` did not end within {seconds:.0f} s; {how}.")
        self.answered = answered


class ActorDiedError(PatchproofError):
    """The actor's process ended in the middle of an operation."""


@dataclass(frozen=True)
class Fault:
    """An access that ended in a signal; ``offset`` in the mapping (bytes), None if outside of it."""

    code: str
    offset: int | None


@dataclass(frozen=True)
class Sigbus(Fault):
    """SIGBUS with its si_code: ``adrerr`` means that nothing is there any more."""


@dataclass(frozen=True)
class Sigsegv(Fault):
    """SIGSEGV with its si_code: ``maperr`` no VMA, ``accerr`` a VMA that forbids the access."""


@dataclass(frozen=True)
class Vma:
    """A VMA of a mapping: offsets in it, ``rw-s``, the file offset, the name, and smaps' VmFlags."""

    start: int
    end: int
    permissions: str
    file_offset: int
    name: str
    flags: frozenset[str]

    @classmethod
    def parse(cls, word: str) -> Vma:
        """From a word of a ``vmas`` reply.  Raises ValueError if it is none."""
        where, permissions, file_offset, name, flags = word.split(",")
        start, end = (int(number, 16) for number in where.split("-"))
        return cls(start, end, permissions, int(file_offset, 16), name, frozenset(flags.split("+")))


def judge(line: str, reply: str, seconds: float) -> str | Fault:
    """A reply as a value or an exception; the words after ``ok``."""
    kind, _, rest = reply.partition(" ")
    match kind:
        case "ok":
            return rest
        case "sigbus" | "sigsegv":
            code, _, where = rest.partition(" ")
            return _fault(kind, code.removeprefix("code="), where.removeprefix("offset="))
        case "timeout":
            raise DeadlineError(line, seconds, answered=True)
        case "died":
            raise ActorDiedError(f"The actor ended while it did `{line}`: {rest}.")
        case "error" if refusal := re.fullmatch(r"(E[A-Z0-9]+) (.*)", rest):
            raise Refused(refusal[1], line, refusal[2])
    raise HarnessError(f"The actor did not understand `{line}`: {reply}")


def _fault(kind: str, code: str, where: str) -> Fault:
    """``where`` is an offset in hexadecimal, or anything else if it is outside of the mapping."""
    offset = int(where, 16) if re.fullmatch(r"0x[0-9a-f]{1,16}", where) else None
    return Sigbus(code, offset) if kind == "sigbus" else Sigsegv(code, offset)


def word_or_fault(word: str) -> int | Fault:
    """A word of a ``loadpages`` reply.  Raises ValueError if it is none."""
    if found := re.fullmatch(r"(sigbus|sigsegv):(\w+):(\w+)", word):
        return _fault(*found.groups())
    return int(word, 16)


def hex_number(said: str) -> int:
    """Parse a number in hexadecimal.  Raises ValueError if it is none."""
    return int(said, 16)


@dataclass(frozen=True)
class Watched:
    """What a watch saw: loads that went through, faults, and the 32-bit values.

    ``more`` is true if there were more than the 16 values that are kept.
    """

    loads: int
    sigbus: int
    sigsegv: int
    values: frozenset[int]
    more: bool

    @classmethod
    def parse(cls, said: str) -> Watched:
        """From a ``watched`` reply.  Raises ValueError, LookupError if it is none."""
        words = dict(word.split("=") for word in said.split())
        values = [word for word in words["values"].split(",") if word]
        return cls(
            loads=int(words["loads"]),
            sigbus=int(words["sigbus"]),
            sigsegv=int(words["sigsegv"]),
            values=frozenset(int(value, 16) for value in values if value != "more"),
            more="more" in values,
        )
