"""Select few scenarios that check every requirement (--fast), for the loop of a developer.

A requirement may be checked in each dialect by other scenarios, and the dialect is known only once
the kernel is built.  So every requirement is covered for every dialect.  The quickest scenario of a
requirement does not see all faults that break it; suites/fast.toml names others that do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest

from harness.lib import paths
from harness.plugin.items import dialects_of, requirement_ids

FILE = paths.SUITES / "fast.toml"
#: Seconds of a scenario whose duration is not recorded.
_UNKNOWN_SECONDS = 1.0


def always(path: Path = FILE) -> Mapping[str, list[str]]:
    """Return the node ids of the scenarios that --fast always takes, each with the mutants that it kills."""
    found: dict[str, list[str]] = tomllib.loads(path.read_text())
    return found


def covering(
    items: Sequence[pytest.Item], seconds: Mapping[str, float], always: Collection[str] = ()
) -> list[pytest.Item]:
    """Return scenarios that check each requirement of ``items`` in each of its dialects, in their order.

    Those with a node id in ``always`` are taken first.  The others are chosen one by one: always the one
    that checks the most requirements, not yet checked, for a second of its time.  Of equal ones the first
    is taken.  ``seconds`` are the durations by the function's node id.
    """
    checks = {
        item: {(name, dialect) for name in requirement_ids(item) for dialect in dialects_of(item)}
        for item in items
        if requirement_ids(item)
    }
    chosen = {item for item in checks if item.nodeid in always}
    left = {pair for pairs in checks.values() for pair in pairs}
    for item in chosen:
        left -= checks[item]

    def gain(item: pytest.Item) -> float:
        return len(checks[item] & left) / max(
            seconds.get(item.nodeid.partition("[")[0], _UNKNOWN_SECONDS), 0.01
        )

    while left:
        best = max(checks, key=gain)
        chosen.add(best)
        left -= checks[best]
    return [item for item in items if item in chosen]


def sentence(chosen: int, of: int) -> str:
    """Return the note of a run with --fast."""
    return (
        f"This run is a selection (--fast): {chosen} of {of} scenarios, one or more for each requirement, "
        "and some that see more faults. It is made for the loop of a developer. What the others would have "
        "shown is not known; run all of them before you trust the series."
    )
