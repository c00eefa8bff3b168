"""Measure how long `--bisect` takes for one violation, and check what it finds.

    python bench/bisection.py [--patches N] [--results DIR]

The series is that of tests/faulty_series.py: it is made from the reference series, its third patch does
not compile, and its fifth one brings a fault.  The first run builds what the cache lacks.  The second
one, on a warm cache, is measured: from the end of its scenarios to its own end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from harness.journal.reader import read
from harness.journal.results_folder import newest_run
from harness.lib.paths import PROJECT

sys.path.insert(0, str(PROJECT / "tests"))
import faulty_series

SCENARIO = "suites/test_bad_creation.py::test_the_wc_flag_without_its_interface_is_einval"


def main() -> int:
    """Run twice, and print the seconds of each part of the second run, and what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patches", metavar="N", type=int, default=14, help="patches, 5 to 14")
    parser.add_argument("--results", metavar="DIR", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as folder:
        series = faulty_series.write(Path(folder), arguments.patches)
        for words in ("as the cache is", "warm"):
            _run(series, arguments.results)
            newest = newest_run(arguments.results)
            if newest is None:
                sys.exit("The run did not begin.")
            results = newest
            print(f"{words}: {_seconds(results):.0f} s, of {_whole(results):.0f} s for the whole run")
    record = read(results)
    for one in record.results:
        if one.since is not None:
            print(f"{one.entry.id}: since {one.since.words}")
    for one in record.patches:
        print(f"{one.entry.id}: {one.verdict} {one.reason}".rstrip())
    return 0


def _run(series: Path, results: Path) -> None:
    options = ["--series", str(series), "--results", str(results), "--bisect", "--variants", "one"]
    subprocess.run([sys.executable, "-m", "harness", "run", *options, SCENARIO], check=False)


def _times(results: Path) -> dict[str, float]:
    """Return the time of the last event of each name, and of the first patch, in seconds."""
    found: dict[str, float] = {}
    for line in (results / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        when = datetime.fromisoformat(event["time"]).timestamp()
        found[event["event"]] = when
        if event["event"] in ("run-started", "started"):
            found.setdefault(f"first {event.get('id', 'event')}", when)
    return found


def _seconds(results: Path) -> float:
    times = _times(results)
    return times["run-ended"] - times["first patch-1"]


def _whole(results: Path) -> float:
    times = _times(results)
    return times["run-ended"] - times["first event"]


if __name__ == "__main__":
    sys.exit(main())
