"""Tell a result that needs a look as a text: what was promised, expected and seen, and the evidence.

The first line has ids, title and reason, because readers show little more.  Then come the lines
``expected:``, ``seen:``, ``asked:``, ``at:`` and ``base:``, each only if it is known, and then the evidence:
the end of the transcript, the kernel's complaints, and of a stage its last messages.
A traceback is left out, as its readers are the harness's own developers; the journal has it.

Each part is cut to a number of lines, each line to LINE_LIMIT characters, and the whole to TEXT_LIMIT.
A cut part says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.journal.results_folder import STACKS
from harness.journal.writer import EVENTS
from harness.lib.text import one_line, shortened, visible
from harness.report.evidence import excerpt, last_steps, traces
from harness.verdict.record import Complaint, Result
from harness.verdict.verdict import Kind, Verdict

REASON_LINES = 20
TRANSCRIPT_LINES = 40  # the last ones before the wrong answer, and that
COMPLAINTS = 3  # of the kernel, in one result
COMPLAINT_LINES = 60  # the first ones of each
CONSOLE_LINES = 30  # the last ones, if the kernel died without a complaint
LOG_LINES = 60  # the last ones of a stage
LINE_LIMIT = 300  # characters
HEADLINE_LIMIT = 500  # characters
TEXT_LIMIT = 32 * 1024  # characters; GitHub takes 64 KiB for an annotation


def headline(result: Result) -> str:
    """Return ids, title and reason on one line: ``MAP-01 MAP-13: A BAR can be mapped. mmap() failed``.

    A stage has its id alone: ``build: The patched kernel does not compile.``  Last comes the patch since
    which it violates, if that is known.
    """
    entry = result.entry
    subject = " ".join(entry.requirements) or entry.id
    title = _one_line(entry.title) if entry.kind is Kind.SCENARIO else ""
    reason = _one_line(visible(result.reason).strip().partition("\n")[0])
    reason = reason or f"{result.verdict}, where {entry.expected} was expected"
    if title and title[-1] not in ".!?":
        title += "."
    since = f" (since {result.since.patch})" if result.since is not None else ""
    words = f"{_one_line(subject)}: {' '.join(filter(None, (title, reason)))}"
    return shortened(words, HEADLINE_LIMIT - len(since)) + since


def failure_text(result: Result, directory: Path) -> str:
    """Return the whole text of a result of the run in ``directory``, as plain text."""
    lines = [headline(result), *_said(result)]
    for part in _evidence(result, directory):
        lines += ["", *part]
    if files := _files(result, directory):
        lines += ["", f"More in the results folder: {', '.join(files)}"]
    text = "\n".join(shortened(line, LINE_LIMIT) if number else line for number, line in enumerate(lines))
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]}\n(the rest, {len(text) - TEXT_LIMIT} characters, is left out)"


def _said(result: Result) -> Iterator[str]:
    """Yield what is known in words: expected and seen, the rest of the reason, the place, the base."""
    if (deviation := result.deviation) is not None:
        yield f"expected: {_one_line(deviation.expected)}"
        yield f"seen: {_one_line(deviation.seen)}"
        if deviation.operation:
            yield f"asked: {_one_line(deviation.operation)}"
    if place := _place(result):
        yield f"at: {place}"
    if (comparison := result.comparison) is not None:
        yield f"base: {comparison.origin}, {_one_line(comparison.reason)}"
    if result.since is not None:
        yield f"since: {_one_line(result.since.words)}"
    rest = [line for line in visible(result.reason).strip().splitlines()[1:] if line.strip()]
    yield from _first(rest, REASON_LINES)


def _place(result: Result) -> str:
    """Return the line of the scenario that failed, ``suites/test_map.py:38``; or nothing."""
    file = result.entry.id.partition("::")[0]
    name = re.escape(file.rpartition("/")[2])
    found = re.search(rf"^{name}(:\d+)$", result.failure, re.MULTILINE) if name else None
    return visible(file + found[1]) if found else ""


def _evidence(result: Result, directory: Path) -> Iterator[list[str]]:
    """Yield the parts of the evidence, each with a heading."""
    if result.entry.kind is Kind.SCENARIO:
        if transcript := _transcript(result, directory):
            yield transcript
    elif result.details or result.transcript:
        # What a stage or a test program printed last; its transcript is its log.
        said = visible(result.details) or excerpt(directory, result.transcript)
        yield ["last messages:", *(f"    {line}" for line in _last(said.splitlines(), LOG_LINES))]
    complaints = _complaints(result, directory)
    yield from complaints
    span = result.console
    if result.verdict is Verdict.KERNEL_DIED and not complaints and span is not None:
        said = excerpt(directory, span.file, span.start, span.end)
        if said.strip():
            lines = _last(said.splitlines(), CONSOLE_LINES)
            yield [f"console ({visible(span.file)}):", *(f"    {line}" for line in lines)]


def _transcript(result: Result, directory: Path) -> list[str]:
    """Return the lines of the transcript up to the wrong answer, which is marked; empty if it has none."""
    found = last_steps(result, directory, TRANSCRIPT_LINES)
    if not found:
        return []
    where = f"{visible(result.transcript)}, lines {found[0].number} to {found[-1].number}"
    wrong = found[-1].decisive
    steps = [f"    {step.text}" for step in found[: -1 if wrong else None]]
    if wrong:
        steps.append(f"--> {found[-1].text}")
    return [f"transcript ({where}{'; --> is the wrong answer' if wrong else ''}):", *steps]


def _complaints(result: Result, directory: Path) -> list[list[str]]:
    """Return the kernel's complaints, its faults first, each with source lines if its file has them."""
    decoded = traces(result, directory)
    once: dict[str, Complaint] = {}
    for one in sorted(result.complaints, key=lambda one: not one.fault):
        once.setdefault(one.fingerprint, one)
    parts = []
    for one in list(once.values())[:COMPLAINTS]:
        text = decoded.get(f"{STACKS}/{one.fingerprint}.txt") or visible(one.text)
        lines = _first(text.strip("\n").splitlines(), COMPLAINT_LINES)
        parts.append([f"kernel ({visible(one.fingerprint)}):", *(f"    {line}" for line in lines)])
    if len(once) > COMPLAINTS:
        parts.append([f"({len(once) - COMPLAINTS} more complaints of the kernel)"])
    return parts


def _files(result: Result, directory: Path) -> list[str]:
    """Return the files of the results folder that have more."""
    files = [result.transcript, *traces(result, directory)]
    if result.console is not None and result.console.end > result.console.start:
        files.append(f"{result.console.file} (bytes {result.console.start} to {result.console.end})")
    if result.entry.kind is Kind.SCENARIO and result.details:
        files.append(f"{EVENTS} (traceback)")
    return [visible(name) for name in files if name]


def _first(lines: Sequence[str], count: int) -> list[str]:
    if len(lines) <= count:
        return list(lines)
    return [*lines[:count], f"({len(lines) - count} more lines)"]


def _last(lines: Sequence[str], count: int) -> list[str]:
    if len(lines) <= count:
        return list(lines)
    return [f"({len(lines) - count} lines before these)", *lines[-count:]]


def _one_line(text: str) -> str:
    return one_line(visible(text))
