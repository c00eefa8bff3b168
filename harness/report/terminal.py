"""Print the report of a run on the screen: what conforms in short, then what does not, by cause.

The violations come last, next to the prompt, with the gravest cause first.  If a stage failed,
its reason is the report.  Control characters of a guest or a patch are escaped.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.text import Text

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.journal.results_folder import STACKS
from harness.lib.console import Console
from harness.lib.text import counted, one_line, shortened, visible
from harness.report import cause_text, generated_mutants, line_coverage, patches, rows, selftests
from harness.report.causes import Cause, causes
from harness.report.groups import COLUMNS, CONFORM, Group, groups, not_applicable, unknown
from harness.report.html import REPORT
from harness.report.origins import origins_sentence, summary
from harness.verdict.detector import State, by_name, sentences
from harness.verdict.interruption import how
from harness.verdict.record import Record, Result
from harness.verdict.verdict import SERIES_FAULTS, STAGES, Kind, Verdict

TABLE_COLUMNS = 90  # with -v; on a narrower terminal a table would fold every cell
PLAIN_COLUMNS = 100  # of a stream that is no terminal
CAUSES = 12  # that are shown in full
_COUNT = 10  # columns of a number of scenarios


def show(directory: Path, stream: TextIO, width: int | None = None, *, every: bool = False) -> None:
    """Print the report of the results folder ``directory`` to ``stream``.

    ``width`` is in columns, by default the terminal's.  With ``every``, each scenario has a
    row, and findings and complaints are listed.  Raises HarnessError if the folder holds no
    plan.
    """
    record = read(directory)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def plain(text: str) -> str:
        return visible(text).encode(encoding, "backslashreplace").decode(encoding)

    def say(line: str, style: str = "") -> None:
        console.print(Text(plain(line), style=style), soft_wrap=True)

    columns = width or (console.width if console.is_terminal else PLAIN_COLUMNS)
    facts = read_facts(directory)
    if (failed := _failed_stage(record)) is not None:
        for line in _stage(failed, directory, columns):
            say(line, "red" if failed.verdict in SERIES_FAULTS else "")
        for line in (*patches.lines(record), *_identity(facts, directory)):
            say(line)
        return
    if every:
        _print_rows(record, console, plain)
        for line in (*rows.finding_lines(record), *_complaints(record, directory), *_detectors(record)):
            say(line)
    for text in _groups(groups(record), columns, plain):
        console.print(text, soft_wrap=True)
    for line in (*not_applicable(record), *unknown(record)):
        say(line if every else shortened(line, columns))
    fold = columns if console.is_terminal else None
    for line in _folded(_short(record, every), fold):
        say(line)
    for line in (*selftests.lines(record), *patches.lines(record), *rows.differing(record)):
        say(line)
    for about in (line_coverage, generated_mutants):
        for line in about.text(directory, every=every):
            say(line)
    for line in _folded(_closing(record, facts), fold):
        say(line)
    for line in _identity(facts, directory):
        say(line)
    found = causes(record)
    if not found:
        return
    say("")
    say(_answer(record, found), "red" if not all(one.inherited for one in found) else "")
    for number, cause in enumerate(found, 1):
        say(f"{number}. {cause_text.heading(cause)}", "" if cause.inherited else "red")
        if number <= CAUSES:
            for line in cause_text.block(cause, directory, columns):
                say(line)


def _failed_stage(record: Record) -> Result | None:
    """Return the stage that failed, after which no scenario was run; None if there is none."""
    if any(result.ended for result in record.scenarios):
        return None
    stages = (one for one in record.results if one.entry.kind in STAGES)
    return next((one for one in stages if one.verdict not in (Verdict.CONFORMS, Verdict.NOT_REACHED)), None)


def _stage(failed: Result, directory: Path, width: int) -> Iterator[str]:
    """Yield the reason of a stage that failed, the last lines of its log, and where the log is."""
    origin = f", {failed.comparison.origin}" if failed.comparison is not None else ""
    yield f"{one_line(failed.entry.id)}: {failed.verdict}{origin}"
    for line in failed.reason.splitlines() or ["The stage did not end."]:
        yield from textwrap.wrap(line, width, initial_indent="  ", subsequent_indent="  ")
    if failed.comparison is not None:
        yield from textwrap.wrap(f"Base: {failed.comparison.reason}.", width, initial_indent="  ")
    yield from (f"    {line}" for line in failed.details.splitlines())
    if failed.transcript:
        yield f"  The whole log: {directory / failed.transcript}"


def _print_rows(record: Record, console: Console, plain: Callable[[str], str]) -> None:
    """Print a row for each scenario: as a table on a wide terminal, elsewhere as lines for grep."""
    found = rows.rows(record, plain)
    if console.is_terminal and console.width >= TABLE_COLUMNS:
        console.print(rows.table(found))
    else:
        for line in rows.lines(found):
            console.print(line, soft_wrap=True)
    console.print()


def _groups(found: Sequence[Group], width: int, plain: Callable[[str], str]) -> Iterator[Text]:
    """Yield a heading, and a line for each group; a column that is zero everywhere is left out."""
    if not found:
        return
    columns = [one for one in COLUMNS if one is CONFORM or any(group.counts[one] for group in found)]
    yield Text(f"{'':10}" + "".join(f"{one.heading:>{_COUNT}}" for one in columns))
    room = max(0, width - 10 - _COUNT * len(columns) - 2)
    for group in found:
        line = Text(plain(f"{group.name[:9]:10}"))
        for one in columns:
            number = group.counts[one]
            line.append(f"{number or '.':>{_COUNT}}", style=one.style if number else "")
        line.append(plain(f"  {shortened(group.title, room)}"))
        yield line


def _short(record: Record, every: bool) -> Iterator[str]:
    """Yield a sentence about the findings, the complaints, and each state of the detectors."""
    found = rows.findings(record)
    if found and not every:
        yield f"{counted(found.total(), 'finding')}, which fail no run; -v lists them."
    shown = {machine: those for machine, those in record.detectors.items() if those}
    if shown:
        states: dict[tuple[State, int], list[str]] = {}
        for name, variants in by_name(shown).items():
            for one, machines in variants.items():
                states.setdefault((one.state, len(machines)), []).append(one_line(name))
        clauses = []
        for (state, number), names in states.items():
            if state is State.NOT_BUILT and not every:
                continue
            some = f" on {number} of them" if number < len(shown) else ""
            clauses.append(f"{state}{some}: {', '.join(dict.fromkeys(names))}")
        yield f"Detectors on {counted(len(shown), 'machine')} {'; '.join(clauses)}."
    if missing := [machine for machine in record.detectors if machine not in shown]:
        unproven = ", ".join(map(one_line, missing))
        yield f"No detector was shown a fault on {unproven}, so silence proves nothing there."


def _folded(sentences: Iterator[str], width: int | None) -> Iterator[str]:
    """Yield the sentences folded to ``width`` columns; in a log (None) each is one line, for grep."""
    for sentence in sentences:
        if width is None:
            yield sentence
        else:
            yield from textwrap.wrap(sentence, max(20, width), subsequent_indent="  ", break_on_hyphens=False)


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
        yield f"  {name}  {one_line(one.title)} ({counted(counts[name], 'scenario')}{file})"
    yield ""


def _detectors(record: Record) -> Iterator[str]:
    """Yield a line for each detector, with the evidence for its state."""
    lines = sentences({machine: found for machine, found in record.detectors.items() if found})
    width = max(map(len, lines), default=0)
    if lines:
        yield "Detectors:"
        yield from (f"  {one_line(name):{width}}  {one_line(text)}" for name, text in lines.items())
        yield ""


def _answer(record: Record, found: Sequence[Cause]) -> str:
    """Return the sentence above the causes."""
    results = [one for cause in found for one in cause.results]
    passed = sum(one.verdict is Verdict.UNEXPECTEDLY_CONFORMS for one in results)
    kinds = Counter(one.entry.kind for one in results)
    scenarios = sum(one.ended and one.verdict is not Verdict.NOT_APPLICABLE for one in record.scenarios)
    parts = []
    if wrong := kinds[Kind.SCENARIO] - passed:
        parts.append(f"{wrong} of {counted(scenarios, 'applicable scenario')}")
    if stages := sum(kinds[kind] for kind in STAGES):
        parts.append(counted(stages, "stage"))
    if kinds[Kind.SELFTEST]:
        parts.append(counted(kinds[Kind.SELFTEST], "test program"))
    if kinds[Kind.MACHINE]:
        parts.append(f"{counted(kinds[Kind.MACHINE], 'machine')} between scenarios")
    if broken := kinds[Kind.PATCH]:
        parts.append(f"{broken} {'patch' if broken == 1 else 'patches'}")
    if passed:
        parts.append(
            f"{counted(passed, 'scenario')} that unexpectedly {'conforms' if passed == 1 else 'conform'}"
        )
    order = ", the gravest first" if len(found) > 1 else ""
    return f"Not as promised: {' and '.join(parts)}, by {counted(len(found), 'cause')}{order}."


def _closing(record: Record, facts: Mapping[str, object]) -> Iterator[str]:
    """Yield the counts of verdicts, what ended or resumed the run, notes and warnings."""
    yield from _counts(record)
    if record.interrupted:
        yield f"The run {how(record.interrupted)}."
    elif not record.complete:
        yield "The run did not come to its own end: the harness was killed."
    if record.resumed:
        starts = ", ".join(one_line(start.partition(".")[0]) for start in record.resumed)
        yield f"The run was resumed at {starts} (UTC)."
    for note in record.notes:
        yield f"Note: {one_line(note)}"
    warnings = facts.get("warnings")
    if isinstance(warnings, list) and warnings:
        yield f"The series adds {counted(len(warnings), 'compile warning')} (run.json lists them)."
    if interfaces := facts.get("interfaces"):
        yield one_line(f"Dialect {facts.get('dialect', 'unknown')}; {interfaces}.")


def _identity(facts: Mapping[str, object], directory: Path) -> Iterator[str]:
    """Yield the results folder, and what was tested."""
    page = directory / REPORT
    yield f"Results: {directory}" + (f"; for a browser: {page.name}" if page.is_file() else "")
    yield one_line(_tested(facts))


def _counts(record: Record) -> Iterator[str]:
    """Yield the counts of the verdicts, of the test programs, and of the origins."""
    scenarios = record.scenarios
    counts = Counter(result.verdict for result in scenarios)
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    outcome = summary(record)
    if record.differing:
        outcome += f", {counted(len(record.differing), 'scenario')} with more than one verdict"
    times = max((result.entry.repetition for result in scenarios), default=1)
    number = counted(len({result.entry.scenario for result in scenarios}), "scenario")
    repeated = f", {times} times each" if times > 1 else ""
    yield f"{number}{repeated}: {', '.join(parts) or 'none ran'}; {outcome}."
    if sentence := selftests.summary(record):
        yield sentence
    if sentence := origins_sentence(record):
        yield sentence


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
