"""The recorded durations of the scenarios, suites/durations.json, by which a run is split into shards.

The file is the same on every machine of a split run, so that all of them split in the same way.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.lib import paths

FILE = paths.SUITES / "durations.json"


def load(path: Path = FILE) -> dict[str, float]:
    """Return the seconds of a scenario of each function, by the function's node id; none without a file."""
    if not path.is_file():
        return {}
    return {name: float(seconds) for name, seconds in json.loads(path.read_bytes()).items()}
