"""The coverage of the conformance matrix, as text or CSV.

It joins the requirements with the scenarios of the suites, or with the verdicts of a
run, and shows the reasons why the other requirements have no scenario.
"""

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
from harness.verdict.verdict import Strength, Verdict

# Verdicts in rising order; the last one among the scenarios of a requirement is its state.
_WORST = (
    Verdict.NOT_APPLICABLE,
    Verdict.CONFORMS,
    Verdict.NOT_REACHED,
    Verdict.HARNESS_ERROR,
    Verdict.UNEXPECTEDLY_CONFORMS,
    Verdict.VIOLATES,
    Verdict.KERNEL_DIED,
)
COVERED = "covered"  # a scenario checks it
EXCUSED = "excused"  # suites/not-covered.toml gives the reason why no scenario checks it
OPEN = "open"  # neither a scenario nor a reason
ABSENT = "not-selected"  # a run has no scenario of it
#: The states of a requirement: the first three for the suites, the others for a run.
STATES = (COVERED, EXCUSED, OPEN, *_WORST, ABSENT)

ALL = "all"  # stands for all groups in totals()


def show(rows: Sequence[Row], stream: TextIO, *, only_unchecked: bool) -> None:
    """Print each requirement with its scenarios, or the reason why it has none, and the totals of all rows.

    With ``only_unchecked`` the requirements that have scenarios are left out, but counted.
    """
    shown = [row for row in rows if not (only_unchecked and row.checks)]
    states = max((len(row.state) for row in shown), default=0)
    width = max((len(label) for row in shown for label, _ in row.checks), default=0)
    for row in shown:
        one = row.requirement
        print(f"{one.id:8}  {one.strength:6}  {row.state:{states}}  {one.sentence}", file=stream)
        for label, scenario in row.checks:
            print(f"    {label:{width}}  {visible(scenario)}", file=stream)
        if row.reason:
            print(f"    {row.reason}", file=stream)
    if shown:
        print(file=stream)
    for line in totals(rows):
        print(line, file=stream)


def write_csv(rows: Iterable[Row], stream: TextIO, *, only_unchecked: bool) -> None:
    """Write a header, a line for each pair of requirement and scenario, and one for each other requirement.

    With ``only_unchecked`` only the requirements without a scenario are written.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["requirement", "strength", "state", "scenario", "where", "reason"])
    for row in rows:
        if only_unchecked and row.checks:
            continue
        for label, scenario in row.checks or (("", ""),):
            writer.writerow(
                [row.requirement.id, row.requirement.strength, row.state, scenario, label, row.reason]
            )


def totals(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table: the number of requirements in each state, by group and strength."""
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
    """A requirement, its state (one of STATES), and the scenarios that check it.

    ``checks`` are pairs of a label and a scenario's id.  The label is the scenario's
    dialects and memory attributes, or in a run its verdict.
    """

    requirement: Requirement
    state: str
    checks: tuple[tuple[str, str], ...] = ()
    reason: str = ""


def join(matrix: Matrix, reasons: Reasons, scenarios: Sequence[Scenario]) -> tuple[Row, ...]:
    """Return each requirement with its scenarios, or the reason why it has none.

    Raises HarnessError for a scenario that names an unknown requirement, a reason for a
    requirement that has a scenario, and a reason for a group that needs none.
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
        checks = tuple((one.where, one.id) for one in scenarios if each.id in one.requirements)
        reason = "" if checks else reasons.of(each)
        rows.append(Row(each, COVERED if checks else EXCUSED if reason else OPEN, checks, reason))
    return tuple(rows)


def join_run(matrix: Matrix, record: Record) -> tuple[Row, ...]:
    """Return each requirement with the worst verdict of its scenarios in a run.

    Raises HarnessError if the run names an unknown requirement.
    """
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
