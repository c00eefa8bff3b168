"""Find the splats in a console log.

``harness.klog.patterns`` has the table of all known splats.  A splat begins at a
message that matches a row (its head).  Its end is found by the markers of the kernel:
a ruler, the end of the call trace, ``---[ end trace``.  A call trace below a head that
no row knows is a splat, too (``harness.klog.traces``).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from harness.klog import traces
from harness.klog.fingerprint import fingerprint, innermost_functions
from harness.klog.heads import Line, kind_of, read
from harness.klog.lines import clean
from harness.klog.patterns import DETECTOR_LOST, INFORMATIONAL, PANIC, REBOOT, WITHOUT_TRACE

__all__ = ["Splat", "clean", "extract", "kind_of"]

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
# Splats of other callers that are looked for between the lines of one.
_MAX_NESTED = 20
#: Faults that are read of one console; as many that only inform, and as many lost detectors.
MAX_SPLATS = 1000
#: Characters of one splat.
TEXT_LIMIT = 64 << 10
# Functions of a call trace that are the place of a fault, whoever called them.
PLACE_FRAMES = 3


@dataclass(frozen=True)
class Splat:
    """One splat.

    ``kind`` is that of its row in patterns.TABLE, or of traces.Unclaimed.  ``title`` is
    the message that matched, and ``text`` all its console lines.
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

    @cached_property
    def place(self) -> str:
        """Twelve hex digits like the fingerprint, made of kind, title and the three innermost functions.

        They are equal where a series puts functions of its own into the way to the same fault.
        """
        return fingerprint(self.kind, self.title, self.frames[:PLACE_FRAMES])


def extract(text: str, *, up: bool = False) -> list[Splat]:
    """Return the splats in ``text`` (as clean() returns it), oldest first.

    ``up`` means that a kernel was already running: then its first ``Linux version`` line
    is a splat of the kind REBOOT.  Otherwise only the second such line is one.

    The time is linear in the text.  After MAX_SPLATS faults the rest is not searched.
    """
    lines = read(text)
    found = _Found()
    by_caller = _by_caller(lines)
    claimed: dict[int, str] = {}  # the numbers of all lines of splats, with the kind
    position = 0
    while position < len(lines) and not found.enough:
        kind = lines[position].kind
        if kind == REBOOT and not up and lines[position].body.startswith("Linux version"):
            kind, up = None, True
        if kind is None:
            position += 1
            continue
        end = position + 1 if kind in _ONE_LINE else _end(lines, position, kind)
        nested = list(_nested(lines, by_caller, position, end, kind))
        first = position if kind in _ONE_LINE else _start(lines, position)
        own = _of_caller(lines, range(first, end), position) if nested else list(range(first, end))
        for head, numbers in [(position, own), *nested]:
            of_kind = lines[head].kind or ""
            found.add(head, of_kind, lines[head].title, (lines[number].text for number in numbers))
            claimed |= dict.fromkeys(_of_caller(lines, numbers, head), of_kind)
        position = end
    for trace in traces.unclaimed(lines, claimed):
        found.add(trace.numbers[0], trace.kind, trace.title, (lines[number].text for number in trace.numbers))
        if found.enough:
            break
    return [splat for _, splat in sorted(found.splats, key=lambda one: one[0])]


class _Found:
    """The splats found so far, each with the number of its head."""

    def __init__(self) -> None:
        self.splats: list[tuple[int, Splat]] = []
        self._counts = {"fault": 0, "informational": 0, "detector lost": 0}

    @property
    def enough(self) -> bool:
        """True if there are MAX_SPLATS faults.  Other splats, which excuse nothing, do not count."""
        return self._counts["fault"] >= MAX_SPLATS

    def add(self, head: int, kind: str, title: str, texts: Iterator[str]) -> None:
        """Add a splat, unless there are enough of its sort."""
        splat = Splat(kind, title, "")
        sort = "informational" if splat.informational else "fault" if splat.fault else "detector lost"
        self._counts[sort] += 1
        if self._counts[sort] <= MAX_SPLATS:
            content = "\n".join(text[:TEXT_LIMIT] for text in texts)
            self.splats.append((head, replace(splat, text=content[:TEXT_LIMIT])))


def _by_caller(lines: list[Line]) -> dict[str, list[int]]:
    """Return the numbers of the lines of each caller."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        found.setdefault(line.caller, []).append(number)
    return found


def _of_caller(lines: list[Line], numbers: Sequence[int], head: int) -> list[int]:
    """Return those of ``numbers`` whose lines the caller of ``head`` printed, or all if it is unknown."""
    caller = lines[head].caller
    return [number for number in numbers if not caller or lines[number].caller == caller]


def _end(lines: list[Line], head: int, kind: str) -> int:
    """Return the number of the line after the splat that begins at ``head``.

    Lines of other callers between its own are ignored, so they cannot end it.
    """
    caller = lines[head].caller
    start = _start(lines, head)
    numbers = [
        number
        for number in range(start, min(len(lines), head + 2 * _MAX_LINES))
        if not caller or lines[number].caller in ("", caller)
    ]
    own = [lines[number] for number in numbers]
    return numbers[_end_of(own, 0, head - start, kind) - 1] + 1


def _nested(
    lines: list[Line], by_caller: dict[str, list[int]], head: int, end: int, kind: str
) -> Iterator[tuple[int, list[int]]]:
    """Yield the splats that other callers printed between the lines of the splat at ``head``.

    A splat is the number of its head and the numbers of its lines.  With
    CONFIG_PRINTK_CALLER each line names its caller.  Without it, a second splat
    is recognized by a message that no splat contains twice.
    """
    head_caller = lines[head].caller
    callers = {head_caller}
    warned = kind not in _WITH_WARNING
    count = 0
    for number in range(head + 1, end):
        found, caller = lines[number].kind, lines[number].caller
        if found is None or count == _MAX_NESTED:
            continue
        if head_caller and caller:
            another = caller not in callers
            callers.add(caller)
        else:
            another = found in _ONE_LINE or (found == "kasan" == kind) or (found == "warning" and warned)
            warned = warned or found == "warning"
        if another:
            count += 1
            own = list(range(number, min(len(lines), number + _MAX_LINES)))
            if caller:
                first = bisect_left(by_caller[caller], number)
                own = by_caller[caller][first : first + _MAX_LINES]
            stop = 1 if found in _ONE_LINE else _end_of([lines[one] for one in own], 0, 0, found)
            yield number, own[:stop]


def _start(lines: list[Line], position: int) -> int:
    """Return the number of the ruler just above the head at ``position``, else ``position``."""
    if position > 0:
        above = lines[position - 1].body
        if _CUT_HERE.match(above) or _RULER.match(above):
            return position - 1
    return position


def _end_of(lines: list[Line], start: int, position: int, kind: str) -> int:
    """Return the number of the line after the splat that has its head at ``position``.

    ``lines`` hold no line of another caller, and the splat begins at ``start``.

    An oops has several messages of the table before its call trace; one after the
    trace begins another splat.  A ruler ends a splat that began with a ruler, and
    otherwise begins another one.
    """
    has_ruler = start < position and _RULER.match(lines[start].body) is not None
    trace = 0  # the number of the last line that starts or ends a call trace; 0 before the first
    dumped = False
    limit = min(len(lines), position + _MAX_LINES)
    if kind in WITHOUT_TRACE and not (position + 1 < limit and traces.is_dump(lines[position + 1])):
        return position + 1
    for number in range(position + 1, limit):
        line = lines[number]
        body = line.body
        ruler = _RULER.match(body)
        if _END.match(body) or (has_ruler and ruler):
            return number + 1
        if trace and (line.kind is not None or ruler or _CUT_HERE.match(body)):
            return _end_of_trace(lines, trace, number)
        if line.kind in (PANIC, REBOOT) and kind != line.kind:
            return number
        far = number > position + _LINES_WITHOUT_TRACE and not dumped
        if far and line.kind not in (None, kind) and kind not in _WITH_WARNING:
            return position + _LINES_WITHOUT_TRACE
        dumped = dumped or traces.is_dump(line)
        if _TRACE.match(body) or (trace and _TRACE_END.match(body)):
            trace = number
    if trace:
        return _end_of_trace(lines, trace, limit)
    return min(limit, position + _LINES_WITHOUT_TRACE)


def _end_of_trace(lines: list[Line], trace: int, limit: int) -> int:
    """Return the number of the line after a call trace, at most ``limit``.

    Lines of programs do not end it; the first message that is not indented does.
    """
    end = trace + 1
    for number in range(end, limit):
        if lines[number].prefix is not None:
            if not lines[number].body.startswith(" "):
                break
            end = number + 1
    return end
