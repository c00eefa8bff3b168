"""The page table of a mapping before and after the operation that decided, as bars."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.lib.page_table import PageTable
from harness.report.evidence import Step

WIDTH = 600  # units of a bar
SPANS = 300  # rectangles of one bar; more cannot be told apart
LEVELS = ("pte", "pmd", "pud")  # what maps 4 KiB, 2 MiB and 1 GiB
_OPERATION = re.compile(r"> (?P<who>(?:[@&]\S+ )*)(?P<verb>\S+)(?P<rest>.*)")
_ACTOR = re.compile(r"! actor (\d{1,6})\b")
_LENGTH = re.compile(r"\blength=(0x[0-9a-fA-F]+|\d+)")
_ANSWER = re.compile(r"ok (map\d+)\b")


@dataclass(frozen=True)
class Rectangle:
    """A present span of a bar, in units of WIDTH; ``level`` is one of LEVELS, or ``other``."""

    x: float
    width: float
    level: str


@dataclass(frozen=True)
class Bar:
    """The page table of a mapping at one moment: ``when`` is a clause, ``words`` say what the bar shows."""

    when: str
    words: str
    rectangles: tuple[Rectangle, ...]


@dataclass(frozen=True)
class Picture:
    """The bars of one mapping, over ``extent`` (a size in words), the earliest first."""

    mapping: str
    extent: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class _Reading:
    line: int
    mapping: str
    table: PageTable


def picture(steps: Sequence[Step]) -> Picture | None:
    """Return the page table of the mapping that the decisive operation is about, before and after it.

    The mapping is the one that the operation names, else that of the latest ``pagetable`` reply up to
    there, else of the first later.
    None if the transcript has none.
    """
    readings = list(_readings(steps))
    decisive = next((one.number for one in steps if one.decisive), steps[-1].number if steps else 0)
    until = [one for one in readings if one.line <= decisive]
    later = [one for one in readings if one.line > decisive]
    if not (until or later):
        return None
    named = next((one.text.split() for one in steps if one.decisive), [])
    about = [one for one in readings if one.mapping.rpartition(" ")[2] in named]
    mapping = (about or until or later)[-1 if about or until else 0].mapping
    mine = [one for one in until if one.mapping == mapping]
    after = [one for one in later if one.mapping == mapping][:1]
    asked = bool(mine) and mine[-1].line == decisive
    chosen = mine[-2:] if asked or not after else mine[-1:] + after
    lengths = _lengths(steps)
    own = mapping.rpartition(" ")[2]  # a child has the mappings of its parent
    size = max([lengths.get(mapping) or lengths.get(own, 0), *(_end(one.table) for one in chosen)]) or 1
    bars = tuple(_bar(one, size, decisive) for one in chosen)
    return Picture(mapping, in_words(size) if size > 1 else "an unknown length", bars)


def _readings(steps: Sequence[Step]) -> Iterator[_Reading]:
    """Yield each reply to ``pagetable`` that can be read."""
    for actor, asked, reply in _by_actor(steps):
        found = _OPERATION.fullmatch(asked.text) if "pagetable" in asked.text else None
        if found is None or found["verb"] != "pagetable" or not re.match(r"ok\b", reply.text):
            continue
        words = found["rest"].split()
        try:
            table = PageTable.parse(reply.text.removeprefix("ok"))
        except ValueError:
            continue  # a guest may answer anything
        yield _Reading(asked.number, actor + found["who"] + (words[0] if words else ""), table)


def _by_actor(steps: Sequence[Step]) -> Iterator[tuple[str, Step, Step]]:
    """Yield each pair of lines, with the name of the actor unless it is the first."""
    actor = ""
    for asked, reply in pairwise(steps):
        if found := _ACTOR.match(asked.text):
            actor = f"actor {found[1]}: " if found[1] != "1" else ""
        yield actor, asked, reply


def _lengths(steps: Sequence[Step]) -> dict[str, int]:
    """Return the length in bytes of each mapping that a ``map`` operation made."""
    lengths = {}
    for actor, asked, reply in _by_actor(steps):
        found, made = _OPERATION.fullmatch(asked.text), _ANSWER.match(reply.text)
        if found and made and found["verb"] == "map" and (length := _LENGTH.search(found["rest"])):
            lengths[actor + found["who"] + made[1]] = int(length[1], 0)
    return lengths


def _end(table: PageTable) -> int:
    return max((one.end for one in table.spans), default=0)


def _bar(reading: _Reading, size: int, decisive: int) -> Bar:
    when = f"{'before' if reading.line < decisive else 'after'}, line {reading.line}"
    parts = []
    rest = size
    for level in dict.fromkeys((*LEVELS, *(one.level for one in reading.table.spans))):
        if mapped := reading.table.mapped(level):
            parts.append(f"{level} {in_words(mapped)}")
            rest -= mapped
    if rest > 0 and (size > 1 or not parts):
        parts.append(f"nothing {in_words(rest)}" if size > 1 else "nothing is mapped")
    return Bar(when, ", ".join(parts), tuple(_rectangles(reading.table, size)))


def _rectangles(table: PageTable, size: int) -> Iterator[Rectangle]:
    """Yield at most SPANS rectangles; neighbours of one level are one, and none is too thin to be seen."""
    merged: list[tuple[float, float, str]] = []
    for span in table.spans:
        level = span.level if span.level in LEVELS else "other"
        start, end = span.start * WIDTH / size, span.end * WIDTH / size
        if merged and merged[-1][2] == level and start - merged[-1][1] < WIDTH / SPANS / 4:
            merged[-1] = merged[-1][0], end, level
        else:
            merged.append((start, end, level))
    for start, end, level in merged[:SPANS]:
        yield Rectangle(round(start, 2), round(max(end - start, 1.0), 2), level)


def in_words(size: int) -> str:
    """Return a number of bytes in the largest unit that divides it: ``64 KiB``."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"
