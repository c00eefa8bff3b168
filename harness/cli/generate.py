"""The command ``mutants --generate``: mutants of any series, made from the lines that it adds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cli import packages
from harness.journal.facts import read_facts
from harness.lib import time_limit
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, UsageError
from harness.lib.progress import Progress
from harness.lib.shard import Shard
from harness.mutants.generate.coverage import LINES, Coverage, read_coverage
from harness.mutants.trials import locked
from harness.plugin import durations, scenario_list
from harness.run import request as requests
from harness.run.request import DEFAULT_SERIES, Request
from harness.series import series
from harness.series.series import Series
from harness.vm import qemu_program

COUNT = 200
SEED = "1"
#: Options of a run after which its coverage is not that of all scenarios.
_NARROWING = ("--requirement", "-k", "--variants", "--fast", "--shard", "--resume")
_OPTIONS = ("coverage", "count", "seed", "budget", "base")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of --generate."""
    group = parser.add_argument_group("generated mutants")
    group.add_argument(
        "--generate",
        action="store_true",
        help="make mutants from the C lines that --series adds, instead of those in patches/mutants",
    )
    group.add_argument(
        "--coverage",
        metavar="RESULTS",
        type=Path,
        help="the results folder of a run of this series with --coverage: only lines that ran are changed, "
        "and only the scenarios that reach a line are tried on it (default: the latest such run in results/)",
    )
    group.add_argument(
        "--count",
        metavar="N",
        type=int,
        help=f"at most so many mutants that change an object (default: {COUNT})",
    )
    group.add_argument("--seed", metavar="SEED", help=f"which mutants, and in which order (default: {SEED})")
    group.add_argument(
        "--budget",
        metavar="TIME",
        type=_time,
        help="begin no trial after so long, such as 90s, 45m or 2h; what was not tried is said",
    )
    group.add_argument(
        "--base", metavar="RELEASE", help="the kernel release to apply the series to, as for run"
    )


def refuse_options(args: argparse.Namespace) -> None:
    """Raise UsageError for an option of --generate without it."""
    for name in _OPTIONS:
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is about generated mutants: give --generate as well.")


def mutants(args: argparse.Namespace) -> ExitCode:
    """Generate mutants of a series, and try them."""
    if args.expression is not None or args.list or args.quick:
        raise UsageError("-k, --list and --quick are about the mutants in patches/mutants: leave them out.")
    if args.count is not None and args.count < 1:
        raise UsageError(f"--count is the number of mutants, at least 1; it is {args.count}.")
    # The libraries that read C, which no other command needs.
    from harness.mutants.generate import report
    from harness.mutants.generate.session import Session, Wanted

    time_limit.start(args.time_limit or "")
    name = args.series or DEFAULT_SERIES
    run_input = requests.load(
        Request(series=name, base=args.base, accel=args.accel, qemu=args.qemu, sandbox=args.sandbox)
    )
    _require_c(run_input.series)
    coverage = _coverage(args.coverage, run_input.series)
    folder: Path = args.results or Path("results") / f"generated-{run_input.series.name}"
    store = Store()
    packages.ensure(store, Progress(store))
    qemu_program.probe(args.qemu).require()
    shard = Shard.parse(args.shard) if args.shard else None
    wanted = Wanted(args.count or COUNT, args.seed or SEED, shard, coverage)
    scenarios = [] if coverage else _all_scenarios(run_input.series)
    with locked(folder):
        session = Session(store, folder, run_input, wanted, scenarios, durations.load(), _say)
        try:
            session.run(args.budget)
        finally:
            tried = session.tried()
            if tried:
                report.write(tried, folder)
                report.show(tried, folder, sys.stdout)
                for note in (_selected(coverage), report.keep_with_run(tried, coverage, shard)):
                    if note:
                        print(note)
    return report.exit_code(tried)


def _require_c(tested: Series) -> None:
    """Raise UsageError for a series that changes no C file, before anything is built."""
    if not any(path.endswith(".c") for files in series.check(tested) for one in files for path in one.paths):
        raise UsageError(f"The series {tested.name} changes no C file, so no mutants can be made of it.")


def _all_scenarios(tested: Series) -> list[str]:
    """Return the scenarios of the series' dialect, of all dialects if only its headers tell."""
    found = scenario_list.scenarios()
    known = any(tested.dialect in one.dialects for one in found)
    return [one.id for one in found if not known or tested.dialect in one.dialects]


def _coverage(results: Path | None, tested: Series) -> Coverage | None:
    """Return the coverage of a run of this series: the given one, or the latest in results/."""
    if results is not None:
        found = read_coverage(results)
        digest = read_facts(results).get("digest") if results.is_dir() else None
        if digest is not None and digest != tested.digest:
            raise UsageError(f"The run in {results} was of other patches than {tested.name} has now.")
        return found
    runs = [path.parent.parent for path in Path("results").glob(f"*/{LINES}")]
    runs = [path for path in runs if read_facts(path).get("digest") == tested.digest]
    newest = max(runs, key=lambda path: (path / LINES).stat().st_mtime, default=None)
    return read_coverage(newest) if newest is not None else None


def _selected(coverage: Coverage | None) -> str:
    """Return a sentence about a coverage that is not of all scenarios; empty if it is, or nobody knows."""
    folder = coverage.run if coverage is not None else None
    if folder is None:
        return ""
    given = read_facts(folder).get("selection")
    listed = [str(word) for word in given] if isinstance(given, list) else []
    words = [word for word in listed if word.startswith(_NARROWING) or "::" in word]
    if not words:
        return ""
    return (
        f"The coverage is of a selection of scenarios ({', '.join(words)} in {folder}): a survivor was "
        "not seen by these, and others were not asked."
    )


def _time(text: str) -> float:
    try:
        return float(time_limit.seconds_of(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _say(text: str) -> None:
    print(text, flush=True)
