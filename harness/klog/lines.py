"""Lines of a console log: one kernel message each, without escapes, timestamp and caller."""

from __future__ import annotations

import re
from typing import BinaryIO

# printk's timestamp and, with CONFIG_PRINTK_CALLER, the thread or processor.
_STAMP = r"\[ *\d+\.\d{6}\](?:\[ *(?:[TC]\d+)\])? ?"
_PREFIX = re.compile(rf"(?:<\d+>)?{_STAMP}")
_CALLER = re.compile(r"(?:<\d+>)?\[ *\d+\.\d{6}\]\[ *([TC]\d+)\]")
# A kernel message that begins in the middle of a line.
_MESSAGE_START = re.compile(rf"(?<=[^\n])(?={_STAMP}|\*\* \d+ printk messages dropped \*\*)")
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
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


def message(line: str) -> str:
    """Return a console line without the kernel's timestamp and caller."""
    return _PREFIX.sub("", line, count=1) if _PREFIX.match(line) else line


def printed_by(line: str) -> str:
    """Return the thread or processor that printed a line (CONFIG_PRINTK_CALLER), or an empty string."""
    found = _CALLER.match(line)
    return found[1] if found else ""
