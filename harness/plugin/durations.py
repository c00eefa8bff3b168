"""The recorded durations of the scenarios, suites/durations.json.

By them a run is split into shards, and its scenarios are given to several machines.

The file is the same on every machine of a split run, so that all of them split in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from harness.lib import paths

FILE = paths.SUITES / "durations.json"


def load(path: Path = FILE) -> dict[str, float]:
    """Return the seconds of a scenario of each function, by the function's node id; none without a file."""
    if not path.is_file():
        return {}
    return {name: float(seconds) for name, seconds in json.loads(path.read_bytes()).items()}


def of(items: Sequence[pytest.Item], seconds: Mapping[str, float]) -> list[float]:
    """Return the seconds that each scenario takes, by its function.

    One whose duration is not recorded takes as long as the mean of the others.
    """
    known = [seconds.get(item.nodeid.partition("[")[0]) for item in items]
    measured = [one for one in known if one is not None]
    usual = sum(measured) / len(measured) if measured else 1.0
    return [usual if one is None else one for one in known]
