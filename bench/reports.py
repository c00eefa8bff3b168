"""Measure how long each report of a stored run takes, as a whole process and as processor time.

    python bench/reports.py results/latest

The processor time is that of the program alone; the other includes waiting for a busy host.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.cli.report import FORMATS
from harness.journal.reader import read

NEEDS_MORE = ("b4",)  # reads a cover letter from standard input


def measure(arguments: list[str]) -> tuple[float, float]:
    """Return the seconds of one process of the program, and its seconds of processor time."""
    before, started = os.times(), time.monotonic()
    command = [sys.executable, "-m", "harness", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed, after = time.monotonic() - started, os.times()
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return elapsed, used


def main() -> None:
    """Print a table of the reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="RESULTS", type=Path)
    parser.add_argument("--rounds", metavar="N", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            f"report {name}": ["report", name, str(args.folder), "-o", f"{folder}/{name}"]
            for name in FORMATS
            if name not in NEEDS_MORE
        }
        commands["compare"] = ["compare", str(args.folder), str(args.folder), "--force"]
        table = Table("command", "seconds", "processor time", "KiB")
        for name, arguments in commands.items():
            taken = [measure(arguments) for _ in range(args.rounds)]
            path = Path(folder, name.rpartition(" ")[2])
            table.add_row(
                name,
                *(f"{statistics.median(one):.2f}" for one in zip(*taken, strict=True)),
                f"{path.stat().st_size >> 10}" if path.exists() else "",
            )
    Console().print(f"{len(read(args.folder).results)} entries, medians of {args.rounds}")
    Console().print(table)


if __name__ == "__main__":
    main()
