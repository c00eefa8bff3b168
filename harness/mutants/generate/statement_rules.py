"""Faults of whole statements and conditions, which may have several lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from itertools import pairwise

from harness.mutants.generate.c_source import Function, Source, Span, Statement
from harness.mutants.generate.fault import Fault

# What a call is, by its name.  The first that fits counts.
_NOTIFIES = re.compile(
    r"notify|invalidate|wake_up|complete|signal|unmap_mapping|zap_|_event\b|^kobject_uevent|flush|sync"
)
_LOCKS = re.compile(r"\w*lock\w*|(?:down|up)(?:_(?:read|write))?|(?:scoped_)?guard")
_UNLOCKS = re.compile(r"\w*unlock\w*|up(?:_(?:read|write))?")
_CHECKS = re.compile(
    r"lockdep_|might_|dma_resv_assert|WARN|BUG|pr_|dev_(?:info|warn|err|dbg)|pci_(?:info|warn|err|dbg)|printk"
)
_OTHER_SIDE = {
    "down_write": "down_read",
    "up_write": "up_read",
    "down_read": "down_write",
    "up_read": "up_write",
    "read_lock": "write_lock",
    "read_unlock": "write_unlock",
    "write_lock": "read_lock",
    "write_unlock": "read_unlock",
}
_RELEASE = {
    "down_write": "up_write",
    "down_read": "up_read",
    "mutex_lock": "mutex_unlock",
    "spin_lock": "spin_unlock",
    "spin_lock_irq": "spin_unlock_irq",
    "spin_lock_irqsave": "spin_unlock_irqrestore",
    "dma_resv_lock": "dma_resv_unlock",
    "read_lock": "read_unlock",
    "write_lock": "write_unlock",
    "rcu_read_lock": "rcu_read_unlock",
}


def faults(file: str, source: Source, wanted: Set[int]) -> Iterator[Fault]:
    """Yield the faults of statements and conditions whose lines are all ``wanted``."""
    for function in source.functions:
        edit = _Edit(file, source, function, wanted)
        for rule in _RULES:
            yield from rule(edit)


class _Edit:
    """Edits of one function that keep the number of lines."""

    def __init__(self, file: str, source: Source, function: Function, wanted: Set[int]) -> None:
        self.file, self.source, self.function, self.wanted = file, source, function, wanted

    def statements(self) -> Iterator[Statement]:
        """Yield the statements whose lines are all wanted."""
        return (one for one in self.function.statements if self.has(one.span))

    def has(self, span: Span) -> bool:
        """Return whether all lines of a span are wanted."""
        return all(line in self.wanted for line in range(span.first, span.last + 1))

    def fault(self, rule: str, *changes: tuple[Span, str]) -> Iterator[Fault]:
        """Yield the fault that replaces these spans, which are in order; missing lines are added at ends."""
        first, last = changes[0][0].first, changes[-1][0].last
        offset = len("".join(self.source.lines[: first - 1]).encode(errors="surrogateescape"))
        old = "".join(self.source.lines[first - 1 : last])
        new, at = b"", offset
        for span, text in changes:
            kept = text.encode(errors="surrogateescape")
            lost = span.last - span.first - text.count("\n")
            new += self.source.text[at : span.start] + kept + b"\n" * lost
            at = span.end
        new += self.source.text[at : offset + len(old.encode(errors="surrogateescape"))]
        changed = new.decode(errors="surrogateescape")
        if changed != old and changed.count("\n") == old.count("\n"):
            yield Fault(self.file, first, last, self.function.identifier, rule, old, changed)


def _drop(edit: _Edit) -> Iterator[Fault]:
    for one in edit.statements():
        if one.kind not in ("call", "assignment", "other") or _CHECKS.match(one.callee):
            continue
        rule = "drop a statement"
        if _NOTIFIES.search(one.callee):
            rule = "drop a notification"
        elif one.callee and _LOCKS.fullmatch(one.callee):
            rule = "drop an unlock" if _UNLOCKS.fullmatch(one.callee) else "drop a lock"
        yield from edit.fault(rule, (one.span, "{ }"))


def _drop_pair(edit: _Edit) -> Iterator[Fault]:
    for taken, released in _pairs(edit):
        yield from edit.fault("drop a lock and its unlock", (taken.span, "{ }"), (released.span, "{ }"))


def _other_lock(edit: _Edit) -> Iterator[Fault]:
    for taken, released in _pairs(edit):
        if taken.callee in _OTHER_SIDE:
            changes = [
                (one.span, edit.source.at(one.span).replace(one.callee, _OTHER_SIDE[one.callee], 1))
                for one in (taken, released)
            ]
            yield from edit.fault("take the other lock", *changes)


def _pairs(edit: _Edit) -> Iterator[tuple[Statement, Statement]]:
    """Yield each lock with the only unlock of it in this function."""
    wanted = list(edit.statements())
    for taken in wanted:
        release = _RELEASE.get(taken.callee)
        found = [
            one
            for one in wanted
            if release
            and one.callee == release
            and one.arguments[:1] == taken.arguments[:1]
            and one.span.start > taken.span.start
        ]
        if len(found) == 1:
            yield taken, found[0]


def _swap(edit: _Edit) -> Iterator[Fault]:
    for one, other in pairwise(sorted(edit.statements(), key=lambda each: (each.block, each.place))):
        if one.block != other.block or one.place + 1 != other.place:
            continue
        if _CHECKS.match(one.callee) or _CHECKS.match(other.callee):
            continue
        if {one.kind, other.kind} <= {"call", "assignment"} and "call" in (one.kind, other.kind):
            first, second = (edit.source.at(each.span) for each in (one, other))
            # Each text keeps its own number of lines, so their sum stays.
            between = edit.source.text[one.span.end : other.span.start].decode(errors="surrogateescape")
            whole = Span(one.span.first, other.span.last, one.span.start, other.span.end)
            yield from edit.fault("swap two statements", (whole, second + between + first))


def _condition(edit: _Edit) -> Iterator[Fault]:
    for span in edit.function.conditions:
        if edit.has(span):
            text = edit.source.at(span)
            yield from edit.fault("negate a condition", (span, f"(!{text})"))
            yield from edit.fault("a condition always true", (span, f"(1 || {text})"))
            yield from edit.fault("a condition never true", (span, f"(0 && {text})"))


def _leave(edit: _Edit) -> Iterator[Fault]:
    for one in edit.statements():
        if one.kind in ("break", "continue"):
            yield from edit.fault("drop a statement", (one.span, "{ }"))
        elif one.kind in ("goto", "return"):
            yield from edit.fault("go on instead of leaving", (one.span, "{ }"))
        elif one.loop and one.kind in ("call", "assignment"):
            yield from edit.fault("leave a loop early", (one.span, edit.source.at(one.span) + " break;"))


_RULES: tuple[Callable[[_Edit], Iterator[Fault]], ...] = (
    _drop,
    _drop_pair,
    _other_lock,
    _swap,
    _condition,
    _leave,
)
