"""Find the splats in a console log.

``harness.klog.patterns`` has the table of all known splats.  A splat begins at a
message that matches a row (its head).  Its end is found by the markers of the kernel:
a ruler, the end of the call trace, ``---[ end trace``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from harness.klog.fingerprint import fingerprint, innermost_functions
from harness.klog.lines import message, printed_by
from harness.klog.patterns import DETECTOR_LOST, INFORMATIONAL, PANIC, PATTERNS, REBOOT

_CUT_HERE = re.compile(r"-+\[ cut here \]-+")
_RULER = re.compile(r"={20,}$")
_END = re.compile(r"---\[ end (trace|Kernel panic)")
_TRACE = re.compile(r"Call Trace:|stack backtrace:")
_TRACE_END = re.compile(r" ?</TASK>")
# Limits for a splat without an end marker, with and without a call trace.
_MAX_LINES = 150
_LINES_WITHOUT_TRACE = 8
# Kinds that have one line.
_ONE_LINE = INFORMATIONAL | DETECTOR_LOST | {REBOOT}
# Kinds whose first message comes just before a WARN of the same splat.
_WITH_WARNING = frozenset({"refcount", "list", "slab", "dma-debug", "debug-objects"})


@dataclass(frozen=True)
class Splat:
    """One splat.

    ``kind`` is that of its row in patterns.TABLE, ``title`` the message that matched, and
    ``text`` all its console lines.
    """

    kind: str
    title: str
    text: str

    @property
    def informational(self) -> bool:
        """Return whether the splat is evidence for a scenario and no fault of the kernel."""
        return self.kind in INFORMATIONAL

    @property
    def detector_lost(self) -> bool:
        """Return whether the splat reports a detector as disabled, or messages as lost."""
        return self.kind in DETECTOR_LOST

    @property
    def fault(self) -> bool:
        """Return whether the splat is a fault of the kernel."""
        return not self.informational and not self.detector_lost

    @cached_property
    def frames(self) -> tuple[str, ...]:
        """The innermost functions of the call trace, the innermost first: five at most.

        Functions that only print the splat are left out.
        """
        return innermost_functions(self.text)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that are equal for the same splat in another run.

        They are the start of a SHA-256 of the kind, the title, and the frames.  Addresses
        and the numbers of lines, processes and processors are removed from the title.
        """
        return fingerprint(self.kind, self.title, self.frames)


def kind_of(line: str) -> str | None:
    """Return the kind of the splat that this line begins, or None."""
    body = message(line)
    for kind, pattern in PATTERNS:
        if pattern.match(body):
            return kind
    return None


def extract(text: str, *, up: bool = False) -> list[Splat]:
    """Return the splats in ``text`` (as clean() returns it), oldest first.

    ``up`` means that a kernel was already running: then its first ``Linux version`` line
    is a splat of the kind REBOOT.  Otherwise only the second such line is one.
    """
    lines = text.splitlines()
    splats: list[Splat] = []
    position = 0
    while position < len(lines):
        kind = kind_of(lines[position])
        if kind == REBOOT and not up and message(lines[position]).startswith("Linux version"):
            kind, up = None, True
        if kind is None:
            position += 1
            continue
        end = position + 1 if kind in _ONE_LINE else _end(lines, position, kind)
        nested = list(_nested(lines, position, end, kind))
        first = position if kind in _ONE_LINE else _start(lines, position)
        own = _lines_of_caller(lines, first, end, position) if nested else lines[first:end]
        splats.append(Splat(kind, message(lines[position]).strip(), "\n".join(own)))
        splats += nested
        position = end
    return splats


def _lines_of_caller(lines: list[str], first: int, end: int, head: int) -> list[str]:
    """Return the lines ``first`` to ``end`` that the caller of ``head`` printed, or all if it is unknown."""
    caller = printed_by(lines[head])
    return [line for line in lines[first:end] if not caller or printed_by(line) == caller]


def _end(lines: list[str], head: int, kind: str) -> int:
    """Return the index of the line after the splat that begins at ``head``.

    Lines of other callers between its own are ignored, so they cannot end it.
    """
    caller = printed_by(lines[head])
    start = _start(lines, head)
    numbers = [
        number
        for number in range(start, min(len(lines), head + 2 * _MAX_LINES))
        if not caller or printed_by(lines[number]) in ("", caller)
    ]
    own = [lines[number] for number in numbers]
    return numbers[_end_of(own, 0, head - start, kind) - 1] + 1


def _nested(lines: list[str], head: int, end: int, kind: str) -> Iterator[Splat]:
    """Yield the splats that other callers printed between the lines of the splat at ``head``.

    With CONFIG_PRINTK_CALLER each line names its caller.  Without it, a second splat
    is recognized by a message that no splat contains twice.
    """
    inner = [(index, found) for index in range(head + 1, end) if (found := kind_of(lines[index]))]
    head_caller = printed_by(lines[head])
    callers = {head_caller}
    warned = kind not in _WITH_WARNING
    for index, found in inner:
        caller = printed_by(lines[index])
        if head_caller and caller:
            another = caller not in callers
            callers.add(caller)
        else:
            another = found in _ONE_LINE or (found == "kasan" == kind) or (found == "warning" and warned)
            warned = warned or found == "warning"
        if another:
            own = _lines_of_caller(lines, index, len(lines), index)
            stop = 1 if found in _ONE_LINE else _end_of(own, 0, 0, found)
            yield Splat(found, message(lines[index]).strip(), "\n".join(own[:stop]))


def _start(lines: list[str], position: int) -> int:
    """Return the index of the ruler just above the head at ``position``, else ``position``."""
    if position > 0:
        above = message(lines[position - 1])
        if _CUT_HERE.match(above) or _RULER.match(above):
            return position - 1
    return position


def _end_of(lines: list[str], start: int, position: int, kind: str) -> int:
    """Return the index of the line after the splat that has its head at ``position``.

    ``lines`` hold no line of another caller, and the splat begins at ``start``.

    An oops has several messages of the table before its call trace; one after the
    trace begins another splat.  A ruler ends a splat that began with a ruler, and
    otherwise begins another one.
    """
    has_ruler = start < position and _RULER.match(message(lines[start])) is not None
    trace = 0  # the index of the last line that starts or ends a call trace; 0 before the first
    limit = min(len(lines), position + _MAX_LINES)
    for index in range(position + 1, limit):
        body = message(lines[index])
        ruler = _RULER.match(body)
        if _END.match(body) or (has_ruler and ruler):
            return index + 1
        another = kind_of(lines[index])
        if trace and (another is not None or ruler or _CUT_HERE.match(body)):
            return _end_of_trace(lines, trace, index)
        if another == PANIC and kind != PANIC:
            return index
        if _TRACE.match(body) or (trace and _TRACE_END.match(body)):
            trace = index
    if trace:
        return _end_of_trace(lines, trace, limit)
    return min(limit, position + _LINES_WITHOUT_TRACE)


def _end_of_trace(lines: list[str], trace: int, limit: int) -> int:
    """Return the index of the line after a call trace: the first that is not indented, at most ``limit``."""
    index = trace + 1
    while index < limit and message(lines[index]).startswith(" "):
        index += 1
    return index
