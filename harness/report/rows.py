"""A row for each scenario, with its verdict: a table on a wide terminal, elsewhere lines for grep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table
from rich.text import Text

from harness.lib.text import one_line
from harness.report.repetitions import tally
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Kind, Verdict

_WIDEST = 40  # columns of a cell that are kept free in every line
REASON_LINES = 4
MARK = "!"  # before a result that is not as expected
INHERITED = "="  # before a violation that the base has, too

STYLES = {
    Verdict.CONFORMS: "green",
    Verdict.VIOLATES: "red",
    Verdict.UNEXPECTEDLY_CONFORMS: "red",
    Verdict.KERNEL_DIED: "red",
    Verdict.NOT_APPLICABLE: "cyan",
    Verdict.NOT_REACHED: "yellow",
    Verdict.HARNESS_ERROR: "magenta",
}


@dataclass(frozen=True)
class Row:
    """One row of the report, without control characters; ``subject`` is a stage or the requirement ids."""

    mark: str
    verdict: str
    style: str
    subject: str
    name: str
    remarks: tuple[str, ...]


def rows(record: Record, plain: Callable[[str], str]) -> list[Row]:
    """Return the rows of a run, equal ones merged into one with their number.

    ``plain`` makes a text printable.  Rows are equal for one scenario with several
    parameters, or in several repetitions.
    """
    repeated = any(result.entry.repetition > 1 for result in record.results)
    return _merged((_row(result, plain) for result in ordered(record)), "runs" if repeated else "variants")


def ordered(record: Record) -> list[Result]:
    """Return the results in the order of the report: stages, then scenarios, but no test programs.

    Scenarios are ordered by their first requirement: by its group in the order of the
    plan, then by its number.
    """
    groups: dict[str, int] = {}

    def key(result: Result) -> tuple[int, int, int]:
        if result.entry.kind is not Kind.SCENARIO:
            return (-1, 0, 0)
        first = result.entry.requirements[0] if result.entry.requirements else ""
        group, _, number = first.partition("-")
        digits = re.match(r"\d{1,9}", number)
        return (0, groups.setdefault(group, len(groups)), int(digits[0]) if digits else 0)

    results = (one for one in record.results if one.entry.kind is not Kind.SELFTEST)
    return sorted(results, key=key)


def _row(result: Result, plain: Callable[[str], str]) -> Row:
    entry, verdict = result.entry, result.verdict
    scenario = entry.kind is Kind.SCENARIO
    word = str(verdict)
    remarks: list[str] = []
    if result.is_finding:
        word += " (finding)"  # the list of findings has its text
    elif result.as_expected and verdict in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
        word += " (expected)"
        remarks = _first_lines(result.reason)
    elif verdict in (Verdict.NOT_APPLICABLE, Verdict.NOT_REACHED):
        remarks = _first_lines(result.reason)
    elif not result.as_expected:
        remarks = [one_line(entry.id)] if scenario and entry.title else []
        if entry.expected is not Verdict.CONFORMS:
            remarks.append(f"expected: {entry.expected}")
        remarks += _first_lines(result.reason)
        if (comparison := result.comparison) is not None:
            word += f" ({comparison.origin})"
            remarks += _first_lines(comparison.reason)
        if result.since is not None:
            remarks.append(f"since {result.since.patch}")
    return Row(
        mark=" " if result.as_expected else INHERITED if result.inherited else MARK,
        verdict=word,
        style=STYLES[verdict],
        subject=plain(one_line(", ".join(entry.requirements) if scenario else entry.id)),
        name=plain(one_line(entry.title or entry.id)),
        remarks=tuple(plain(remark) for remark in remarks),
    )


def _merged(found: Iterable[Row], noun: str) -> list[Row]:
    """Return the rows with equal ones merged into one, which has their number and ``noun``."""
    counted = Counter(found)  # a dict, so it keeps the order of the rows
    return [row if n == 1 else replace(row, name=f"{row.name} ({n} {noun})") for row, n in counted.items()]


def _first_lines(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[:REASON_LINES] + (["..."] if len(lines) > REASON_LINES else [])


def table(found: Sequence[Row]) -> Table:
    """Return the rows as a table of rich."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
    made.add_column("")
    made.add_column("verdict", no_wrap=True)
    made.add_column("stage or requirement", overflow="fold", max_width=_WIDEST)
    made.add_column("scenario", overflow="fold")
    for row in found:
        name = Text(row.name)
        for remark in row.remarks:
            name.append(f"\n{remark}", style=row.style)
        made.add_row(Text(row.mark), Text(row.verdict, style=row.style), Text(row.subject), name)
    return made


def lines(found: Sequence[Row]) -> Iterator[str]:
    """Yield the rows as lines."""
    widths = [
        min(max((len(cell) for cell in column), default=0), _WIDEST)
        for column in ([row.verdict for row in found], [row.subject for row in found])
    ]
    for row in found:
        yield f"{row.mark} {row.verdict:{widths[0]}}  {row.subject:{widths[1]}}  {row.name}"
        yield from (f"      {remark}" for remark in row.remarks)


def differing(record: Record) -> Iterator[str]:
    """Yield the scenarios whose repetitions differ, with the tally of their verdicts."""
    if record.differing:
        yield "Verdicts that differ between repetitions:"
    for results in record.differing.values():
        entry = results[0].entry
        yield f"{MARK} {one_line(', '.join(entry.requirements))}  {one_line(entry.scenario)}"
        yield f"      {tally(results)}"
    if record.differing:
        yield ""


def findings(record: Record) -> Counter[tuple[str, str]]:
    """Return the findings by requirement ids and text, with their number."""
    return Counter(
        (one_line(", ".join(result.entry.requirements)), one_line(text))
        for result in ordered(record)
        for text in result.findings
    )


def finding_lines(record: Record) -> Iterator[str]:
    """Yield the findings, one line each; equal ones of several scenarios are one line with their number."""
    counted = findings(record)
    if not counted:
        return
    yield "Findings:"
    width = max(len(subject) for subject, _ in counted)
    for (subject, text), count in counted.items():
        yield f"  {subject:{width}}  {text}" + (f" ({count} times)" if count > 1 else "")
    yield ""
