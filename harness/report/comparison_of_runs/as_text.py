"""Write a comparison of two runs as plain text, 80 columns wide; the regressions come last."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from harness.lib.text import one_line, shortened, visible
from harness.report.comparison_of_runs import details
from harness.report.comparison_of_runs.comparison import RunComparison
from harness.report.comparison_of_runs.differences import describe
from harness.report.comparison_of_runs.sections import Item, sections

WIDTH = 80
COMPLAINTS = 12  # lines of complaints
_INDENT = " " * 4
LONGEST = 400  # characters of one text
_LABEL = 10  # columns of a label


def render(comparison: RunComparison) -> str:
    """Return the comparison as text that ends with a newline; nothing in it is a control character."""
    return "".join(f"{visible(line)}\n" for line in _lines(comparison))


def _lines(comparison: RunComparison) -> Iterator[str]:
    yield from _header(comparison)
    for section in sections(comparison):
        yield f"{section.title} ({section.pairs}):"
        for item in section.items:
            yield from _item(item, comparison)
        yield ""
    yield from _complaints(comparison)
    if unanswered := comparison.unanswered:
        yield from _folded(unanswered)
    yield from _folded(comparison.summary)


def _header(comparison: RunComparison) -> Iterator[str]:
    for run in (comparison.before, comparison.after):
        yield from _folded(f"{run.label}: {describe(run)}; {run.directory}", "  ")
    for sentence in comparison.overridden:
        yield from _folded(f"Forced: {sentence}", "  ")
    for sentence in comparison.notes:
        yield from _folded(f"Note: {sentence}", "  ")
    found = list(details.differences(comparison))
    for name, words in found:
        yield from _folded(f"{name[0].upper()}{name[1:]}: {words}", "  ")
    if not found:
        yield "The series, the base, the machine and the selection are the same."
    yield details.same(comparison)
    yield ""


def _item(item: Item, comparison: RunComparison) -> Iterator[str]:
    yield from _folded(f"  {details.heading(item)}", _INDENT)
    yield from _folded(f"{_INDENT}{details.numbers(item, comparison)}", _INDENT)
    for label, text in details.rows(item, comparison):
        yield from _labelled(label, text)
    label = "led to it"
    for step in details.operations(item, comparison):
        mark = "->" if step.decisive and not step.operation else "  "
        room = WIDTH - len(_INDENT) - _LABEL - len(mark) - 1
        yield f"{_INDENT}{label:{_LABEL}}{mark} {shortened(visible(one_line(step.text)), room)}"
        label = ""


def _labelled(label: str, text: str) -> Iterator[str]:
    """Yield a text behind its label; only one word, such as an id, may be longer than a line."""
    first = f"{_INDENT}{label:{_LABEL}}"
    for line in _folded(shortened(visible(one_line(text)), LONGEST), width=WIDTH - len(first)):
        yield first + line
        first = " " * len(first)


def _complaints(comparison: RunComparison) -> Iterator[str]:
    """Yield the kernel's complaints, those in both runs only as a number."""
    if not comparison.complaints:
        return
    told = [one for one in comparison.complaints if one.where != "both"]
    yield "The kernel's complaints, by fingerprint:"
    for one in told[:COMPLAINTS]:
        yield from _folded(f"  {details.complaint(one, comparison)}", _INDENT)
    if len(told) > COMPLAINTS:
        yield f"  and {len(told) - COMPLAINTS} more"
    if both := len(comparison.complaints) - len(told):
        yield f"  {both} in both"
    yield ""


def _folded(text: str, indent: str = "", width: int = WIDTH) -> Iterator[str]:
    """Yield the lines of ``text``, all but the first behind ``indent``; a long word is not cut."""
    yield from textwrap.wrap(
        visible(text), width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    ) or [""]
