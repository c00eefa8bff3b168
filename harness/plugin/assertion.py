"""Turn an assertion of a scenario that does not hold into what it expected and what it saw."""

from __future__ import annotations

import pytest

from harness.actor.mismatch import Mismatch
from harness.actor.transcript import latest_operation
from harness.actor.words import comparison, reply_of
from harness.verdict.deviation import Deviation

COMPARED = pytest.StashKey[Deviation]()  # of the config: the latest comparison that did not hold


def explain(config: pytest.Config, operator: str, left: object, right: object) -> list[str]:
    """Remember a comparison that does not hold; return the sentence that stands in its message."""
    expected, seen = comparison(operator, left, right)
    latest = latest_operation()
    wanted = reply_of(right) if operator in ("==", "is") else ""
    found = config.stash[COMPARED] = Deviation(expected, seen, latest.text, latest.line, wanted)
    return [found.sentence]


def mismatch_of(config: pytest.Config, error: AssertionError) -> AssertionError:
    """Return ``error`` as a Mismatch, if it is that of the comparison that explain() remembers."""
    found = config.stash.get(COMPARED, None)
    text = str(error)
    if isinstance(error, Mismatch) or found is None or found.sentence not in text:
        return error
    # pytest's message is that of the assertion, if it has one, and then the comparison.
    said = text.partition(f"assert {found.sentence}")[0].strip().rstrip(".:")
    return Mismatch.of(f"{said}: {found.sentence}" if said else found.sentence, found, error)
