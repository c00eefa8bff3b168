"""Split the scenarios of a run into shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from harness.lib.shard import Shard, cut
from harness.plugin import durations
from harness.plugin.items import SHARD, requirement_ids


def assign(items: Sequence[pytest.Item], total: int, seconds: Mapping[str, float]) -> None:
    """Give each scenario the number of its shard, from 1 to ``total``.

    The scenarios are in the order of their machines, and each shard is one piece of that order.
    So scenarios of one layout stay together, and at most ``total`` - 1 more machines are
    started.  ``seconds`` has the durations by function, as suites/durations.json.
    """
    scenarios = [item for item in items if requirement_ids(item)]
    numbers = cut(durations.of(scenarios, seconds), total)
    for item, number in zip(scenarios, numbers, strict=True):
        item.stash[SHARD] = number


def of_shard(
    items: Sequence[pytest.Item], shard: Shard | None
) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items of a shard and the others; tests that are no scenarios are in shard 1.

    All items are of a run that is not split (None).
    """
    if shard is None:
        return list(items), []
    own = [item for item in items if item.stash.get(SHARD, 1) == shard.number]
    return own, [item for item in items if item not in set(own)]
