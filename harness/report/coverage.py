"""The conformance matrix as text: what is checked, where and by which scenario; what is not, and why."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from harness.lib.text import visible
from harness.verdict.requirements import STATES, Row
from harness.verdict.words import Strength

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
