"""Show how the times of a run grow, on a real kernel: measured points, and a line fitted to each kind.

    python bench/growth.py [--only TABLE[,TABLE]] [--runs N]

The tables are
  scenarios  a whole run of so many scenarios, taken at equal distances from all, on each number of machines
  ranges     a DMABUF of so many ranges, each another page of the BAR: export, map, load every page, revoke
  size       the same of a DMABUF of so many pages in one range: parts of a BAR of 1 GiB, also mapped so
             that huge pages fit, and whole BARs
  patches    the first so many patches: read, checked, applied by git am, seen by checkpatch; and what
             a kernel costs of which one more patch has changed one file

A figure is the median of N measurements; the least and the most are in brackets.  One that took
longer than half a minute is not repeated.  "residual" is the root mean square of the distances of the
points from the line; "last exponent" is that of the power by which the last two points grow.

The series is the default one.  Its kernel is built first if the cache lacks it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.journal.reader import read
from harness.journal.writer import EVENTS
from harness.kernel import kconfig, static_checks
from harness.kernel.apply import AmSession, AppliedPrefix, apply_series
from harness.kernel.builddir import BuildDir
from harness.kernel.fetch import fetch_base
from harness.kernel.workbench import workbench
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError, PatchproofError
from harness.lib.paths import PATCHES, PROJECT
from harness.lib.progress import Progress
from harness.run.request import DEFAULT_SERIES, Request, load
from harness.series import identity, mailinfo, series
from harness.verdict.verdict import Verdict

sys.path.insert(0, str(PROJECT))
from bench.curves import Kinds, Laps, digits, measure, show
from bench.exchanges import RANGES, growth_of_ranges, growth_of_size, running
from bench.verdict import changed_series

TABLES = ("scenarios", "ranges", "size", "patches")
SCENARIOS = (10, 40, 100, 200)
MACHINES = (1, 2)
PATCH_COUNTS = (1, 2, 4, 7, 10, 14)
SHOWN = 4000  # characters of the output of a run that failed


def spread(ids: Sequence[str], count: int) -> list[str]:
    """Return ``count`` of the ids at equal distances, all if there are fewer."""
    number = min(count, len(ids))
    return [ids[index * len(ids) // number] for index in range(number)]


def harness(*words: str, allowed: Sequence[int] = (0,)) -> tuple[str, float]:
    """Run `python -m harness` with these words; return its output and its seconds.

    Raises HarnessError for an exit code that is not ``allowed``.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    seconds = time.perf_counter() - started
    output = done.stdout.decode(errors="replace")
    if done.returncode not in allowed:
        command = f"python -m harness {' '.join(words[:8])}"
        raise HarnessError(f"`{command} ...` ended with exit code {done.returncode}.", tail=output[-SHOWN:])
    return output, seconds


def growth_of_scenarios(console: Console, counts: Sequence[int], runs: int) -> None:
    """Print how the time of a run grows with its scenarios.  Raises HarnessError if a run fails."""
    listed, _ = harness("run", "--collect-only", "-q")
    ids = [line for line in listed.splitlines() if "::" in line]
    kinds: Kinds = {}
    machines: dict[str, dict[int, str]] = {}
    try:
        for chosen in (spread(ids, count) for count in counts):
            for number in MACHINES:

                def once(number: int = number, chosen: Sequence[str] = chosen) -> dict[str, float]:
                    seconds, started = timed(number, chosen)
                    machines.setdefault(f"booted + loaded ({number})", {})[len(chosen)] = started
                    return {f"--machines {number}": seconds}

                measure(kinds, len(chosen), runs, once)
    finally:  # what was measured before a run failed took minutes
        show(console, f"a run of some of the {len(ids)} scenarios", "scenarios", kinds, machines)


def timed(machines: int, chosen: Sequence[str]) -> tuple[float, str]:
    """Run the chosen scenarios; return the seconds of the run, and its machines as starts() does.

    A fault of the host costs a minute or more, and says nothing about growth: QEMU may lose a processor.
    Such a run is made once more.  Raises HarnessError if that has one, too, or a run fails.
    """
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as folder:
            options = ("--machines", str(machines), "--no-base", "--selftests", "none", "--results", folder)
            _, seconds = harness("run", "-q", *options, *chosen, allowed=(0, ExitCode.HARNESS))
            results = Path(folder) / "latest"
            faults = [one for one in read(results).results if one.verdict is Verdict.HARNESS_ERROR]
            if not faults:
                return seconds, starts(results / EVENTS)
        print(f"A run of {seconds:.0f} s does not count: {faults[0].reason}", file=sys.stderr)
    raise HarnessError(f"Two runs of {len(chosen)} scenarios had a fault of the host.")


def starts(journal: Path) -> str:
    """Return how many machines of a run were booted, and how many loaded from a snapshot: ``3 + 12``."""
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    up = [event for event in events if event["event"] == "machine-up"]
    loaded = sum(bool(event.get("snapshot")) for event in up)
    return f"{len(up) - loaded} + {loaded}"


def growth_of_patches(console: Console, store: Store, progress: Progress, runs: int) -> None:
    """Print how the time before a build grows with the patches.  Raises PatchproofError."""
    request = Request(series=DEFAULT_SERIES)
    tested = load(request).series
    log = store.path("logs", "bench", "growth.log")
    source = fetch_base(store, progress, tested.base)
    tree = apply_series(store, progress, source, tested, log)
    wanted = kconfig.fragment_text(kconfig.requested(request.fragments, source.version))
    mails = sorted((PATCHES / DEFAULT_SERIES).glob("*.patch"))
    kinds: Kinds = {}
    builddir = BuildDir(store, source.version, wanted)
    with workbench(store):
        builddir.check_out(tree, progress)
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as folder:
        for count in (number for number in PATCH_COUNTS if number <= len(mails)):
            prefix = Path(folder) / f"first-{count}"
            prefix.mkdir()
            for mail in mails[:count]:
                shutil.copy(mail, prefix)

            def once(prefix: Path = prefix) -> dict[str, float]:
                mailinfo.forget()
                identity.patch_ids.cache_clear()
                laps = Laps()
                loaded = series.load(str(prefix), PATCHES)
                _ = loaded.identity
                laps.end("read")
                touched = series.check(loaded)
                laps.end("check")
                done = AppliedPrefix(source.commit, 0)
                with (
                    store.lock(f"apply-{loaded.digest[:32]}"),
                    AmSession(store, source, loaded, touched, log, done) as session,
                ):
                    session.apply()
                laps.end("git am")
                with workbench(store):
                    static_checks.checkpatch(loaded.patches, builddir.source)
                laps.end("checkpatch")
                return laps.times

            measure(kinds, count, runs, once)
    show(console, f"the first patches of {DEFAULT_SERIES}", "patches", kinds, milliseconds=True)


def rebuilds(console: Console, runs: int) -> None:
    """Print what a kernel costs of which one more patch has changed one file, and one in the cache."""
    changed: list[float] = []
    cached: list[float] = []
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as folder:
        for number in range(runs):
            copy = str(changed_series(Path(folder), number))
            for kept in (changed, cached):
                kept.append(harness("build", "--series", copy)[1])
    for words, kept in (("after a change of one file", changed), ("in the cache", cached)):
        figures = f"{digits(statistics.median(kept))} s ({digits(min(kept))}..{digits(max(kept))})"
        console.print(f"`harness build`, {words}: {figures}", highlight=False)


def tables(text: str) -> set[str]:
    """Return the names of tables in a list.  Raises ArgumentTypeError for an unknown one."""
    names = set(text.split(","))
    if unknown := names - set(TABLES):
        raise argparse.ArgumentTypeError(f"there is no table {', '.join(sorted(unknown))}")
    return names


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in a list, each 1 or more.  Raises ValueError."""
    found = tuple(map(int, text.split(",")))
    if min(found) < 1:
        raise ValueError(text)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; only an error makes the exit status other than 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", metavar="TABLE[,TABLE]", type=tables, default=set(TABLES), help="only these tables"
    )
    parser.add_argument("--runs", metavar="N", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument(
        "--scenarios",
        metavar="N[,N]",
        type=numbers,
        default=SCENARIOS,
        help=f"numbers of scenarios (default: {','.join(map(str, SCENARIOS))})",
    )
    parser.add_argument(
        "--ranges",
        metavar="N[,N]",
        type=numbers,
        default=RANGES,
        help=f"numbers of ranges, at most one a page of the BAR (default: {','.join(map(str, RANGES))})",
    )
    known = parser.parse_args(arguments)
    store = Store()
    progress = Progress(store)
    console = Console()
    runs = max(known.runs, 1)
    try:
        if {"ranges", "size"} & known.only:
            with running(store, progress) as (guest, actor):
                if "ranges" in known.only:
                    growth_of_ranges(console, guest, actor, known.ranges, runs)
                if "size" in known.only:
                    growth_of_size(console, guest, actor, runs)
        if "patches" in known.only:
            growth_of_patches(console, store, progress, runs)
            rebuilds(console, runs)
        if "scenarios" in known.only:
            growth_of_scenarios(console, known.scenarios, runs)
    except PatchproofError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    load_average = " ".join(f"{one:.1f}" for one in os.getloadavg())
    console.print(f"{os.cpu_count()} processors, load {load_average}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
