"""The text of a mail about a run: what was tested, what is not as promised, and how to see it again.

Lines are at most 72 columns, except those behind ``| ``: transcripts and messages of the kernel are quoted
as they are.  No line of foreign text begins like a trailer, so that no tool takes one from this mail.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness import __version__
from harness.journal.facts import read_mails
from harness.lib.text import counted, one_line, visible
from harness.report import cause_text, patches, selftests
from harness.report.causes import Cause, causes
from harness.report.evidence import last_steps, splat
from harness.report.html import answer as answers
from harness.report.html import tested
from harness.report.prefixes import Prefixes
from harness.verdict.record import Complaint, Record, Result
from harness.verdict.verdict import STAGES, Kind, Verdict

WIDTH = 72
CAUSES = 6  # that are told in full
STEPS = 14  # lines of a transcript
SPLAT_LINES = 60  # of a complaint of the kernel
DETAIL_LINES = 30  # of a stage that failed
MAX_LINE = 900  # bytes of a quoted line; a mail may have at most 998
_LABEL = 13
_TRAILER = re.compile(r"^(\s*\w\S*):(?=\s)")


def text(directory: Path, record: Record, facts: Mapping[str, object], series: Prefixes | None) -> str:
    """Return the text of the mail."""
    found = causes(record)
    said = answers.answer(record, found)
    paragraphs = [
        _folded(f"{_noun(facts)} was tested with patchproof {__version__}. {said.sentence} {said.reason}"),
        _tested(record, facts),
    ]
    failed = [one for one in record.results if one.entry.kind in STAGES and _failed(one)]
    paragraphs += [_stage(one) for one in failed if not any(one in cause.results for cause in found)]
    told = [cause for cause in found if not cause.inherited]
    for number, cause in enumerate(told[:CAUSES], 1):
        paragraphs += _cause(number, cause, directory, facts, series)
    if others := [*told[CAUSES:], *(cause for cause in found if cause.inherited)]:
        paragraphs.append(_others(others))
    paragraphs.append(_for_a_tag(facts, said))
    return "\n\n".join(filter(None, ("\n".join(lines) for lines in paragraphs))) + "\n"


def _failed(result: Result) -> bool:
    return result.verdict not in (Verdict.CONFORMS, Verdict.NOT_REACHED)


def _noun(facts: Mapping[str, object]) -> str:
    """Return the noun of the first sentence."""
    patches = sum(one["number"] > 0 for one in read_mails(facts))
    if not patches:  # a run of an earlier version does not know the mails
        return "This kernel" if "mails" in facts else "This series"
    revision = f", revision {one_line(str(facts['revision']))}" if facts.get("revision") else ""
    return f"This series ({counted(patches, 'patch') if patches == 1 else f'{patches} patches'}{revision})"


def _tested(record: Record, facts: Mapping[str, object]) -> list[str]:
    """Return what was tested, and on what."""
    lines = ["What was tested:", ""]
    for row in tested.first_rows(facts, record):
        lines += _labelled(row.name, row.value + (f" ({row.remark})" if row.remark else ""))
    if qemu := facts.get("qemu"):
        lines += _labelled("QEMU", str(qemu))
    counts = Counter(result.verdict for result in record.scenarios)
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    lines += _labelled("scenarios", words or "none ran")
    states: dict[str, list[str]] = {}
    for one in tested.detectors(record):
        states.setdefault(one.state, []).append(one.name)
    for state, names in states.items():
        lines += _labelled("detectors", f"{state}: {', '.join(names)}")
    if programs := selftests.summary(record):
        lines += _labelled("selftests", programs)
    for sentence in patches.lines(record):
        lines += _labelled("patches", sentence)
    return lines


def _cause(
    number: int, cause: Cause, directory: Path, facts: Mapping[str, object], series: Prefixes | None
) -> Iterator[list[str]]:
    """Yield the paragraphs about a cause."""
    best = cause.best
    yield _folded(f"{number}. {cause_text.heading(cause)}")
    yield [
        line for label, value in _facts(cause, series) for line in (_labelled(label, value) if value else ())
    ]
    if best.entry.kind in (*STAGES, Kind.PATCH):
        yield _quoted(best.details.splitlines()[:DETAIL_LINES])
    elif steps := last_steps(best, directory, STEPS):
        marked = any(step.decisive for step in steps)
        yield ["The operations that led to it" + (", the wrong answer marked:" if marked else ":")]
        yield _quoted(
            f"{'->' if step.decisive and not step.operation else '  '} {step.text}" for step in steps
        )
    yield from _complaints(cause, directory)
    if best.entry.kind is Kind.SCENARIO:
        yield ["To see it again:"]
        yield _quoted([_command(facts, best)])


def _facts(cause: Cause, series: Prefixes | None) -> Iterator[tuple[str, str]]:
    best = cause.best
    if best.entry.kind is Kind.SCENARIO:
        yield "promised", cause.sentence
    yield "tested", best.entry.title if one_line(best.entry.title) != one_line(cause.sentence) else ""
    if best.deviation is not None:
        yield "expected", best.deviation.expected
        yield "seen", best.deviation.seen
    elif best.verdict is Verdict.UNEXPECTEDLY_CONFORMS:
        yield "expected", f"{best.entry.expected}, by the manifest of the series"
        yield "seen", "it conforms"
    else:
        yield "seen", best.reason or str(best.verdict)
    if best.comparison is not None:
        yield "base", best.comparison.reason
    if not cause.inherited:
        yield "since", patches.since(best, series)


def _complaints(cause: Cause, directory: Path) -> Iterator[list[str]]:
    """Yield the kernel's first complaint whole, as no splat may be wrapped, and the titles of the others."""
    found: dict[str, Complaint] = {}
    for result in cause.results:
        for one in result.complaints:
            if one.fault:
                found.setdefault(one.fingerprint, one)
    if not found:
        return
    first, *others = found.values()
    lines = splat(first, directory).splitlines()
    yield ["The kernel said:"]
    yield _quoted(lines[:SPLAT_LINES])
    if len(lines) > SPLAT_LINES:
        yield _folded(f"and {counted(len(lines) - SPLAT_LINES, 'line')} more.")
    for one in others:
        yield _folded(f"It also said: {one.title}")


def _stage(failed: Result) -> list[str]:
    """Return the paragraph about a stage that failed through no fault of the series."""
    lines = _labelled(failed.entry.id, failed.reason or str(failed.verdict))
    return [*lines, *([""] if failed.details else []), *_quoted(failed.details.splitlines()[:DETAIL_LINES])]


def _others(found: Iterable[Cause]) -> list[str]:
    """Return a line for each cause that is not told in full."""
    lines = ["Also:", ""]
    for cause in found:
        same = " The base alone does the same." if cause.inherited else ""
        lines += _folded(f"- {cause_text.heading(cause)}. {one_line(cause.sentence)}{same}", "  ")
    return lines


def _for_a_tag(facts: Mapping[str, object], said: answers.Answer) -> list[str]:
    """Return what a person needs to know before giving a tag.  The mail itself gives none."""
    kernel = facts.get("kernel_release", "no kernel")
    accelerator = facts.get("accelerator", "no accelerator")
    lines = _folded(
        f"Whoever gives a tag for this: it would stand for {kernel} on x86_64 in a virtual machine "
        f"(QEMU, {accelerator}), with no real device. This mail is made by a program, and gives none."
    )
    lines += [""] if said.caveats else []
    for caveat in said.caveats:
        lines += _folded(f"- {caveat}", "  ")
    return lines


def _command(facts: Mapping[str, object], result: Result) -> str:
    """Return the command that runs a scenario again, for somebody who has the mails and this program."""
    message, options = str(facts.get("message_id", "")), tested.source_options(facts)
    if message:
        base = facts.get("base_wanted")
        options = shlex.join(["--series", message, *(["--base", str(base)] if base else [])])
    words = " ".join(filter(None, ("tox -e vm --", options, shlex.quote(result.entry.scenario))))
    return visible(one_line(words))


def _labelled(label: str, value: str) -> list[str]:
    """Return a text behind its label, folded below itself."""
    first = f"  {label:{_LABEL}}"
    return _folded(first + one_line(value), " " * len(first))


def _folded(sentences: str, indent: str = "") -> list[str]:
    """Return a text folded to WIDTH; no line of it begins like a trailer."""
    lines = textwrap.wrap(
        visible(sentences), WIDTH, subsequent_indent=indent, break_on_hyphens=False, expand_tabs=False
    )
    return [_TRAILER.sub(r"\1 :", line) if number else line for number, line in enumerate(lines)]


def _quoted(lines: Iterable[str]) -> list[str]:
    """Return lines as they are behind a mark; only a line that no mail may have is cut."""
    return [f"  | {_cut(visible(line.expandtabs()))}".rstrip() for line in lines]


def _cut(line: str) -> str:
    raw = line.encode()
    return line if len(raw) <= MAX_LINE else raw[:MAX_LINE].decode(errors="ignore") + "..."
