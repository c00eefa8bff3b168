"""Align two transcripts of a scenario by operation, and find the first reply of another kind.

A reply's kind is its errno, its signal, or that it succeeded.  What an operation measures is
no part of the kind: counts of a hammer, page faults, footprints, times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.lib.text import one_line, shortened, visible
from harness.report.evidence import PROMPT, STEP, located
from harness.verdict.deviation import verb_of
from harness.verdict.record import Result

LIMIT = 8 << 20  # bytes of a transcript that are read
WANTED = "= "  # before a reply that was expected
SHOWN = 100  # characters of an operation in a sentence
_WINDOW = 200  # operations after a difference in which the transcripts are aligned again

# What differs between two series, or two runs, in one operation: addresses, the call that revokes, and the
# deadline, which depends on the speed of the guest.
_VARYING = re.compile(r"\b0x[0-9a-f]{10,}\b| via=(?:feature|device-ioctl|ioctl)\b| deadline=\w+")
_LISTS = ("loadpages", "loadlist", "loadeach")  # whose reply has a word for each access
_FAULT = re.compile(r"\b(sigbus|sigsegv):")


@dataclass(frozen=True)
class Operation:
    """An operation, or a step beside the actors, with its reply; ``line`` is its line number, from 1."""

    text: str
    reply: str
    line: int

    @property
    def key(self) -> str:
        """The text by which it is found in the other transcript."""
        return _VARYING.sub("", self.text)


@dataclass(frozen=True)
class ReplyChange:
    """The first operation of two transcripts whose replies differ in kind."""

    before: Operation
    after: Operation

    @property
    def kinds(self) -> tuple[str, str]:
        """The kinds of the two replies: ``ENOMEM``, ``SIGBUS``, ``ok``."""
        return kind(self.before), kind(self.after)

    def sentence(self) -> str:
        """Return ``ENOMEM → EINVAL at `map buf1 ...```, as plain text on one line."""
        first, second = self.kinds
        return one_line(visible(f"{first} → {second} at `{shortened(self.after.text, SHOWN)}`"))


def first_change(before: tuple[Path, Result], after: tuple[Path, Result]) -> ReplyChange | None:
    """Return the first reply of another kind in the transcripts of two results; None without one.

    Each result comes with its results folder.  A transcript that is missing has no operations.
    """
    first, second = _content(*before), _content(*after)
    if first == second or not first or not second:
        return None
    return first_difference(operations(first), operations(second))


def operations(content: bytes) -> list[Operation]:
    """Return the operations and other steps of a transcript; the reply of one without an answer is empty."""
    found: list[Operation] = []
    waiting = ""
    line = 0
    for number, text in enumerate(content.decode("utf-8", "surrogateescape").split("\n"), 1):
        if text.startswith((PROMPT, STEP)):
            if waiting:
                found.append(Operation(waiting, "", line))
            waiting, line = text[len(PROMPT) :], number
        elif waiting and text and not text.startswith(("#", WANTED)):
            found.append(Operation(waiting, text, line))
            waiting = ""
    return [*found, Operation(waiting, "", line)] if waiting else found


def first_difference(before: Sequence[Operation], after: Sequence[Operation]) -> ReplyChange | None:
    """Return the first pair of aligned operations whose replies differ in kind; None without one."""
    keys, others = [one.key for one in before], [one.key for one in after]
    i = j = 0
    while i < len(before) and j < len(after):
        if keys[i] != others[j]:
            skipped = _aligned(keys[i : i + _WINDOW], others[j : j + _WINDOW])
            if skipped is None:
                return None
            i, j = i + skipped[0], j + skipped[1]
        if kind(before[i]) != kind(after[j]):
            return ReplyChange(before[i], after[j])
        i, j = i + 1, j + 1
    return None


def _aligned(keys: Sequence[str], others: Sequence[str]) -> tuple[int, int] | None:
    """Return how many operations to skip on each side until two in a row are equal; the fewest together.

    The last operation may be equal alone.  None if no operations are.
    """
    firsts: list[dict[tuple[str, ...], int]] = [{}, {}]
    for found, names in zip(firsts, (keys, others), strict=True):
        for place in range(len(names)):
            found.setdefault(tuple(names[place : place + 2]), place)
    # Of equally many, the order of the texts decides: so it is the same if the sides are exchanged.
    common = [(firsts[0][pair] + firsts[1][pair], pair) for pair in firsts[0].keys() & firsts[1].keys()]
    if not common:
        return None
    _, pair = min(common)
    return firsts[0][pair], firsts[1][pair]


def kind(operation: Operation) -> str:
    """Return the kind of an operation's reply, in the words of a report."""
    first, _, rest = operation.reply.partition(" ")
    match first:
        case "ok":
            return _kind_of_success(operation, rest)
        case "error":
            return rest.partition(" ")[0].rstrip(":") or "error"
        case "sigbus" | "sigsegv":
            found = re.match(r"code=(\w+)", rest)
            code = found[1] if found else ""
            return first.upper() if code in ("", "adrerr", "maperr") else f"{first.upper()} ({code})"
        case "":
            return "no reply"
        case "timeout" | "died":
            return first
    return "another reply"


def _kind_of_success(operation: Operation, rest: str) -> str:
    if verb_of(operation.text) in _LISTS:
        faults = sorted(set(_FAULT.findall(rest)))
        return f"ok with {' and '.join(fault.upper() for fault in faults)}" if faults else "ok"
    if verb_of(operation.text) == "compare":
        return f"ok: {rest.partition(' ')[0]}"
    return "ok"


def _content(directory: Path, result: Result) -> bytes:
    """Return the bytes of a result's transcript, whose path comes from a journal and may be hostile."""
    path = located(directory, result.transcript)
    if path is None:
        return b""
    with path.open("rb") as stream:
        return stream.read(LIMIT)
