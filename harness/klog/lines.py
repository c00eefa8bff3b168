"""Lines of a console log: one kernel message each, without escapes, timestamp and caller."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

# printk's timestamp and, with CONFIG_PRINTK_CALLER, the thread or processor (print_prefix() in
# kernel/printk/printk.c).  The seconds take five columns at least, so the name of a process, which has 15
# bytes at most, cannot hold a timestamp with the head of a splat.
_STAMP = r"\[(?=[ \d]{5,}\.) *(\d+\.\d{6})\](?:\[ *([TC]\d+)\])? ?"
_PREFIX = re.compile(rf"(?:<\d+>)?{_STAMP}")
# A kernel message that begins in the middle of a line.
_MESSAGE_START = re.compile(rf"(?<=[^\n])(?={_STAMP}|\*\* \d+ printk messages dropped \*\*)")
# An escape does not end with "[", which begins the timestamp of a message behind it.
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-Z\\-~]|[@-Z\\-_])")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
#: Bytes; a longer line is searched in pieces of this length.
LINE_LIMIT = 1 << 16


def clean(raw: bytes) -> str:
    """Return console bytes as text without escapes and control characters, one kernel message per line.

    A message that the kernel printed into the middle of a line of user space gets a
    line of its own.
    """
    text = raw.decode(errors="replace").replace("\r", "")
    return _MESSAGE_START.sub("\n", _UNPRINTABLE.sub("", _ESCAPE.sub("", text)))


def line_start(stream: BinaryIO, offset: int) -> int:
    """Return the offset at which the line with byte ``offset`` of a console's log begins.

    If the line begins more than LINE_LIMIT bytes before ``offset``, return
    ``offset - LINE_LIMIT``.
    """
    first = max(offset - LINE_LIMIT, 0)
    stream.seek(first)
    before = stream.read(offset - first)
    return offset if not before else first + before.rfind(b"\n") + 1


@dataclass(frozen=True)
class Prefix:
    """The timestamp of a kernel message in seconds, and the thread or processor that printed it.

    ``caller`` is empty without CONFIG_PRINTK_CALLER.
    """

    time: float
    caller: str


def split(line: str) -> tuple[Prefix | None, str]:
    """Return the prefix of a console line and the message behind it.

    A line without a timestamp was not printed by the kernel; its prefix is None.
    """
    found = _PREFIX.match(line)
    if found is None:
        return None, line
    return Prefix(float(found[1]), found[2] or ""), line[found.end() :]


def message(line: str) -> str:
    """Return a console line without the kernel's timestamp and caller."""
    return split(line)[1]
