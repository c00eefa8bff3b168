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

PANIC = "panic"
REBOOT = "reboot"

# Kinds that are evidence for a scenario, not a fault of the kernel.
INFORMATIONAL = frozenset({"dmar-fault", "memory-type"})
# Kinds that say of a detector that it has not seen, or will not see, what there was.
BLINDING = frozenset({"dropped", "disabled"})

_TABLE: tuple[tuple[str, str, str], ...] = (
    (
        "dropped",
        r"\*\* \d+ printk messages dropped \*\*",
        "kernel/printk/printk.c: console_prepend_dropped()",
    ),
    ("disabled", r"DMA-API: debugging out of memory.*", "kernel/dma/debug.c"),
    ("disabled", r"DMA-API: cacheline tracking ENOMEM.*", "kernel/dma/debug.c"),
    ("disabled", r"ODEBUG: Out of memory\. ODEBUG disabled", "lib/debugobjects.c: debug_objects_oom()"),
    ("disabled", r"kmemleak: .*(detector disabled|Cannot allocate|pool empty).*", "mm/kmemleak.c"),
    (
        "disabled",
        r"BUG: MAX_(LOCK|STACK_TRACE)\w+ too low!?",
        "kernel/locking/lockdep.c: print_lockdep_off()",
    ),
    ("disabled", r"Future hung task reports are suppressed.*", "kernel/hung_task.c"),
    (
        REBOOT,
        r"reboot: (Restarting system|Power down|System halted|Power off not available).*",
        "kernel/reboot.c",
    ),
    (REBOOT, r"sysrq: (Resetting|Power Off)", "drivers/tty/sysrq.c"),
    (REBOOT, r"Linux version \d.*", "init/version.c: a kernel that begins where one was running"),
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
    ("page-table", r"kernel BUG at mm/page_table_check\.c.*", "mm/page_table_check.c"),
    ("page-table", r"BUG: non-zero pgtables_bytes on freeing mm.*", "kernel/fork.c: check_mm()"),
    (
        "page-table",
        r"\S+:\d+: bad (pte|pmd|pud|p4d|pgd) .*",
        "arch/x86/include/asm/pgtable_64.h: pmd_ERROR()",
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
        r"BUG: (invalid wait context|key .* has not been registered).*",
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
    (
        "dma-debug",
        r"DMA-API: .*(device driver|mapping sg|leak|cacheline|mapped|sync|exceed).*",
        "kernel/dma/debug.c: err_printk()",
    ),
    ("debug-objects", r"ODEBUG: \S+ .*object: .*", "lib/debugobjects.c: debug_print_object()"),
    ("oom", r"(Memory cgroup out|Out) of memory: .*", "mm/oom_kill.c"),
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
    ("memtype", r"x86/PAT: .*freeing invalid memtype.*", "arch/x86/mm/pat/memtype.c: memtype_free()"),
    ("resource", r"(resource: )?Trying to free nonexistent resource.*", "kernel/resource.c"),
    ("iommufd", r"iommufd: Time out waiting for iommufd object.*", "drivers/iommu/iommufd/main.c"),
    ("irq", r"irq \d+: nobody cared.*", "kernel/irq/spurious.c: __report_bad_irq()"),
    ("sysfs", r"sysfs: cannot create duplicate filename.*", "fs/sysfs/dir.c: sysfs_warn_dup()"),
    ("dmar-fault", r"DMAR: \[(DMA|INTR)[^\]]*\] .*", "drivers/iommu/intel/dmar.c: dmar_fault_do_one()"),
    ("memory-type", r"x86/PAT: .*(conflicting|expected mapping type|overlap).*", "arch/x86/mm/pat/memtype.c"),
)
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern, _ in _TABLE)

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
    for kind, pattern in _PATTERNS:
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
