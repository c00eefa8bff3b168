"""The end of a run on the screen: scenarios and verdicts, what was tested, where the results lie.

On a terminal that is wide enough it is a table, else lines that can be read by
grep.  Nothing a guest or a patch said reaches the terminal raw.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.journal.folder import STACKS, read_facts
from harness.journal.reader import read
from harness.lib.text import visible
from harness.report.tally import tally
from harness.verdict.detector import sentences
from harness.verdict.record import Record, Result
from harness.verdict.words import Kind, Verdict

NARROW = 90  # columns; below that a table would fold every cell
REASON_LINES = 4
MARK = "!"  # stands before what is not as expected

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

    # One scenario with several parameters, or several times.
    repeated = any(result.entry.repetition > 1 for result in record.results)
    rows = _merged((_row(result, plain) for result in _ordered(record)), "runs" if repeated else "variants")
    if console.is_terminal and console.width >= NARROW:
        console.print(_table(rows))
    else:
        for line in _lines(rows):
            console.print(line, soft_wrap=True)
    console.print()
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
    """Stages first, then the scenarios by their first requirement, its groups as the plan has them."""
    groups: dict[str, int] = {}

    def key(result: Result) -> tuple[int, int, int]:
        if result.entry.kind is not Kind.SCENARIO:
            return (-1, 0, 0)
        first = result.entry.requirements[0] if result.entry.requirements else ""
        group, _, number = first.partition("-")
        digits = re.match(r"\d{1,9}", number)
        return (0, groups.setdefault(group, len(groups)), int(digits[0]) if digits else 0)

    return sorted(record.results, key=key)


@dataclass(frozen=True)
class _Row:
    """One result as it is shown, all of it harmless; ``subject`` is a stage or the requirements."""

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
        word += " (finding)"  # the list of findings tells it
    elif result.as_expected and verdict in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
        word += " (expected)"
        remarks = _first_lines(result.reason)
    elif verdict is Verdict.NOT_APPLICABLE:
        remarks = _first_lines(result.reason)
    elif not result.as_expected and verdict is not Verdict.NOT_REACHED:
        # What was not reached has one reason for all, and the stage that failed tells it.
        remarks = [_one_line(entry.id)] if scenario and entry.title else []
        if entry.expected is not Verdict.CONFORMS:
            remarks.append(f"expected: {entry.expected}")
        remarks += _first_lines(result.reason)
    return _Row(
        mark=" " if result.as_expected else MARK,
        verdict=word,
        style=_STYLES[verdict],
        subject=plain(_one_line(", ".join(entry.requirements) if scenario else entry.id)),
        name=plain(_one_line(entry.title or entry.id)),
        remarks=tuple(plain(remark) for remark in remarks),
    )


def _merged(rows: Iterable[_Row], many: str) -> list[_Row]:
    """The rows, where those that say the same are counted in one; ``many`` is what they are."""
    counted = Counter(rows)  # a dict: it keeps the order
    return [row if n == 1 else replace(row, name=f"{row.name} ({n} {many})") for row, n in counted.items()]


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
        max((len(cell) for cell in column), default=0)
        for column in ([row.verdict for row in rows], [row.subject for row in rows])
    ]
    for row in rows:
        yield f"{row.mark} {row.verdict:{widths[0]}}  {row.subject:{widths[1]}}  {row.name}"
        yield from (f"      {remark}" for remark in row.remarks)


def _differing(record: Record) -> Iterator[str]:
    """The scenarios whose repetitions do not agree: how often each verdict, and which got the rarer ones."""
    if record.differing:
        yield "Verdicts that differ between repetitions:"
    for results in record.differing.values():
        entry = results[0].entry
        yield f"{MARK} {_one_line(', '.join(entry.requirements))}  {_one_line(entry.scenario)}"
        yield f"      {tally(results)}"
    if record.differing:
        yield ""


def _findings(record: Record) -> Iterator[str]:
    """What the scenarios observed and nobody judges, one line each; the same from several of them is one."""
    told = Counter(
        (_one_line(", ".join(result.entry.requirements)), _one_line(text))
        for result in _ordered(record)
        for text in result.findings
    )
    if not told:
        return
    yield "Findings:"
    width = max(len(subject) for subject, _ in told)
    for (subject, text), count in told.items():
        yield f"  {subject:{width}}  {text}" + (f" ({count} times)" if count > 1 else "")
    yield ""


def _complaints(record: Record, directory: Path) -> Iterator[str]:
    """What the consoles show, a line for each fingerprint, and where its call trace is."""
    told = {one.fingerprint: one for result in record.results for one in result.complaints}
    if not told:
        return
    counts = Counter(
        name for result in record.results for name in {one.fingerprint for one in result.complaints}
    )
    yield "The kernel's complaints, by fingerprint:"
    for name, one in told.items():
        trace = f"{STACKS}/{name}.txt"
        where = f"; {trace}" if (directory / trace).is_file() else ""
        yield f"  {name}  {_one_line(one.title)} ({_number(counts[name], 'scenario')}{where})"
    yield ""


def _detectors(record: Record) -> Iterator[str]:
    """Which detectors proved themselves alive, a line each, and the machines where none did."""
    shown = {machine: found for machine, found in record.detectors.items() if found}
    if shown:
        where = _number(len(shown), "machine")
        yield f"Detectors, shown something to see on {where} before the first scenario:"
    lines = sentences(shown)
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        yield f"  {_one_line(name):{width}}  {_one_line(text)}"
    if missing := [machine for machine in record.detectors if machine not in shown]:
        where = ", ".join(map(_one_line, missing))
        yield f"No detector was shown anything on {where}: silence says nothing there."
    if record.detectors:
        yield ""


def _closing(record: Record, facts: Mapping[str, object], directory: Path) -> Iterator[str]:
    """Counts, warnings about the run, what was tested, where the results lie."""
    scenarios = record.scenarios
    counts = Counter(result.verdict for result in scenarios)
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    surprises = sum(not result.as_expected for result in record.results)
    outcome = f"{surprises} not as expected" if surprises else "all as expected"
    if record.differing:
        outcome += f", {_number(len(record.differing), 'scenario')} with more than one verdict"
    times = max((result.entry.repetition for result in scenarios), default=1)
    number = _number(len({result.entry.scenario for result in scenarios}), "scenario")
    repeated = f", {times} times each" if times > 1 else ""
    yield f"{number}{repeated}: {', '.join(parts) or 'none ran'}; {outcome}."
    if record.interrupted:
        yield f"The run was interrupted ({record.interrupted})."
    elif not record.complete:
        yield "The run did not come to its own end: the harness was killed."
    if record.resumed:
        begun = ", ".join(_one_line(start.partition(".")[0]) for start in record.resumed)
        yield f"The run was resumed at {begun} (UTC)."
    for note in record.notes:
        yield f"Note: {_one_line(note)}"
    warnings = facts.get("warnings")
    if isinstance(warnings, list) and warnings:
        yield f"The series adds {_number(len(warnings), 'compile warning')} (run.json lists them)."
    yield f"Results: {directory}"
    yield _one_line(_tested(facts))


def _tested(facts: Mapping[str, object]) -> str:
    """One line: kernel, series, base, accelerator, and the seed if the order was by chance."""
    seed = facts.get("random_order")
    wanted, used = facts.get("base_wanted"), facts.get("base")
    base = (
        f"{used} instead of {wanted}" if used and wanted and used != wanted else used or wanted or "unknown"
    )
    return (
        f"Kernel {facts.get('kernel_release', '(none was built)')}, "
        f"series {facts.get('series', 'unknown')} {str(facts.get('digest', ''))[:12]}".rstrip()
        + f", base {base}, accelerator {facts.get('accelerator', '(none was started)')}"
        + (f", --random-order {seed}" if seed else "")
    )


def _one_line(text: str) -> str:
    """So that a guest cannot write a line of its own among ours."""
    return " ".join(text.split())


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
