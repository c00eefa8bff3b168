"""Print the time that a stored run took: by machine, by group of requirements, and the slowest scenarios.

    python bench/scenarios.py [RESULTS] [--slowest N]

RESULTS is by default the newest run below results/.  The time of a scenario includes
the boot that it asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.journal.reader import read
from harness.journal.writer import EVENTS
from harness.lib.errors import PatchproofError
from harness.verdict.record import Result


def seconds(results: list[Result]) -> list[float]:
    """Return the duration of each result that ended."""
    return [result.duration for result in results if result.duration is not None]


def group_of(result: Result) -> str:
    """Return the group of a scenario's first requirement, such as MAP."""
    return result.entry.requirements[0].partition("-")[0]


def boots(directory: Path) -> list[tuple[str, str, float]]:
    """Return name, layout, and seconds to the first login of each machine that came up."""
    events = [json.loads(line) for line in (directory / EVENTS).read_text().splitlines()]
    layouts = {e["machine"]: e.get("layout", "") for e in events if e["event"] == "machine-started"}
    return [(e["machine"], layouts[e["machine"]], e["seconds"]) for e in events if e["event"] == "machine-up"]


def table(heading: str, *numbers: str) -> Table:
    """Make an empty table with one column of words and the others of numbers."""
    shown = Table(heading)
    for number in numbers:
        shown.add_column(number, justify="right")
    return shown


def main() -> int:
    """Print three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, nargs="?", default=Path("results/latest"))
    parser.add_argument(
        "--slowest", metavar="N", type=int, default=15, help="how many (default: %(default)s)"
    )
    known = parser.parse_args()
    try:
        scenarios = list(read(known.results).scenarios)
    except PatchproofError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    groups: dict[str, list[Result]] = defaultdict(list)
    for scenario in scenarios:
        groups[group_of(scenario)].append(scenario)
    console = Console()

    machines = table("machine", "s")
    for name, layout, took in boots(known.results):
        machines.add_row(f"{name}: {layout}", f"{took:.1f}")
    console.print(machines)

    sums = table("group", "scenarios", "median s", "sum s")
    for group, members in sorted(groups.items(), key=lambda pair: -sum(seconds(pair[1]))):
        durations = seconds(members) or [0.0]
        figures = (f"{statistics.median(durations):.2f}", f"{sum(durations):.1f}")
        sums.add_row(group, str(len(members)), *figures)
    sums.add_row("all", str(len(scenarios)), "", f"{sum(seconds(scenarios)):.1f}")
    console.print(sums)

    slowest = table("scenario", "s")
    for result in sorted(scenarios, key=lambda one: -(one.duration or 0.0))[: known.slowest]:
        slowest.add_row(result.entry.id, f"{result.duration or 0.0:.2f}")
    console.print(slowest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
