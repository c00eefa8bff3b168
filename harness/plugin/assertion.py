"""Turn an assertion of a scenario that does not hold into what it expected and what it saw."""

from __future__ import annotations

import pytest

from harness.actor.expect import Comparison
from harness.actor.mismatch import Mismatch

COMPARED = pytest.StashKey[Comparison]()  # of the config: the latest comparison that did not hold


def explain(config: pytest.Config, operator: str, left: object, right: object) -> list[str]:
    """Remember a comparison that does not hold; return the sentence that stands in its message."""
    found = config.stash[COMPARED] = Comparison.of(operator, left, right)
    return [found.deviation.sentence]


def mismatch_of(config: pytest.Config, error: AssertionError) -> AssertionError:
    """Return ``error`` as a Mismatch, if it is that of the comparison that explain() remembers.

    Its sentence is the assertion's own message; without one, what is wrong with the answer to
    the latest operation, or else what was expected and seen.
    """
    found = config.stash.get(COMPARED, None)
    if isinstance(error, Mismatch) or found is None:
        return error
    # pytest's message is that of the assertion, if it has one, and then the comparison.
    said, mark, _ = str(error).partition(f"assert {found.deviation.sentence}")
    return found.mismatch(" ".join(said.split()).rstrip(".:")).in_place_of(error) if mark else error
