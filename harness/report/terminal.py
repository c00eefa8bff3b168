"""Print the report of a run on the screen: verdicts, findings, splats, detectors, and what was tested.

On a wide terminal the verdicts are a table, elsewhere one line per scenario, for
grep.  Control characters of a guest or a patch are escaped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.journal.results_folder import STACKS
from harness.lib.console import Console
from harness.lib.text import visible
from harness.report import selftests
from harness.report.origins import origins_sentence, summary
from harness.report.repetitions import tally
from harness.verdict.detector import sentences
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Kind, Verdict

NARROW = 90  # columns; on a narrower terminal a table would fold every cell
_WIDEST = 40  # columns of a cell that are kept free in every line
REASON_LINES = 4
MARK = "!"  # before a result that is not as expected
INHERITED = "="  # before a violation that the base has, too

_STYLES = {
    Verdict.CONFORMS: "green",
    Verdict.VIOLATES: "red",
    Verdict.UNEXPECTEDLY_CONFORMS: "red",
    Verdict.KERNEL_DIED: "red",
    Verdict.NOT_APPLICABLE: "cyan",
    Verdict.NOT_REACHED: "yellow",
    Verdict.HARNESS_ERROR: "magenta",
}


def show(directory: Path, stream: TextIO, width: int | None = None) -> None:
    """Print the report of the results folder ``directory`` to ``stream``.

    ``width`` is in columns, by default the terminal's.  Raises HarnessError if
    the folder holds no plan.
    """
    record = read(directory)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def plain(text: str) -> str:
        return visible(text).encode(encoding, "backslashreplace").decode(encoding)

    # Rows are equal for one scenario with several parameters, or in several repetitions.
    repeated = any(result.entry.repetition > 1 for result in record.results)
    rows = _merged((_row(result, plain) for result in _ordered(record)), "runs" if repeated else "variants")
    if console.is_terminal and console.width >= NARROW:
        console.print(_table(rows))
    else:
        for line in _lines(rows):
            console.print(line, soft_wrap=True)
    console.print()
    for line in selftests.lines(record):
        console.print(plain(line), soft_wrap=True)
    for line in _differing(record):
        console.print(plain(line), soft_wrap=True)
    for line in _findings(record):
        console.print(plain(line), soft_wrap=True)
    for line in _complaints(record, directory):
        console.print(plain(line), soft_wrap=True)
    for line in _detectors(record):
        console.print(plain(line), soft_wrap=True)
    for sentence in _closing(record, read_facts(directory), directory):
        console.print(plain(sentence), soft_wrap=True)


def _ordered(record: Record) -> list[Result]:
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


@dataclass(frozen=True)
class _Row:
    """One row of the report, without control characters; ``subject`` is a stage or the requirement ids."""

    mark: str
    verdict: str
    style: str
    subject: str
    name: str
    remarks: tuple[str, ...]


def _row(result: Result, plain: Callable[[str], str]) -> _Row:
    entry, verdict = result.entry, result.verdict
    scenario = entry.kind is Kind.SCENARIO
    word = str(verdict)
    remarks: list[str] = []
    if result.is_finding:
        word += " (finding)"  # the list of findings has its text
    elif result.as_expected and verdict in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
        word += " (expected)"
        remarks = _first_lines(result.reason)
    elif verdict is Verdict.NOT_APPLICABLE:
        remarks = _first_lines(result.reason)
    elif not result.as_expected and verdict is not Verdict.NOT_REACHED:
        # All entries that were not reached have one reason, which stands at the stage that failed.
        remarks = [_one_line(entry.id)] if scenario and entry.title else []
        if entry.expected is not Verdict.CONFORMS:
            remarks.append(f"expected: {entry.expected}")
        remarks += _first_lines(result.reason)
        if (comparison := result.comparison) is not None:
            word += f" ({comparison.origin})"
            remarks += _first_lines(comparison.reason)
    return _Row(
        mark=" " if result.as_expected else INHERITED if result.inherited else MARK,
        verdict=word,
        style=_STYLES[verdict],
        subject=plain(_one_line(", ".join(entry.requirements) if scenario else entry.id)),
        name=plain(_one_line(entry.title or entry.id)),
        remarks=tuple(plain(remark) for remark in remarks),
    )


def _merged(rows: Iterable[_Row], noun: str) -> list[_Row]:
    """Return the rows with equal ones merged into one, which has their number and ``noun``."""
    counted = Counter(rows)  # a dict, so it keeps the order of the rows
    return [row if n == 1 else replace(row, name=f"{row.name} ({n} {noun})") for row, n in counted.items()]


def _first_lines(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[:REASON_LINES] + (["..."] if len(lines) > REASON_LINES else [])


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
    table.add_column("")
    table.add_column("verdict", no_wrap=True)
    table.add_column("stage or requirement", overflow="fold")
    table.add_column("scenario", overflow="fold")
    for row in rows:
        name = Text(row.name)
        for remark in row.remarks:
            name.append(f"\n{remark}", style=row.style)
        table.add_row(Text(row.mark), Text(row.verdict, style=row.style), Text(row.subject), name)
    return table


def _lines(rows: Sequence[_Row]) -> Iterator[str]:
    widths = [
        min(max((len(cell) for cell in column), default=0), _WIDEST)
        for column in ([row.verdict for row in rows], [row.subject for row in rows])
    ]
    for row in rows:
        yield f"{row.mark} {row.verdict:{widths[0]}}  {row.subject:{widths[1]}}  {row.name}"
        yield from (f"      {remark}" for remark in row.remarks)


def _differing(record: Record) -> Iterator[str]:
    """Yield the scenarios whose repetitions differ, with the tally of their verdicts."""
    if record.differing:
        yield "Verdicts that differ between repetitions:"
    for results in record.differing.values():
        entry = results[0].entry
        yield f"{MARK} {_one_line(', '.join(entry.requirements))}  {_one_line(entry.scenario)}"
        yield f"      {tally(results)}"
    if record.differing:
        yield ""


def _findings(record: Record) -> Iterator[str]:
    """Yield the findings, one line each; equal ones of several scenarios are one line with their number."""
    counted = Counter(
        (_one_line(", ".join(result.entry.requirements)), _one_line(text))
        for result in _ordered(record)
        for text in result.findings
    )
    if not counted:
        return
    yield "Findings:"
    width = max(len(subject) for subject, _ in counted)
    for (subject, text), count in counted.items():
        yield f"  {subject:{width}}  {text}" + (f" ({count} times)" if count > 1 else "")
    yield ""


def _complaints(record: Record, directory: Path) -> Iterator[str]:
    """Yield the splats on the consoles, a line for each fingerprint, with the file of its call trace."""
    complaints = {one.fingerprint: one for result in record.results for one in result.complaints}
    if not complaints:
        return
    counts = Counter(
        name for result in record.results for name in {one.fingerprint for one in result.complaints}
    )
    yield "The kernel's complaints, by fingerprint:"
    for name, one in complaints.items():
        trace = f"{STACKS}/{name}.txt"
        file = f"; {trace}" if (directory / trace).is_file() else ""
        yield f"  {name}  {_one_line(one.title)} ({_number(counts[name], 'scenario')}{file})"
    yield ""


def _detectors(record: Record) -> Iterator[str]:
    """Yield the state of each detector, and the machines on which none had its positive control."""
    shown = {machine: found for machine, found in record.detectors.items() if found}
    if shown:
        machines = _number(len(shown), "machine")
        yield f"Detectors, each shown a fault on {machines} before the first scenario:"
    lines = sentences(shown)
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        yield f"  {_one_line(name):{width}}  {_one_line(text)}"
    if missing := [machine for machine in record.detectors if machine not in shown]:
        machines = ", ".join(map(_one_line, missing))
        yield f"No detector was shown a fault on {machines}, so silence proves nothing there."
    if record.detectors:
        yield ""


def _closing(record: Record, facts: Mapping[str, object], directory: Path) -> Iterator[str]:
    """Yield the counts of verdicts, notes and warnings, the results folder, and what was tested."""
    scenarios = record.scenarios
    counts = Counter(result.verdict for result in scenarios)
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    outcome = summary(record)
    if record.differing:
        outcome += f", {_number(len(record.differing), 'scenario')} with more than one verdict"
    times = max((result.entry.repetition for result in scenarios), default=1)
    number = _number(len({result.entry.scenario for result in scenarios}), "scenario")
    repeated = f", {times} times each" if times > 1 else ""
    yield f"{number}{repeated}: {', '.join(parts) or 'none ran'}; {outcome}."
    if sentence := selftests.summary(record):
        yield sentence
    if sentence := origins_sentence(record):
        yield sentence
    if record.interrupted:
        yield f"The run was interrupted ({record.interrupted})."
    elif not record.complete:
        yield "The run did not come to its own end: the harness was killed."
    if record.resumed:
        starts = ", ".join(_one_line(start.partition(".")[0]) for start in record.resumed)
        yield f"The run was resumed at {starts} (UTC)."
    for note in record.notes:
        yield f"Note: {_one_line(note)}"
    warnings = facts.get("warnings")
    if isinstance(warnings, list) and warnings:
        yield f"The series adds {_number(len(warnings), 'compile warning')} (run.json lists them)."
    if interfaces := facts.get("interfaces"):
        yield _one_line(f"Dialect {facts.get('dialect', 'unknown')}; {interfaces}.")
    yield f"Results: {directory}"
    yield _one_line(_tested(facts))


def _tested(facts: Mapping[str, object]) -> str:
    """Return one line: kernel, series, base, accelerator, and the seed if the order was random."""
    seed = facts.get("random_order")
    wanted, used = facts.get("base_wanted"), facts.get("base")
    base = (
        f"{used} instead of {wanted}" if used and wanted and used != wanted else used or wanted or "unknown"
    )
    return (
        f"Kernel {facts.get('kernel_release', '(none was built)')}, {_source(facts)}, base {base}, "
        f"accelerator {facts.get('accelerator', '(none was started)')}"
        + (f", --random-order {seed}" if seed else "")
    )


def _source(facts: Mapping[str, object]) -> str:
    """Return the identities of what the kernel was built from: the series, the checkout, or both.

    Runs of older versions have the digest of the mails alone.
    """
    name, identity = facts.get("series", "unknown"), str(facts.get("identity", facts.get("digest", "")))
    tree = f"tree {str(facts['checkout'])[:12]}" if facts.get("checkout") else ""
    if tree and not identity:
        return f"{tree} of {name}"
    series = f"series {name} {identity[:12]}".rstrip()
    return f"{series}, {tree}" if tree else series


def _one_line(text: str) -> str:
    """Return ``text`` on one line, so that a guest cannot forge a line of the report."""
    return " ".join(text.split())


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
