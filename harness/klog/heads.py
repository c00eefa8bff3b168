"""Read a console as lines, and find the messages that begin a splat."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.klog.lines import Prefix, split
from harness.klog.patterns import ANY, DETECTOR_LOST, INFORMATIONAL, NOTICE, PATTERNS, PATTERNS_OF_UNSTAMPED

#: Heads of faults that are looked for in one console; a splat has several.
MAX_HEADS = 20_000
_NO_FAULT = INFORMATIONAL | DETECTOR_LOST
# More lines of a program in a row than any splat has; those in the middle can be part of none.
_PROGRAM_LINES = re.compile(r"(?:^(?!(?:<\d+>)?\[[ \d]{5,}\.|\*\* \d)[^\n]*\n){1000,}", re.MULTILINE)
_KEPT = 400
# A message is matched up to this number of lines and characters (printk: PRINTK_MESSAGE_MAX, 2048 bytes).
_MESSAGE_LINES = 4
MESSAGE_LENGTH = 4096


@dataclass(slots=True)
class Line:
    """One line of a console.

    ``body`` is the kernel's message, empty for a line that the kernel did not print.
    ``kind`` is that of the splat whose head is here, and ``title`` its message.
    ``quoted`` is true for a line of a message about a process: the name of a process may
    contain newlines, so such a line is no head.
    """

    text: str
    body: str = ""
    prefix: Prefix | None = None
    kind: str | None = None
    title: str = ""
    quoted: bool = False

    @property
    def caller(self) -> str:
        """The thread or processor that printed the line (CONFIG_PRINTK_CALLER), or an empty string."""
        return self.prefix.caller if self.prefix else ""


def kind_of(line: str) -> str | None:
    """Return the kind of the splat that this line begins, or None."""
    return read(line)[0].kind


def read(text: str) -> list[Line]:
    """Return the lines of ``text``, at least one, with the heads of splats among them.

    After MAX_HEADS faults no further head is looked for.
    """
    # Not splitlines(): the name of a process may have separators of Unicode.
    lines = [_line(raw) for raw in _PROGRAM_LINES.sub(_ends, text).removesuffix("\n").split("\n")]
    number = faults = 0
    while number < len(lines) and faults < MAX_HEADS:
        first = lines[number]
        number += _mark(lines, number)
        faults += first.kind is not None and first.kind not in _NO_FAULT
    return lines


def _ends(run: re.Match[str]) -> str:
    lines = run[0].split("\n")
    return "\n".join([*lines[:_KEPT], *lines[-_KEPT:]])


def _line(raw: str) -> Line:
    prefix, body = split(raw)
    return Line(raw, body[:MESSAGE_LENGTH] if prefix else "", prefix)


def _mark(lines: list[Line], first: int) -> int:
    """Mark the message that begins at ``first``; return the number of its lines that a row matched, or 1.

    The lines of one message have the same timestamp.  A line without timestamp is no
    message, except the report of lost messages (console_prepend_dropped()).
    """
    line = lines[first]
    last = first + 1
    while (
        line.prefix is not None
        and last < min(len(lines), first + _MESSAGE_LINES)
        and lines[last].prefix == line.prefix
    ):
        last += 1
    message = "\n".join(one.body for one in lines[first:last]) if line.prefix else line.text
    message = message[:MESSAGE_LENGTH]
    if line.prefix is not None and not ANY.match(message):
        return 1
    for kind, pattern in PATTERNS if line.prefix else PATTERNS_OF_UNSTAMPED:
        if found := pattern.match(message):
            length = found[0].count("\n") + 1
            for one in lines[first : first + length]:
                one.quoted = True
            if kind != NOTICE:
                body = message.split("\n")[:length]
                line.kind, line.title, line.quoted = kind, " ".join(body).strip(), False
            return length
    return 1
