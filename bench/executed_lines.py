"""Measure what --coverage costs of a run: the same scenarios with it and without it, in turns.

    python bench/executed_lines.py [--series NAME] [--pairs N] [--requirement ID[,ID]]

Both kernels are built before.  The result is the median of the ratios of the pairs, of the whole run and
of its scenarios alone, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.journal.reader import read
from harness.journal.results_folder import newest_run

TARGET = 1.5


def run(folder: Path, series: str, requirement: str, *options: str) -> tuple[float, float]:
    """Run the scenarios of a requirement; return the seconds of the run, and of its scenarios."""
    command = [sys.executable, "-m", "harness", "run", "--series", series, "--requirement", requirement]
    command += ["--variants", "one", "--no-base", "--selftests", "none", "--results", str(folder)]
    began = time.monotonic()
    subprocess.run([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    whole = time.monotonic() - began
    newest = newest_run(folder)
    assert newest is not None, "the run did not begin"
    scenarios = read(newest).scenarios
    assert all(one.ended for one in scenarios), "a scenario did not end"
    return whole, sum(one.duration or 0.0 for one in scenarios)


def main() -> int:
    """Print the ratios of the pairs beside their target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", default="reference-feature", help="(default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--requirement", metavar="ID[,ID]", default="MAP", help="(default: %(default)s)")
    given = parser.parse_args()
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(-1, given.pairs):  # the first pair is not counted: it builds
            seconds = {}
            for options in ((), ("--coverage",)) if number % 2 else (("--coverage",), ()):
                seconds[options] = run(Path(name), given.series, given.requirement, *options)
            pair = tuple(one / two for one, two in zip(seconds["--coverage",], seconds[()], strict=True))
            print(
                f"{'build' if number < 0 else number + 1}: run {pair[0]:.2f}, scenarios {pair[1]:.2f}",
                flush=True,
            )
            if number >= 0:
                ratios.append((pair[0], pair[1]))
    whole, scenarios = zip(*ratios, strict=True)
    for words, values in (("run", whole), ("scenarios", scenarios)):
        print(f"{words}: median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}")
    print(f"target: at most {TARGET}")
    return 0 if statistics.median(whole) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
