"""A cause of violations as lines of text: what was expected, what was seen, and what led to it."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.journal.results_folder import STACKS
from harness.klog.fingerprint import innermost_functions
from harness.lib.text import counted, one_line, shortened, visible
from harness.report.causes import Cause
from harness.report.evidence import last_steps
from harness.report.patches import since, since_of_cause
from harness.verdict.comparison import Origin
from harness.verdict.record import Result
from harness.verdict.verdict import Kind, Verdict

STEPS = 8  # lines of a transcript before the wrong answer, which is the last
OTHERS = 6  # requirements that a cause violates besides the first
FRAMES = 3  # functions of a call trace
_INDENT = " " * 4
_LABEL = 11  # columns of a label


def heading(cause: Cause) -> str:
    """Return the cause's requirement, its origin, how many scenarios show it, and since which patch."""
    words = [str(cause.origin)] if cause.origin is not None else []
    if cause.best.entry.kind is Kind.SCENARIO:
        number = counted(cause.scenarios, "scenario")
        variants = len(cause.results)
        words.append(f"{number} in {counted(variants, 'variant')}" if variants > cause.scenarios else number)
    if since := since_of_cause(cause):
        words.append(f"since {since}")
    return f"{one_line(cause.requirement)}: {', '.join(words) or str(cause.best.verdict)}"


def block(cause: Cause, directory: Path, width: int) -> Iterator[str]:
    """Yield the lines below the heading, at most ``width`` columns each but for a command and a path."""
    best = cause.best
    yield from _labelled("promised", cause.sentence, width)
    if best.entry.title and one_line(best.entry.title) != one_line(cause.sentence):
        yield from _labelled("tested", best.entry.title, width)
    deviation = best.deviation
    if deviation is not None:
        moment = best.reason.partition(f", expected {deviation.expected}, but saw {deviation.seen}")
        if moment[1]:
            yield from _labelled("when", moment[0], width)
        yield from _labelled("expected", deviation.expected, width)
        yield from _labelled("seen", deviation.seen, width)
    elif best.verdict is Verdict.UNEXPECTEDLY_CONFORMS:
        yield from _labelled("expected", f"{best.entry.expected}, by the manifest of the series", width)
        yield from _labelled("seen", "it conforms", width)
    if best.reason and (deviation is None or not best.reason.endswith(deviation.sentence[1:])):
        yield from _labelled("in words", best.reason, width)
    if cause.origin in (Origin.NEW, Origin.NOT_COMPARABLE) and best.comparison is not None:
        yield from _labelled("base", best.comparison.reason, width)
    if words := since(best):
        yield from _labelled("since", words, width)
    yield from _complaints(cause, directory, width)
    yield from _operations(best, directory, width)
    yield from _rest(cause, directory, width)


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    """Yield a text behind its label, folded below itself."""
    first = f"{_INDENT}{label:{_LABEL}}"
    lines = textwrap.wrap(visible(one_line(text)), max(20, width - len(first)), break_on_hyphens=False) or [
        "-"
    ]
    for line in lines:
        yield first + line
        first = " " * len(first)


def _complaints(cause: Cause, directory: Path, width: int) -> Iterator[str]:
    """Yield the kernel's complaints, each with the innermost functions of its call trace and its file."""
    found = {one.fingerprint: one for result in cause.results for one in result.complaints if one.fault}
    for name, one in found.items():
        frames = innermost_functions(one.text)[:FRAMES]
        place = f", in {' < '.join(map(one_line, frames))}" if frames else ""
        yield from _labelled("kernel", f"{one_line(one.title)}{place}", width)
        if (directory / STACKS / f"{name}.txt").is_file():
            yield from _labelled("", f"{STACKS}/{name}.txt", width)


def _operations(result: Result, directory: Path, width: int) -> Iterator[str]:
    """Yield the last operations, as a person would type them, up to the wrong answer."""
    found = last_steps(result, directory, STEPS)
    label = "led to it"
    for step in found:
        text = visible(one_line(step.text))
        mark = "->" if step.decisive and not step.operation else "  "
        room = max(20, width - len(_INDENT) - _LABEL - 3)
        yield f"{_INDENT}{label:{_LABEL - 3}}{mark} {shortened(text, room)}"
        label = ""


def _rest(cause: Cause, directory: Path, width: int) -> Iterator[str]:
    """Yield where the rest is, how to see it again, and which other requirements the cause violates."""
    best = cause.best
    if best.transcript:
        yield f"{_INDENT}{'the rest':{_LABEL}}{one_line(best.transcript)}"
    if best.entry.kind is Kind.SCENARIO:
        command = ["python", "-m", "harness", "reproduce", str(directory), best.entry.id]
        yield f"{_INDENT}{'again':{_LABEL}}{shlex.join(command)}"
    others = Counter(name for one in cause.results for name in one.entry.requirements)
    others.pop(cause.requirement, None)
    if others:
        words = [f"{one_line(name)} ({number})" for name, number in others.most_common(OTHERS)]
        more = f" and {len(others) - OTHERS} more" if len(others) > OTHERS else ""
        yield from _labelled("also", ", ".join(words) + more, width)
