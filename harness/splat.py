"""What a kernel prints when it finds itself in trouble, and how to find it in a console log.

The table is the whole knowledge: each row is a kind, a pattern anchored at the
start of a message, and where the kernel prints it.  A row comes before any row
that would match the same message less precisely.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PANIC = "panic"

# Kinds that are evidence for a scenario, not a fault of the kernel.
INFORMATIONAL = frozenset({"dmar-fault", "memory-type"})

_TABLE: tuple[tuple[str, str, str], ...] = (
    (PANIC, r"Kernel panic - not syncing: .*", "kernel/panic.c: vpanic()"),
    ("kasan", r"BUG: KASAN: .*", "mm/kasan/report.c"),
    ("kfence", r"BUG: KFENCE: .*", "mm/kfence/report.c"),
    ("kcsan", r"BUG: KCSAN: .*", "kernel/kcsan/report.c"),
    ("kmsan", r"BUG: KMSAN: .*", "mm/kmsan/report.c"),
    ("ubsan", r"UBSAN: .*", "lib/ubsan.c"),
    (
        "bad-page",
        r"BUG: Bad (page|rss-counter|swap) .*",
        "mm/page_alloc.c: bad_page(), mm/memory.c, kernel/fork.c",
    ),
    ("lockup", r"(watchdog: )?BUG: soft lockup - .*", "kernel/watchdog.c"),
    ("lockup", r"(NMI )?watchdog: .*hard LOCKUP.*", "kernel/watchdog.c"),
    ("lockup", r"BUG: workqueue lockup - .*", "kernel/workqueue.c"),
    ("rcu-stall", r"rcu: INFO: .*stall.*", "kernel/rcu/tree_stall.h, tree_exp.h"),
    ("rcu-stall", r"rcu: .*kthread (timer wakeup|starved|grace-period).*", "kernel/rcu/tree_stall.h"),
    ("hung-task", r"INFO: task .* blocked .*for more than \d+ seconds.*", "kernel/hung_task.c"),
    (
        "lockdep",
        r"WARNING: (possible|suspicious|bad|inconsistent|Nested|held|lock held) .*",
        "kernel/locking/lockdep.c",
    ),
    ("lockdep", r"WARNING: .*(lock order|unlock balance|lock freed).*", "kernel/locking/lockdep.c"),
    (
        "lockdep",
        r"BUG: (invalid wait context|MAX_LOCK\w+ too low|key .* has not been registered).*",
        "lockdep.c",
    ),
    ("lockdep", r"\[ BUG: .* \]", "kernel/locking/lockdep.c, the older form"),
    ("lockdep", r"INFO: trying to register non-static key.*", "kernel/locking/lockdep.c"),
    ("lockdep", r"INFO: possible (circular|recursive|irq) .*", "kernel/locking/lockdep.c, the older form"),
    ("list", r"(list_add|list_del|hlist_\w+) corruption.*", "lib/list_debug.c"),
    ("slab", r"BUG \S+ \(.*\): .*", "mm/slub.c: slab_bug()"),
    ("slab", r"BUG: Object .* remaining on .*", "mm/slub.c"),
    ("usercopy", r"usercopy: .* attempt detected .*", "mm/usercopy.c"),
    ("refcount", r"refcount_t: .*", "lib/refcount.c"),
    ("dma-debug", r"DMA-API: .*(device driver|leak|cacheline|mapped|sync|exceed).*", "kernel/dma/debug.c"),
    ("leak", r"kmemleak: [1-9]\d* new suspected memory leaks.*", "mm/kmemleak.c"),
    ("bug", r"kernel BUG at .*", "arch/x86: BUG()"),
    ("oops", r"BUG: (kernel NULL pointer dereference|unable to handle).*", "arch/x86/mm/fault.c"),
    (
        "oops",
        r"(Oops|general protection fault|double fault|stack segment|invalid opcode|divide error)[:, ].*",
        "arch/x86",
    ),
    ("oops", r"traps: PANIC: .*", "arch/x86/kernel/traps.c, double fault"),
    ("bug", r"BUG: .*", "sleeping while atomic, bad spinlock, scheduling while atomic and others"),
    ("warning", r"WARNING: .*", "kernel/panic.c: __warn(), and what has no row of its own"),
    ("dmar-fault", r"DMAR: \[(DMA|INTR)[^\]]*\] .*", "drivers/iommu/intel/dmar.c: dmar_fault_do_one()"),
    ("memory-type", r"x86/PAT: .*(conflicting|expected mapping type|overlap).*", "arch/x86/mm/pat/memtype.c"),
)
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern, _ in _TABLE)

# printk's timestamp and, with CONFIG_PRINTK_CALLER, the thread or processor.
_STAMP = r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ?"
_PREFIX = re.compile(rf"(?:<\d+>)?{_STAMP}")
_TORN = re.compile(rf"(?<=[^\n])(?={_STAMP})")
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_CUT_HERE = re.compile(r"-+\[ cut here \]-+")
_RULE = re.compile(r"={20,}$")
_END = re.compile(r"---\[ end (trace|Kernel panic)")
_TRACE = re.compile(r"Call Trace:|stack backtrace:")
_TRACE_END = re.compile(r" ?</TASK>")
# A splat without an end of its own is taken to be no longer than this.
_MOST_LINES = 150
_LINES_WITHOUT_TRACE = 8


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


def clean(raw: bytes) -> str:
    """Console bytes as text: no escapes, no control characters, one kernel message per line.

    A message that was printed into the middle of a line of user space begins a
    line of its own.
    """
    text = raw.decode(errors="replace").replace("\r", "")
    return _TORN.sub("\n", _UNPRINTABLE.sub("", _ESCAPE.sub("", text)))


def message(line: str) -> str:
    """A console line without the kernel's timestamp and thread."""
    return _PREFIX.sub("", line, count=1) if _PREFIX.match(line) else line


def kind_of(line: str) -> str | None:
    """The kind of splat that this line begins, or None."""
    body = message(line)
    for kind, pattern in _PATTERNS:
        if pattern.match(body):
            return kind
    return None


def extract(text: str) -> list[Splat]:
    """The splats in ``text`` (as clean() returns it), oldest first."""
    lines = text.splitlines()
    splats: list[Splat] = []
    position = 0
    while position < len(lines):
        kind = kind_of(lines[position])
        if kind is None:
            position += 1
            continue
        start = _start_of(lines, position)
        end = position + 1 if kind in INFORMATIONAL else _end_of(lines, start, position, kind)
        splats.append(Splat(kind, message(lines[position]).strip(), "\n".join(lines[start:end])))
        position = end
    return splats


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
