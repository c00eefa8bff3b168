"""What a kernel prints when it finds itself in trouble, and how to find it in a console log.

The table is the whole knowledge: each row is a kind, a pattern anchored at the
start of a message, and where the kernel prints it.  A row comes before any row
that would match the same message less precisely.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from harness.klog.patterns import BLINDING, INFORMATIONAL, PANIC, PATTERNS, REBOOT

# printk's timestamp and, with CONFIG_PRINTK_CALLER, the thread or processor.
_STAMP = r"\[ *\d+\.\d{6}\](?:\[ *(?:[TC]\d+)\])? ?"
_PREFIX = re.compile(rf"(?:<\d+>)?{_STAMP}")
_CALLER = re.compile(r"(?:<\d+>)?\[ *\d+\.\d{6}\]\[ *([TC]\d+)\]")
_TORN = re.compile(rf"(?<=[^\n])(?={_STAMP}|\*\* \d+ printk messages dropped \*\*)")
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_CUT_HERE = re.compile(r"-+\[ cut here \]-+")
_RULE = re.compile(r"={20,}$")
_END = re.compile(r"---\[ end (trace|Kernel panic)")
_TRACE = re.compile(r"Call Trace:|stack backtrace:")
_TRACE_END = re.compile(r" ?</TASK>")
# A line that does not end is looked at in pieces of this length (bytes).
LINE_LIMIT = 1 << 16
# A splat without an end of its own is taken to be no longer than this.
_MOST_LINES = 150
_LINES_WITHOUT_TRACE = 8
# What is told in one line.
_ONE_LINE = INFORMATIONAL | BLINDING | {REBOOT}
# What is told ahead of a WARN, which is part of it.
_WITH_WARNING = frozenset({"refcount", "list", "slab", "dma-debug", "debug-objects"})

# A frame of a call trace that is no guess (``?``), and where the processor was in the kernel.
_FRAME = re.compile(r"(?:RIP: 0010:| )([A-Za-z_][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
# Functions that report, or bring the processor to those that do: the same in many splats.
_PLUMBING = re.compile(
    r"(dump_stack|show_stack|show_trace|print_|kasan_|__asan_|check_panic|warn_slowpath|__warn|report_bug|handle_bug"
    r"|exc_|asm_|entry_|do_syscall|x64_sys|ret_from|die|oops|page_fault|panic|__might|bad_page|sysvec"
    r"|__sysvec|nmi_|lock_acquire|_raw_|ubsan_|__ubsan|refcount_warn|__list_|debug_dma).*"
)
_SUFFIX = re.compile(r"(\.(constprop|isra|part|cold|llvm)(\.\d+)*)+$")
_FRAMES = 5
_VARYING = (
    (re.compile(r", CPU#\d+: .*|CPU: \d+ PID: \d+ (at )?"), ""),
    (re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+"), ""),
    (re.compile(r"(?<=\.[chS]):\d+(:\d+)?"), ""),
    (re.compile(r"\[[^\]]*:\d+\]"), "[#]"),
    (re.compile(r"\b(0x)?[0-9a-f]{8,}\b|\b0x[0-9a-f]+\b|(?<![\w-])\d+"), "#"),
)


@dataclass(frozen=True)
class Splat:
    """One complaint of the kernel: its kind, its first telling line, and all of it."""

    kind: str
    title: str
    text: str

    @property
    def informational(self) -> bool:
        """Whether it is evidence for a scenario and no fault of the kernel."""
        return self.kind in INFORMATIONAL

    @property
    def blinding(self) -> bool:
        """Whether it says that a detector could not see, or will not."""
        return self.kind in BLINDING

    @property
    def fault(self) -> bool:
        """Whether it is held against the kernel."""
        return not self.informational and not self.blinding

    @cached_property
    def frames(self) -> tuple[str, ...]:
        """The functions nearest to where it happened, the innermost first; five at most."""
        found = (_FRAME.match(message(line)) for line in self.text.splitlines())
        names = (_SUFFIX.sub("", match[1]) for match in found if match)
        return tuple(dict.fromkeys(name for name in names if not _PLUMBING.fullmatch(name)))[:_FRAMES]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits, the same for the same complaint of another run.

        Made of the kind, the title without what varies (addresses, numbers of lines,
        processes and processors), and the frames.
        """
        title = self.title
        for pattern, instead in _VARYING:
            title = pattern.sub(instead, title)
        content = "\n".join([self.kind, title.strip(), *self.frames])
        return hashlib.sha256(content.encode(errors="replace")).hexdigest()[:12]


def clean(raw: bytes) -> str:
    """Console bytes as text: no escapes, no control characters, one kernel message per line.

    A message that was printed into the middle of a line of user space begins a
    line of its own.
    """
    text = raw.decode(errors="replace").replace("\r", "")
    return _TORN.sub("\n", _UNPRINTABLE.sub("", _ESCAPE.sub("", text)))


def line_start(stream: BinaryIO, offset: int) -> int:
    """Where the line of a console's log begins that holds byte ``offset``.

    A line longer than LINE_LIMIT is begun in its middle.
    """
    first = max(offset - LINE_LIMIT, 0)
    stream.seek(first)
    before = stream.read(offset - first)
    return offset if not before else first + before.rfind(b"\n") + 1


def message(line: str) -> str:
    """A console line without the kernel's timestamp and thread."""
    return _PREFIX.sub("", line, count=1) if _PREFIX.match(line) else line


def kind_of(line: str) -> str | None:
    """The kind of splat that this line begins, or None."""
    body = message(line)
    for kind, pattern in PATTERNS:
        if pattern.match(body):
            return kind
    return None


def extract(text: str, *, up: bool = False) -> list[Splat]:
    """The splats in ``text`` (as clean() returns it), oldest first.

    ``up`` says that a kernel was running before: one that begins is then a splat
    of the kind REBOOT, as is the second that begins.
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
        others = list(_between(lines, position, end, kind))
        first = position if kind in _ONE_LINE else _start_of(lines, position)
        mine = _own(lines, first, end, position) if others else lines[first:end]
        splats.append(Splat(kind, message(lines[position]).strip(), "\n".join(mine)))
        splats += others
        position = end
    return splats


def _caller(line: str) -> str:
    """The thread or processor that printed a line, where the kernel says it."""
    found = _CALLER.match(line)
    return found[1] if found else ""


def _own(lines: list[str], first: int, end: int, head: int) -> list[str]:
    """Of some lines those that came from where line ``head`` did, as far as that is known."""
    whose = _caller(lines[head])
    return [line for line in lines[first:end] if not whose or _caller(line) == whose]


def _end(lines: list[str], head: int, kind: str) -> int:
    """The line after the last of the splat that begins at ``head``; no line of another one ends it."""
    whose = _caller(lines[head])
    start = _start_of(lines, head)
    numbers = [
        number
        for number in range(start, min(len(lines), head + 2 * _MOST_LINES))
        if not whose or _caller(lines[number]) in ("", whose)
    ]
    own = [lines[number] for number in numbers]
    return numbers[_end_of(own, 0, head - start, kind) - 1] + 1


def _between(lines: list[str], head: int, end: int, kind: str) -> Iterator[Splat]:
    """What another processor has printed between the lines of the splat that begins at ``head``.

    With CONFIG_PRINTK_CALLER its lines are told apart.  Without it, another one is
    known by what no splat says twice.
    """
    inner = [(index, found) for index in range(head + 1, end) if (found := kind_of(lines[index]))]
    whose = _caller(lines[head])
    others = {whose}
    warned = kind not in _WITH_WARNING
    for index, found in inner:
        caller = _caller(lines[index])
        if whose and caller:
            another = caller not in others
            others.add(caller)
        else:
            another = found in _ONE_LINE or (found == "kasan" == kind) or (found == "warning" and warned)
            warned = warned or found == "warning"
        if another:
            theirs = _own(lines, index, len(lines), index)
            stop = 1 if found in _ONE_LINE else _end_of(theirs, 0, 0, found)
            yield Splat(found, message(lines[index]).strip(), "\n".join(theirs[:stop]))


def _start_of(lines: list[str], position: int) -> int:
    """Take in the ruler above the first telling line."""
    if position > 0:
        above = message(lines[position - 1])
        if _CUT_HERE.match(above) or _RULE.match(above):
            return position - 1
    return position


def _end_of(lines: list[str], start: int, position: int, kind: str) -> int:
    """The line after the last one that belongs to the splat whose first telling line is at ``position``.

    An oops has several telling lines before its call trace; one after the trace
    is another splat.  A ruler ends what began with one, and begins another else.
    """
    ruled = start < position and _RULE.match(message(lines[start])) is not None
    traced = 0
    limit = min(len(lines), position + _MOST_LINES)
    for index in range(position + 1, limit):
        body = message(lines[index])
        ruler = _RULE.match(body)
        if _END.match(body) or (ruled and ruler):
            return index + 1
        another = kind_of(lines[index])
        if traced and (another is not None or ruler or _CUT_HERE.match(body)):
            return _end_of_trace(lines, traced, index)
        if another == PANIC and kind != PANIC:
            return index
        if _TRACE.match(body) or (traced and _TRACE_END.match(body)):
            traced = index
    if traced:
        return _end_of_trace(lines, traced, limit)
    return min(limit, position + _LINES_WITHOUT_TRACE)


def _end_of_trace(lines: list[str], traced: int, limit: int) -> int:
    """A call trace without a closing line goes on for as long as its lines are indented."""
    index = traced + 1
    while index < limit and message(lines[index]).startswith(" "):
        index += 1
    return index
