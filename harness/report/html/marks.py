"""The mark of a result on the page: a word, a glyph and a class, so that colour is never alone."""

from __future__ import annotations

from dataclasses import dataclass

from harness.verdict.record import Result
from harness.verdict.verdict import Verdict


@dataclass(frozen=True)
class Mark:
    """How a result is shown: ``style`` is a class of the style sheet."""

    style: str
    glyph: str
    word: str


CONFORMS = Mark("ok", "", "conforms")
VIOLATES = Mark("bad", "✕", "violates")
DIED = Mark("died", "†", "kernel-died")
UNEXPECTED = Mark("bad", "U", "unexpectedly-conforms")
INHERITED = Mark("old", "=", "violates, as the base does")
EXPECTED = Mark("old", "e", "violates, as expected")
FINDING = Mark("find", "i", "finding")
NOT_APPLICABLE = Mark("na", "–", "not-applicable")  # noqa: RUF001
HARNESS = Mark("warn", "!", "harness-error")
OPEN = Mark("warn", "…", "began and never ended")
NOT_REACHED = Mark("warn", "?", "not-reached")

#: In the order of a legend: what needs a reader first.
MARKS = (
    DIED,
    VIOLATES,
    UNEXPECTED,
    HARNESS,
    OPEN,
    NOT_REACHED,
    INHERITED,
    EXPECTED,
    FINDING,
    CONFORMS,
    NOT_APPLICABLE,
)

_BY_VERDICT = {
    Verdict.CONFORMS: CONFORMS,
    Verdict.VIOLATES: VIOLATES,
    Verdict.KERNEL_DIED: DIED,
    Verdict.UNEXPECTEDLY_CONFORMS: UNEXPECTED,
    Verdict.NOT_APPLICABLE: NOT_APPLICABLE,
    Verdict.NOT_REACHED: NOT_REACHED,
    Verdict.HARNESS_ERROR: HARNESS,
}


def mark(result: Result) -> Mark:
    """Return the mark of a result."""
    if result.verdict in (Verdict.NOT_REACHED, Verdict.HARNESS_ERROR):
        return FINDING if result.is_finding else _BY_VERDICT[result.verdict]
    if not result.ended:
        return OPEN
    if result.inherited:
        return INHERITED
    if result.is_finding:
        return FINDING
    if result.as_expected and result.verdict in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
        return EXPECTED
    return _BY_VERDICT[result.verdict]
