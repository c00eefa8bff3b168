"""Count the results that are not as expected, and the violations by their origin."""

from __future__ import annotations

from collections import Counter

from harness.verdict.comparison import Origin
from harness.verdict.record import Record


def origins(record: Record) -> dict[Origin, int]:
    """Return the number of violations of each origin; empty if none was compared with the base."""
    counts = Counter(one.comparison.origin for one in record.results if one.comparison is not None)
    return {origin: counts[origin] for origin in Origin} if counts else {}


def summary(record: Record) -> str:
    """Return ``2 not as expected, 1 inherited``, or ``all as expected``."""
    inherited = sum(one.inherited for one in record.results)
    others = sum(not one.as_expected for one in record.results) - inherited
    parts = [f"{others} not as expected"] if others else []
    parts += [f"{inherited} inherited from the base"] if inherited else []
    return ", ".join(parts) or "all as expected"


def origins_sentence(record: Record) -> str:
    """Return a sentence with the number of violations of each origin; empty if none was compared."""
    counts = origins(record)
    if not counts:
        return ""
    numbers = ", ".join(f"{number} {origin}" for origin, number in counts.items() if number)
    sentence = f"Violations, compared with the base alone: {numbers}."
    return sentence + (" An inherited one fails no run." if counts[Origin.INHERITED] else "")
