"""Measure what a developer waits for, beside the targets: the suite, a changed patch, a violation, mutants.

    python bench/targets.py [--runs N] [--only NAME,...]

Each figure is that of a whole process, from the command line to its end, with all but the measured
part in the cache.  The kinds of runs take turns, so that other work on the host affects all.  The memory
is the largest sum of the proportional set sizes (PSS) of all QEMUs at one moment (proc_pid_smaps_rollup(5)).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.journal.reader import read
from harness.lib import paths
from harness.lib.build_limits import descendants
from harness.verdict.verdict import Verdict

sys.path.insert(0, str(paths.PROJECT))
from bench.verdict import SERIES, changed_series

SECONDS_PER_LOOK = 5.0
#: Faults of the reference series: in revocation, in the fault handler, and in an export.
BROKEN = ("revoke-does-not-zap", "fault-ignores-the-state", "export-ignores-flags")
MUTANTS = 6  # tried for the number in an hour


@dataclass(frozen=True)
class Target:
    """What a figure is to reach: at most ``bound`` of its ``unit``, or at least, if ``least`` is true."""

    what: str
    bound: float
    unit: str
    least: bool = False

    def words(self) -> str:
        """Return the bound as words."""
        return f"at {'least' if self.least else 'most'} {self.bound:g} {self.unit}"


TARGETS = {
    "whole": Target("whole suite, one dialect", 120, "s"),
    "changed": Target("one patch changed, to the whole verdict", 150, "s"),
    "violation": Target("a broken patch, to its first violation", 50, "s"),
    "fast": Target("--fast", 60, "s"),
    "mutants": Target("mutants", 200, "an hour", least=True),
    "memory": Target("memory of all machines, whole suite", 3072, "MiB"),
}


@dataclass
class Memory:
    """The largest memory, in MiB, of the QEMUs below a process ``root`` while it runs."""

    root: int
    most: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look again and again until close()."""
        while not self._over.wait(SECONDS_PER_LOOK):
            self.most = max(self.most, sum(map(_pss, _qemus_below(self.root))))

    def close(self) -> None:
        """End the watch."""
        self._over.set()


def _qemus_below(root: int) -> list[int]:
    """Return the process ids of all QEMUs that descend from a process."""
    found = []
    for number in descendants(root):
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/{number}/comm").read_text().startswith("qemu-system"):
                found.append(number)
    return found


def _pss(number: int) -> float:
    """Return the proportional set size of a process in MiB, 0 if it has ended."""
    try:
        text = Path(f"/proc/{number}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), 0.0)


def run(words: list[str], results: Path, codes: tuple[int, ...] = (0,)) -> tuple[float, float]:
    """Run the program; return its seconds and the largest memory of its QEMUs in MiB."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "harness", *words, "--results", str(results)],
        cwd=paths.PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        memory = Memory(process.pid)
        thread = threading.Thread(target=memory.watch)
        thread.start()
        said = process.communicate()[0].decode(errors="replace")
        memory.close()
        thread.join()
    if process.returncode not in codes:
        sys.exit(f"`{' '.join(words)}` ended with {process.returncode}:\n{said[-4000:]}")
    return time.monotonic() - started, memory.most


class Figures:
    """The measured figures by the names of TARGETS; ``folder`` is for what the runs leave."""

    def __init__(self, folder: Path) -> None:
        self.values: dict[str, list[float]] = {}
        self._folder = folder
        self._results = folder / "results"
        self._number = 0

    def measure(self, name: str) -> None:
        """Measure a figure once more."""
        ways: dict[str, Callable[[], float]] = {
            "whole": self._whole,
            "changed": self._changed,
            "violation": self._violation,
            "fast": lambda: run(["run", "-q", "--fast", "--series", str(SERIES)], self._results)[0],
            "mutants": self._mutants,
        }
        self.values.setdefault(name, []).append(ways[name]())

    def _whole(self) -> float:
        seconds, memory = run(["run", "-q", "--series", str(SERIES)], self._results)
        self.values.setdefault("memory", []).append(memory)
        return seconds

    def _changed(self) -> float:
        return run(["run", "-q", "--series", str(self._series())], self._results)[0]

    def _violation(self) -> float:
        series = self._series()
        name = BROKEN[self._number % len(BROKEN)]
        fault = paths.PATCHES / "mutants" / SERIES.name / f"{name}.patch"
        number = len(list(series.glob("*.patch"))) + 1
        (series / f"{number:04}-{name}.patch").write_text(fault.read_text())
        seconds = run(["run", "-q", "--until-violated", "--series", str(series)], self._results, (1,))[0]
        record = read(self._results / "latest")
        if not any(one.verdict is Verdict.VIOLATES for one in record.scenarios):
            sys.exit(f"No scenario was violated by {name}.")
        return seconds

    def _mutants(self) -> float:
        """Return how many mutants an hour are tried, their kernels built for the first time or not."""
        shards = len(list((paths.PATCHES / "mutants" / SERIES.name).glob("*.patch"))) // MUTANTS
        self._number += 1
        words = ["mutants", "--series", SERIES.name, "--shard", f"{self._number}/{shards}"]
        place = self._folder / f"mutants-{self._number}"
        seconds = run(words, place)[0]
        return 3600 * len(list((place / "runs").glob("*/*"))) / seconds

    def _series(self) -> Path:
        self._number += 1
        return changed_series(self._folder, self._number)


def table(values: dict[str, list[float]]) -> Table:
    """Make a table of the figures beside their targets."""
    shown = Table("figure", "n", "median", "min", "max", "target")
    for name, target in TARGETS.items():
        if found := values.get(name):
            figures = (f"{value:.0f}" for value in (statistics.median(found), min(found), max(found)))
            shown.add_row(target.what, str(len(found)), *figures, target.words())
    return shown


def main() -> int:
    """Measure and print one table."""
    names = [name for name in TARGETS if name != "memory"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--runs", type=int, default=3, help="counted runs of each kind (default: 3)")
    parser.add_argument("--only", metavar="NAME,...", default=",".join(names), help=f"of: {', '.join(names)}")
    known = parser.parse_args()
    chosen = known.only.split(",")
    if unknown := set(chosen).difference(names):
        parser.error(f"--only does not know {', '.join(sorted(unknown))}")
    print(f"load of the host at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as place:
        figures = Figures(Path(place))
        for _ in range(known.runs):
            for name in chosen:
                figures.measure(name)
                print(f"{name}: {figures.values[name][-1]:.0f}", flush=True)
    Console().print(table(figures.values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
