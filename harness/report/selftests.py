"""The results of the kernel's own test programs, told apart from the verdicts of the scenarios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.lib.text import one_line
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Verdict

CASES_SHOWN = 40  # of a program; junit.xml has all
REASON_LINES = 4
MARK = "!"
INHERITED = "="


def lines(record: Record) -> Iterator[str]:
    """Yield the part of the report on the screen: a line for each program and each of its cases."""
    if not record.selftests:
        return
    yield "Test programs of the kernel itself, which are no part of the verdicts above:"
    width = max(len(_word(one)) for one in record.selftests)
    for result in record.selftests:
        mark = " " if result.as_expected else INHERITED if result.inherited else MARK
        yield f"{mark} {_word(result):{width}}  {one_line(result.entry.id)}"
        if result.verdict is not Verdict.NOT_REACHED:
            yield from (f"      {line}" for line in _first_lines(result.reason))
        if (comparison := result.comparison) is not None:
            yield f"      {one_line(comparison.reason)}"
        yield from (f"      {line}" for line in _cases(result))
    yield ""


def summary(record: Record) -> str:
    """Return a sentence with the number of programs of each verdict; empty if there is none."""
    counts = Counter(result.verdict for result in record.selftests)
    if not counts:
        return ""
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    noun = "program" if len(record.selftests) == 1 else "programs"
    return f"{len(record.selftests)} test {noun} of the kernel itself: {', '.join(parts)}."


def _word(result: Result) -> str:
    comparison = result.comparison
    return str(result.verdict) if comparison is None else f"{result.verdict} ({comparison.origin})"


def _cases(result: Result) -> Iterator[str]:
    """Yield a line for each case, those that failed first."""
    cases = sorted(result.cases, key=lambda one: one.verdict is not Verdict.VIOLATES)
    for one in cases[:CASES_SHOWN]:
        reason = f": {' / '.join(_first_lines(one.reason))}" if one.reason else ""
        yield f"{one.verdict:14}  {one_line(one.name)}{reason}"
    if len(cases) > CASES_SHOWN:
        yield f"and {len(cases) - CASES_SHOWN} more, which junit.xml lists"


def _first_lines(text: str) -> list[str]:
    found = [one_line(line) for line in text.splitlines() if line.strip()]
    return found[:REASON_LINES] + (["..."] if len(found) > REASON_LINES else [])
