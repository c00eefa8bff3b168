"""Find the call traces that belong to no splat of the table.

A call trace is a fault whatever message stands above it, for the kernel dumps its
stack only when something is wrong.  The exceptions are the dumps that somebody asked
for (sysrq), and those of other tasks and processors, which belong to the splat before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.klog.heads import MESSAGE_LENGTH, Line
from harness.klog.patterns import DETECTOR_LOST, INFORMATIONAL, REBOOT

# The first line of a dump: lib/dump_stack.c: dump_stack_print_info(), arch/x86/kernel/dumpstack.c:
# show_trace_log_lvl(), and the line of lockdep with the taint of the kernel (print_kernel_ident()).
_DUMP = re.compile(r"Call Trace:|CPU: \d+ .*PID: \d+ |.*\b(?:Not tainted|Tainted: )")
# A line inside a dump, above or below its call trace.
_DETAIL = re.compile(
    r" |$|Call Trace:|stack backtrace:|CPU: \d+ |Hardware name: |Tainted: |Workqueue: |Stopper: |Sched_ext: "
    r"|(RIP|RSP|ORIG_RAX|EFLAGS|R[A-Z]X|R[DS]I|RBP|R\d\d|[FCDEG]S|CR\d|DR\d|PKRU|Code): ?|Modules linked in:"
    r"|Preemption disabled at:|\[<|-+\[ cut here|-+\[ end trace|={20,}$|-{20,}$"
)
# The dump of another task or processor, which belongs to the splat before.
_OTHER = re.compile(
    r"NMI backtrace for cpu |Sending NMI from CPU |task:|Task dump for CPU |CPU\d+:|pool \d+:"
)
_SYSRQ = re.compile(r"sysrq: ")
_OOM = re.compile(r".* invoked oom-killer: ", re.DOTALL)
# The longest time between a message and the dump below it, and the largest size of a dump.
_SECONDS = 1.0
_MAX_LINES = 150
_NO_HEAD = "Call Trace: (without a message)"


@dataclass(frozen=True)
class Unclaimed:
    """A call trace that belongs to no splat.

    ``kind`` is ``warning`` if its head says so, ``oom`` for a dump of the OOM killer, and
    otherwise ``trace``.  ``title`` is the message above it, ``numbers`` are those of its
    lines.
    """

    kind: str
    title: str
    numbers: tuple[int, ...]


def is_dump(line: Line) -> bool:
    """Return whether ``line`` begins the dump of a stack."""
    return _DUMP.match(line.body) is not None


def unclaimed(lines: list[Line], claimed: Mapping[int, str]) -> Iterator[Unclaimed]:
    """Yield the call traces of ``lines`` that belong to none of the splats with the lines ``claimed``."""
    by_caller: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        if line.prefix is not None and claimed.get(number) not in _ALONE:
            by_caller.setdefault(line.caller, []).append(number)
    answers = _Answers(lines, claimed)
    for own in by_caller.values():
        position = last = 0
        while position < len(own):
            if own[position] in claimed or not is_dump(lines[own[position]]):
                position += 1
                continue
            first, last = _bounds(lines, own, last, position, claimed)
            head = own[first - 1] if first > 0 else None
            found = _judge(lines, [own[number] for number in range(first, last)], head, claimed, answers)
            if found is not None:
                yield found
            position = last


# Kinds of one line, which may stand between a message and its dump.
_ALONE = INFORMATIONAL | DETECTOR_LOST | {REBOOT}


class _Answers:
    """The lines by which a dump is told from one that somebody asked for."""

    def __init__(self, lines: list[Line], claimed: Mapping[int, str]) -> None:
        asked = (number for number, line in enumerate(lines) if number in claimed or _SYSRQ.match(line.body))
        self._first_asked = next(asked, len(lines))
        self._last_oom = max((number for number, kind in claimed.items() if kind == "oom"), default=-1)

    def asked(self, number: int) -> bool:
        """Return whether a splat, or a message of sysrq, stands before a line."""
        return self._first_asked < number

    def oom_after(self, number: int) -> bool:
        """Return whether a splat of the OOM killer has a line after a line."""
        return self._last_oom > number


def _bounds(
    lines: list[Line], own: list[int], floor: int, dump: int, claimed: Mapping[int, str]
) -> tuple[int, int]:
    """Return the positions in ``own`` of the first line of a dump, and of the line after it.

    The dump before ended at ``floor``.
    """

    def inside(position: int) -> bool:
        number = own[position]
        if number in claimed or lines[number].kind is not None:
            return False
        return (lines[number].quoted and not _OOM.match(lines[number].body)) or bool(
            _DETAIL.match(lines[number].body) or is_dump(lines[number])
        )

    first = dump
    while first > max(floor, dump - _MAX_LINES) and inside(first - 1):
        first -= 1
    last = dump + 1
    while last < min(len(own), dump + _MAX_LINES) and inside(last):
        last += 1
    return first, last


def _judge(
    lines: list[Line],
    numbers: list[int],
    head: int | None,
    claimed: Mapping[int, str],
    answers: _Answers,
) -> Unclaimed | None:
    """Return the dump ``numbers`` as a fault below the message ``head``, or None if it is none."""
    if head in claimed:
        return None  # another dump of the splat before
    near = head is not None and _near(lines[head], lines[numbers[0]])
    title = lines[head].body[:MESSAGE_LENGTH].strip() if head is not None and near else ""
    of_other = _OTHER.match(title) or any(_OTHER.match(lines[number].body) for number in numbers)
    if answers.asked(numbers[0]) and (of_other or _SYSRQ.match(title)):
        return None
    if _OOM.match(title):
        if answers.oom_after(numbers[0]):
            return None
        return Unclaimed("oom", title, (head or 0, *numbers))
    if not title:
        return Unclaimed("trace", _NO_HEAD, tuple(numbers))
    kind = "warning" if title.startswith("WARNING:") else "trace"
    return Unclaimed(kind, title, (head or 0, *numbers))


def _near(head: Line, dump: Line) -> bool:
    return (
        head.prefix is not None
        and dump.prefix is not None
        and dump.prefix.time - head.prefix.time <= _SECONDS
    )
