"""The conformance matrix as text: what is checked, where and by which scenario; what is not, and why."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from harness.lib.errors import HarnessError
from harness.lib.text import visible
from harness.verdict.record import Record
from harness.verdict.requirements import NOT_COVERED, Matrix, Reasons, Requirement, Scenario
from harness.verdict.words import Strength, Verdict

#: Of several scenarios of a requirement the one counts that stands last here.
_WORST = (
    Verdict.NOT_APPLICABLE,
    Verdict.CONFORMS,
    Verdict.NOT_REACHED,
    Verdict.HARNESS_ERROR,
    Verdict.UNEXPECTEDLY_CONFORMS,
    Verdict.VIOLATES,
    Verdict.KERNEL_DIED,
)
COVERED = "covered"  # there is a scenario
EXCUSED = "excused"  # there is a reason why there is none
OPEN = "open"  # there is neither
ABSENT = "not-selected"  # no scenario of it is in a run
#: What there is to say of a requirement: of the suites, or of a run.
STATES = (COVERED, EXCUSED, OPEN, *_WORST, ABSENT)

ALL = "all"


def show(rows: Sequence[Row], stream: TextIO, *, only_unchecked: bool) -> None:
    """Print each requirement and below it its scenarios, or why there is none; then the totals of all."""
    shown = [row for row in rows if not (only_unchecked and row.checks)]
    states = max((len(row.state) for row in shown), default=0)
    words = max((len(word) for row in shown for word, _ in row.checks), default=0)
    for row in shown:
        each = row.requirement
        print(f"{each.id:8}  {each.strength:6}  {row.state:{states}}  {each.sentence}", file=stream)
        for word, scenario in row.checks:
            print(f"    {word:{words}}  {visible(scenario)}", file=stream)
        if row.reason:
            print(f"    {row.reason}", file=stream)
    if shown:
        print(file=stream)
    for line in totals(rows):
        print(line, file=stream)


def write_csv(rows: Iterable[Row], stream: TextIO, *, only_unchecked: bool) -> None:
    """Write a line for each pair of requirement and scenario, and one for a requirement without any."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["requirement", "strength", "state", "scenario", "where", "reason"])
    for row in rows:
        if only_unchecked and row.checks:
            continue
        for where, scenario in row.checks or (("", ""),):
            writer.writerow(
                [row.requirement.id, row.requirement.strength, row.state, scenario, where, row.reason]
            )


def totals(rows: Sequence[Row]) -> Iterator[str]:
    """How many requirements there are of each state, by group and strength, and of all groups together."""
    counted = Counter(
        (group, row.requirement.strength, row.state) for row in rows for group in (row.requirement.group, ALL)
    )
    states = [state for state in STATES if any(row.state == state for row in rows)]
    groups = list(dict.fromkeys(row.requirement.group for row in rows))
    yield f"{'group':8}  {'strength':8}" + "".join(f"  {state}" for state in states)
    for group in [*groups, ALL] if len(groups) > 1 else groups:
        for strength in Strength:
            numbers = [counted[group, strength, state] for state in states]
            if any(numbers):
                cells = (f"  {number:{len(state)}}" for number, state in zip(numbers, states, strict=True))
                yield f"{group:8}  {strength:8}" + "".join(cells)


@dataclass(frozen=True)
class Row:
    """A requirement, its state (one of STATES), and which scenarios check it.

    ``checks`` are pairs: the dialects of a scenario or its verdict, and its id.
    """

    requirement: Requirement
    state: str
    checks: tuple[tuple[str, str], ...] = ()
    reason: str = ""


def join(matrix: Matrix, reasons: Reasons, scenarios: Sequence[Scenario]) -> tuple[Row, ...]:
    """Each requirement with its scenarios or its reason.

    Raises HarnessError for a scenario that names an unknown requirement, a reason
    for a requirement that has a scenario, and a reason for a group that needs none.
    """
    for scenario in scenarios:
        matrix.check(scenario.requirements, scenario.id)
    checked = {name for scenario in scenarios for name in scenario.requirements}
    if stale := [name for name in reasons.ids if name in checked]:
        raise HarnessError(
            f"{NOT_COVERED.name} gives a reason why {', '.join(stale)} has no scenario, and there is one. "
            "Delete the line."
        )
    settled = checked | set(reasons.ids)
    excused = {each.group for name, each in matrix.requirements.items() if name not in settled}
    if stale := [group for group in reasons.groups if group not in excused]:
        raise HarnessError(
            f"{NOT_COVERED.name} gives a reason for the group {', '.join(stale)}, and no requirement of it "
            "needs one. Delete it."
        )
    rows = []
    for each in matrix.requirements.values():
        checks = tuple((" ".join(one.dialects), one.id) for one in scenarios if each.id in one.requirements)
        reason = "" if checks else reasons.of(each)
        rows.append(Row(each, COVERED if checks else EXCUSED if reason else OPEN, checks, reason))
    return tuple(rows)


def join_run(matrix: Matrix, record: Record) -> tuple[Row, ...]:
    """Each requirement with the worst verdict of a run; HarnessError if that knows other requirements."""
    checks: dict[str, list[tuple[Verdict, str]]] = {name: [] for name in matrix.requirements}
    for result in record.scenarios:
        matrix.check(result.entry.requirements, f"The run {record.run}")
        for name in result.entry.requirements:
            checks[name].append((result.verdict, result.entry.id))
    rows = []
    for name, found in checks.items():
        worst = max((verdict for verdict, _ in found), key=_WORST.index, default=ABSENT)
        rows.append(Row(matrix.requirements[name], worst, tuple(found)))
    return tuple(rows)
