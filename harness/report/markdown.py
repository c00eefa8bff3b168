"""The report as Markdown, for the summary of a CI job (``$GITHUB_STEP_SUMMARY``, a comment in GitLab).

The answer first, then a table of the causes with details to open, then counts and what was tested.  Every
foreign text is escaped: it makes no link, mention, markup, or cell of a table.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.lib.text import counted, one_line, shortened, visible
from harness.report import generated_mutants, line_coverage, rows, selftests
from harness.report.causes import Cause, causes
from harness.report.evidence import last_steps, splat
from harness.report.groups import COLUMNS, CONFORM, groups, not_applicable, unknown
from harness.report.host_paths import read_shortened
from harness.report.html import tested
from harness.report.html.answer import answer
from harness.verdict.record import Record, Result
from harness.verdict.verdict import STAGES, Verdict

ROWS = 40  # causes in the table
CAUSES = 15  # with details to open
DETAILS = 256 << 10  # bytes of all details; GitHub takes 1 MiB for the whole
STEPS = 16  # lines of a transcript
SPLAT_LINES = 40
FINDINGS = 40
FAULTS = 20  # that no scenario noticed
MAX_CELL = 300  # characters of a cell
MAX_LINE = 300  # characters of a line of a transcript or a splat

_TONES = {"good": "✅", "bad": "❌", "open": "⚠️"}
#: Punctuation with a meaning in Markdown or HTML.
_SPECIAL = re.compile(r"[^\w\s,;()'\"?=]|_")
#: What begins a mention, a reference or an address also where it is an entity; a gap behind it prevents that.
_REFERENCES = "@#!~%$&"
_GAP = "&#8203;"


def render(directory: Path) -> str:
    """Return the report.  Raises HarnessError if ``directory`` holds no run."""
    record, facts = read_shortened(directory)
    found = causes(record)
    told = answer(record, found)
    blocks = [
        f"## {_TONES.get(told.tone, '')} {escaped(told.sentence)}",
        escaped(str(facts.get("title", ""))),
        escaped(told.reason),
        _executed(directory),
        *_faults(directory, facts, record.run),
        *(_stage(one) for one in _failed_stages(record)),
        _table(_CAUSE_HEADINGS, (_cause_row(number, cause) for number, cause in enumerate(found[:ROWS], 1))),
        f"and {counted(len(found) - ROWS, 'other cause')}" if len(found) > ROWS else "",
        *_within(_cause(number, cause, directory) for number, cause in enumerate(found[:CAUSES], 1)),
        "\n".join(f"- {escaped(one)}" for one in told.caveats),
        _opened("Scenarios by group of requirements", _counts(record)),
        _opened("What was tested", _tested(record, facts)),
        _opened("Findings, which fail no run", _lines(_findings(record))),
        _opened("Not applicable, or unknown", _lines([*not_applicable(record), *unknown(record)])),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _executed(directory: Path) -> str:
    """Return how many lines of the series were executed; empty if that was not counted."""
    found = line_coverage.load(directory)
    return "" if found is None else escaped(f"Lines: {found.sentence}")


def _faults(directory: Path, facts: Mapping[str, object], run: str) -> Iterator[str]:
    """Yield which faults in these lines were noticed, and the others to open; or how faults are tried."""
    found = generated_mutants.load(directory)
    if found is None:
        words = generated_mutants.advice(directory, facts, f"results/{run}")
        yield escaped(f"Faults: {words}") if words else ""
        return
    yield escaped(f"Faults: {found.sentence}")
    blocks = [
        f"{escaped(one.heading)}\n\n{_verbatim(one.difference.splitlines())}"
        for one in found.survived[:FAULTS]
    ]
    if (left := len(found.survived) - len(blocks)) > 0:
        blocks.append(f"and {left} more")
    yield _opened("Faults that no scenario noticed", "\n\n".join(_within(blocks)))


def escaped(text: str, limit: int = MAX_CELL) -> str:
    """Return a text on one line as Markdown that shows it as it is."""
    return _SPECIAL.sub(_entity, shortened(visible(one_line(text)), limit))


def _entity(match: re.Match[str]) -> str:
    """Return the entity of a character, with a gap where it begins a reference or an address."""
    address = match[0] == ":" and match.string.startswith("//", match.end())
    return f"&#{ord(match[0])};{_GAP if address or match[0] in _REFERENCES else ''}"


def _code(text: str) -> str:
    """Return a text as a span of code, to be copied."""
    shown = visible(one_line(text))
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{fence} {shown} {fence}"


_CAUSE_HEADINGS = ("", "requirement", "promised", "expected", "seen", "scenarios", "origin")


def _cause_row(number: int, cause: Cause) -> tuple[str, ...]:
    best = cause.best
    if best.deviation is not None:
        expected, seen = best.deviation.expected, best.deviation.seen
    elif best.verdict is Verdict.UNEXPECTEDLY_CONFORMS:
        expected, seen = f"{best.entry.expected}, by the manifest", "it conforms"
    else:
        expected, seen = "", best.reason or str(best.verdict)
    origin = str(cause.origin) if cause.origin is not None else ""
    words = (cause.requirement, cause.sentence, expected, seen, str(len(cause.results)), origin)
    return (str(number), *map(escaped, words))


def _cause(number: int, cause: Cause, directory: Path) -> str:
    """Return the details of a cause, to open."""
    best = cause.best
    parts = [_code(best.entry.id)]
    if best.comparison is not None:
        parts.append(escaped(best.comparison.reason))
    if steps := last_steps(best, directory, STEPS):
        parts.append(
            _verbatim(
                f"{'->' if step.decisive and not step.operation else '  '} {step.text}" for step in steps
            )
        )
    said = next((one for result in cause.results for one in result.complaints if one.fault), None)
    if said is not None:
        parts.append(_verbatim(splat(said, directory).splitlines()[:SPLAT_LINES]))
    return _opened(f"{number}. {cause.requirement}: {cause.sentence}", "\n\n".join(parts))


def _within(blocks: Iterable[str]) -> Iterator[str]:
    """Yield blocks as long as they have DETAILS bytes at most."""
    size = 0
    for block in blocks:
        size += len(block.encode())
        if size > DETAILS:
            return
        yield block


def _failed_stages(record: Record) -> Iterator[Result]:
    for one in record.results:
        if one.entry.kind in STAGES and one.verdict not in (Verdict.CONFORMS, Verdict.NOT_REACHED):
            yield one


def _stage(failed: Result) -> str:
    """Return the reason of a stage that failed, with the end of its log."""
    said = _verbatim(failed.details.splitlines()[-SPLAT_LINES:]) if failed.details else ""
    return "\n\n".join(filter(None, (f"{escaped(failed.entry.id)}: {escaped(failed.reason)}", said)))


def _counts(record: Record) -> str:
    """Return a table with a row for each group of requirements."""
    found = groups(record)
    columns = [one for one in COLUMNS if one is CONFORM or any(group.counts[one] for group in found)]
    headings = ("group", *(one.heading for one in columns), "about")
    cells = (
        (escaped(group.name), *(str(group.counts[one] or "") for one in columns), escaped(group.title))
        for group in found
    )
    programs = escaped(selftests.summary(record))
    return "\n\n".join(filter(None, (_table(headings, cells), programs)))


def _tested(record: Record, facts: Mapping[str, object]) -> str:
    cells = [(row.name, row.value, row.remark) for row in tested.first_rows(facts, record)]
    cells += [(one.name, one.state, one.words) for one in tested.detectors(record)]
    return _table(("", "", ""), (tuple(map(escaped, row)) for row in cells))


def _findings(record: Record) -> list[str]:
    found = list(rows.finding_lines(record))[1:]
    return found if len(found) <= FINDINGS else [*found[:FINDINGS], f"and {len(found) - FINDINGS} more"]


def _table(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """Return a table; empty without a row.  The cells are escaped."""
    lines = [f"| {' | '.join(row)} |" for row in cells]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}", *lines])


def _lines(texts: Iterable[str]) -> str:
    """Return a list of texts."""
    return "\n".join(f"- {escaped(text)}" for text in texts if text.strip())


def _opened(summary: str, content: str) -> str:
    """Return a content to be opened; empty if there is none."""
    if not content:
        return ""
    return f"<details><summary>{escaped(summary)}</summary>\n\n{content}\n\n</details>"


def _verbatim(lines: Iterable[str]) -> str:
    """Return lines as they are; in such a block GitHub looks for no mention."""
    shown = (html.escape(visible(shortened(line, MAX_LINE))) for line in lines)
    return "<pre>\n" + "\n".join(shown) + "\n</pre>"
