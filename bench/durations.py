"""Write suites/durations.json, by which a run is split into shards, from a whole run.

    python bench/durations.py RESULTS

It has the mean seconds of the scenarios of each function, by its node id.  Choose a run of a
series that most scenarios are applicable to.  Other work on the host slows all machines alike, so
the times are divided by how much slower the nearest machines booted than the fastest.
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.journal.writer import EVENTS
from harness.lib import jsonl
from harness.lib.files import write_atomically
from harness.plugin.durations import FILE

LEAST = 0.1  # seconds, also of a scenario that is not applicable


def when(event: dict[str, Any]) -> float:
    """Return the time of an event in seconds."""
    return datetime.fromisoformat(event["time"]).timestamp()


def slowness(time: float, boots: list[tuple[float, float]]) -> float:
    """Return how much slower the host was at ``time`` than at its fastest, by the boots around it."""
    fastest = min(seconds for _, seconds in boots)
    for (before, one), (after, other) in pairwise([(0.0, boots[0][1]), *boots]):
        if time <= after:
            return (one + (other - one) * (time - before) / (after - before)) / fastest
    return boots[-1][1] / fastest


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the results folder of a whole run")
    events = [json.loads(line) for line in jsonl.whole_lines(parser.parse_args().results / EVENTS)]
    boots = [
        (when(event), float(event["seconds"]))
        for event in events
        if event["event"] == "machine-up" and "snapshot" not in event
    ]
    measured: dict[str, list[float]] = {}
    for event in events:
        if event["event"] == "ended" and "::" in event["id"]:
            seconds = float(event["duration"])
            scaled = seconds / slowness(when(event) - seconds / 2, boots)
            measured.setdefault(event["id"].partition("[")[0], []).append(scaled)
    means = {name: round(max(statistics.mean(each), LEAST), 1) for name, each in sorted(measured.items())}
    write_atomically(FILE, json.dumps(means, indent=0) + "\n")


if __name__ == "__main__":
    main()
