"""Measure the main job: everything cached, one patch changed, and (on request) an empty cache.

Each figure is the time of a whole process, from the command line to its end.  Figures
of one run can be compared with each other; between hosts only ratios can.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.journal.reader import read
from harness.lib import paths
from harness.run import request

SERIES = paths.PATCHES / request.DEFAULT_SERIES
TOUCHED = "drivers/vfio/pci/vfio_pci_dmabuf.c"
# The time outside of scenarios does not depend on their number, so a few scenarios are enough.
SELECTION = "test_a_dmabuf_reaches"


def run_once(series: Path, results: Path, *, cache: Path | None = None) -> tuple[float, float]:
    """Return the seconds of one whole run, and those that were spent in scenarios."""
    environment = dict(os.environ) | ({"PATCHPROOF_CACHE": str(cache)} if cache else {})
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "harness", "run", "-q", "-k", SELECTION),
            *("--series", str(series), "--results", str(results)),
        ],
        cwd=paths.PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"The run ended with {done.returncode}:\n{done.stdout.decode(errors='replace')[-4000:]}")
    record = read(results / "latest")
    return seconds, sum(result.duration or 0.0 for result in record.scenarios)


def changed_series(folder: Path, number: int) -> Path:
    """Copy the default series and add a patch that differs each time."""
    copy = folder / f"changed-{number}"
    shutil.copytree(SERIES, copy)
    applied = subprocess.run(
        [sys.executable, "-m", "harness", "apply", "--series", str(SERIES)],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"commit (\w+) in (.+)", applied.stdout)
    if found is None:
        sys.exit(f"`harness apply` said something else than its commit: {applied.stdout}")
    source = subprocess.run(
        ["git", "-C", found[2], "show", f"{found[1]}:{TOUCHED}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    count = len(source)
    mark = f'MODULE_INFO(patchproof_bench, "{time.time_ns()}");'
    own = len(list(copy.glob("*.patch"))) + 1
    (copy / f"{own:04}-bench.patch").write_text(
        "From: patchproof <patchproof@localhost>\nDate: Mon, 9 Feb 2026 00:00:00 +0000\n"
        f"Subject: [PATCH] vfio/pci: one more line\n\n---\n"
        f"diff --git a/{TOUCHED} b/{TOUCHED}\n--- a/{TOUCHED}\n+++ b/{TOUCHED}\n"
        f"@@ -{count - 2},3 +{count - 2},4 @@\n"
        + "".join(f" {line}\n" for line in source[-3:])
        + f"+{mark}\n"
    )
    return copy


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--runs", type=int, default=5, help="counted runs of each kind (default: 5)")
    parser.add_argument("--cold", action="store_true", help="one more run, with an empty cache (minutes)")
    known = parser.parse_args()
    rows: list[tuple[str, list[float], list[float]]] = []
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as place:
        folder = Path(place)
        results = folder / "results"
        run_once(SERIES, results)  # fills the cache
        cached = [run_once(SERIES, results) for _ in range(known.runs)]
        rows.append(("everything cached", [t for t, _ in cached], [t - s for t, s in cached]))
        changed = [run_once(changed_series(folder, i), results) for i in range(known.runs)]
        rows.append(("one patch changed", [t for t, _ in changed], [t - s for t, s in changed]))
        if known.cold:
            cold = run_once(SERIES, results, cache=folder / "cache")
            rows.append(("empty cache", [cold[0]], [cold[0] - cold[1]]))
    table = Table("run", "n", "median [s]", "min", "max", "without scenarios [s]", "ratio")
    baseline = statistics.median(rows[0][1])
    for name, whole, rest in rows:
        middle = statistics.median(whole)
        table.add_row(
            name,
            str(len(whole)),
            *(f"{value:.1f}" for value in (middle, min(whole), max(whole), statistics.median(rest))),
            f"{middle / baseline:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
