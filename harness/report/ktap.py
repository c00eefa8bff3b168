"""The report as KTAP, version 1, which ``tools/testing/kunit/kunit.py parse`` of a kernel tree reads.

A test with subtests for the stages, for each group of requirements, for the kernel's own test programs and
for the run itself.  What fails no run is ``ok``: a violation that the manifest expects has the directive
XFAIL, one that the base has, too, and what is not applicable have SKIP.  What gave no verdict is ``not ok``
with ERROR.  A group of which nothing was reached is one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.lib.text import one_line, visible
from harness.report.entry_path import path_of, word
from harness.report.host_paths import read_shortened
from harness.report.repetitions import tally
from harness.verdict import requirements
from harness.verdict.case import Case
from harness.verdict.interruption import how
from harness.verdict.record import Record, Result
from harness.verdict.verdict import SERIES_FAULTS, STAGES, Kind, Verdict

MAX_REASON = 300  # characters behind a directive
MAX_LINES = 12  # of a reason, below a test that fails
#: Words at which kunit_parser stops to read a log, wherever they stand.
_ENDS = re.compile(r"(List of all partitions|Kernel panic - not syncing: VFS|reboot): ?")


@dataclass(frozen=True)
class _Line:
    """A test: its result, name, directive ("SKIP why"; may be empty), and the diagnostics above its line."""

    ok: bool
    name: str
    directive: str = ""
    diagnostics: tuple[str, ...] = ()

    def text(self, number: int) -> str:
        directive = f" # {self.directive}" if self.directive else ""
        return f"{'ok' if self.ok else 'not ok'} {number} {self.name}{directive}"


def render(directory: Path) -> str:
    """Return the report.  Raises HarnessError if ``directory`` holds no run."""
    record, _ = read_shortened(directory)
    groups: dict[str, list[_Line]] = {}
    unreached: dict[str, bool] = {}
    for result in record.results:
        name = _group(result)
        groups.setdefault(name, []).extend(_lines(result))
        unreached[name] = unreached.get(name, True) and result.verdict is Verdict.NOT_REACHED
    groups["run"] = list(_of_run(record))
    text = ["KTAP version 1", f"1..{len(groups)}"]
    for number, (name, lines) in enumerate(groups.items(), 1):
        if unreached.get(name, False):
            text.append(_Line(False, name, lines[0].directive).text(number))
        else:
            text += [f"  {line}" for line in _subtests(name, lines)]
            text.append(_Line(all(line.ok for line in lines), name).text(number))
    return "\n".join(text) + "\n"


def _group(result: Result) -> str:
    """Return the name of the group of a result."""
    entry = result.entry
    if entry.kind in STAGES:
        return "stages"
    if entry.kind is Kind.SCENARIO:
        return word(entry.requirements[0].partition("-")[0]) if entry.requirements else "scenarios"
    return {Kind.MACHINE: "machines", Kind.PATCH: "patches"}.get(entry.kind, "selftests")


def _subtests(name: str, lines: list[_Line]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"# Subtest: {name}"
    yield f"1..{len(lines)}"
    for number, line in enumerate(lines, 1):
        yield from (f"# {one}" for one in line.diagnostics)
        yield line.text(number)


def _lines(result: Result) -> Iterator[_Line]:
    """Yield the test of a result, and those that a test program of the kernel itself reported."""
    name = ".".join(path_of(result.entry))
    if result.entry.repetition > 1:
        name += f".{result.entry.repetition}"
    findings = tuple(f"finding: {line}" for text in result.findings for line in _plain(text))
    reason = _one_line(result.reason)
    if result.verdict is Verdict.NOT_APPLICABLE:
        yield _Line(True, name, f"SKIP {reason}", findings)
    elif result.inherited:
        yield _Line(True, name, "SKIP inherited, as the base does the same", findings)
    elif result.is_finding or (result.as_expected and result.verdict is Verdict.CONFORMS):
        yield _Line(True, name, "", findings)
    elif result.as_expected:
        yield _Line(True, name, f"XFAIL {reason}".rstrip(), findings)
    elif result.ended and result.verdict in SERIES_FAULTS:
        yield _Line(False, name, "", (*_why(result), *findings))
    else:
        yield _Line(False, name, f"ERROR {result.verdict}: {reason}", findings)
    for case in result.cases:
        yield _case(name, result, case)


def _case(program: str, result: Result, case: Case) -> _Line:
    name = f"{program}.{word(case.name)}"
    if case.verdict is Verdict.NOT_APPLICABLE:
        return _Line(True, name, f"SKIP {_one_line(case.reason)}")
    if case.verdict is Verdict.VIOLATES and result.inherited:
        return _Line(True, name, "SKIP inherited, as the base does the same")
    return _Line(case.verdict is Verdict.CONFORMS, name, "", tuple(_reason(case.reason)))


def _why(result: Result) -> Iterator[str]:
    """Yield what a failed result promised, expected and saw."""
    known = requirements.load().requirements
    yield f"{result.verdict}: {_one_line(result.entry.title or result.entry.id)}"
    if result.entry.expected is not Verdict.CONFORMS:
        yield f"expected verdict: {result.entry.expected}"
    for name in result.entry.requirements:
        if name in known:
            yield f"{name}: {_one_line(known[name].sentence)}"
    if (deviation := result.deviation) is not None:
        yield f"expected: {_one_line(deviation.expected)}"
        yield f"seen: {_one_line(deviation.seen)}"
        if deviation.operation:
            yield f"operation: {_one_line(deviation.operation)}"
    else:
        yield from _reason(result.reason)
    for one in result.complaints:
        yield f"kernel: {_one_line(one.title)} ({one.fingerprint})"
    if result.transcript:
        yield f"transcript: {_one_line(result.transcript)}"


def _of_run(record: Record) -> Iterator[_Line]:
    """Yield tests about the whole run: an incomplete one must not look like one without a failure."""
    said = ""
    if record.damage:
        said = f"the journal contradicts itself: {record.damage}"
    elif record.interrupted:
        said = f"it {how(record.interrupted)}"
    elif not record.complete:
        said = "it did not come to its own end"
    elif record.nothing_said:
        said = "no scenario gave a verdict on the kernel"
    yield _Line(not said, "complete", f"ERROR {_one_line(said)}" if said else "")
    for results in record.differing.values():
        name = ".".join(("agreement", *path_of(results[0].entry)))
        yield _Line(False, name, f"ERROR repetitions differ: {_one_line(tally(results))}")


def _reason(text: str) -> Iterator[str]:
    """Yield the first lines of a reason; with the word before it, none looks like ``# Subtest: x``."""
    return (f"reason: {line}" for line in _plain(text))


def _plain(text: str) -> list[str]:
    """Return the first lines of a text, to stand behind a word: no reader takes them for lines of KTAP."""
    found = [_one_line(line) for line in text.splitlines() if line.strip()]
    return found[:MAX_LINES]


def _one_line(text: str) -> str:
    r"""Return a text on one line, at most MAX_REASON characters.

    ``#`` begins a directive, so it becomes ``\x23``.
    """
    line = one_line(visible(text)).replace("#", r"\x23")
    line = _ENDS.sub(r"\1\\x3a ", line)
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 3]}..."
