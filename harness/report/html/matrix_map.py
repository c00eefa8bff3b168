"""The requirement matrix as a map: a row per group, and per requirement a cell for each scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.lib.errors import HarnessError
from harness.lib.text import one_line
from harness.report.html.marks import Mark, mark
from harness.report.html.violation import File, link
from harness.verdict import requirements
from harness.verdict.record import Record, Result


@dataclass(frozen=True)
class Cell:
    """A scenario under one of its requirements; ``target`` is the id of the element with more."""

    mark: Mark
    target: str
    name: str


@dataclass(frozen=True)
class Line:
    """A scenario in the list of all: its id on the page, that of its evidence or empty, its transcript."""

    anchor: str
    evidence: str
    mark: Mark
    result: Result
    file: File | None

    @property
    def variant(self) -> str:
        """The function of a scenario and its variant, without the file."""
        return self.result.entry.id.rpartition("::")[2]


@dataclass
class Row:
    """A requirement: ``cells`` are all scenarios that check it, ``lines`` those that name it first.

    ``why`` says why it has no scenario in this run.
    """

    id: str
    anchor: str
    sentence: str
    strength: str
    cells: list[Cell] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    why: str = ""

    @property
    def short(self) -> str:
        """``01`` of ``MAP-01``."""
        return self.id.partition("-")[2] or self.id


@dataclass(frozen=True)
class Group:
    """A group of requirements, with its title."""

    id: str
    title: str
    rows: tuple[Row, ...]

    @property
    def cells(self) -> int:
        """The number of cells."""
        return sum(len(row.cells) for row in self.rows)


def groups(record: Record, directory: Path, evidence: Mapping[str, str]) -> tuple[Group, ...]:
    """Return the map of a run; ``evidence`` has the ids of the elements with evidence, by entry id.

    A requirement that this program does not know stands in a group of its own.
    """
    matrix = requirements.load()
    reasons = _reasons(matrix)
    rows = {
        name: Row(name, f"r-{name}", one.sentence, str(one.strength))
        for name, one in matrix.requirements.items()
    }
    unknown = Row("?", "r-unknown", "A requirement that this program does not know.", "")
    for number, result in enumerate(record.scenarios):
        anchor, target = f"s{number}", evidence.get(result.entry.id, "")
        line = Line(anchor, target, mark(result), result, link(directory, result.transcript))
        named = [rows.get(name, unknown) for name in result.entry.requirements] or [unknown]
        named[0].lines.append(line)
        for row in {row.id: row for row in named}.values():
            row.cells.append(Cell(line.mark, target or anchor, line.variant))
    for name, row in rows.items():
        if not row.cells:
            row.why = reasons.get(name) or "not selected in this run"
    made = [
        Group(group, title, tuple(row for name, row in rows.items() if _group(name) == group))
        for group, title in matrix.groups.items()
    ]
    if unknown.cells:
        made.append(Group("?", "not in this program's matrix", (unknown,)))
    return tuple(made)


def _group(name: str) -> str:
    return name.partition("-")[0]


def _reasons(matrix: requirements.Matrix) -> dict[str, str]:
    """Return why requirements have no scenario at all, by requirement id."""
    try:
        found = requirements.load_reasons(matrix)
    except HarnessError:
        return {}
    return {name: found.of(one) for name, one in matrix.requirements.items()}


def by_reason(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Group results by their reason, on one line; the most frequent reason first."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(one_line(result.reason) or "no reason was given", []).append(result)
    return sorted(found.items(), key=lambda pair: -len(pair[1]))
