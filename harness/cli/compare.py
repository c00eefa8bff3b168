"""The command ``compare``: what one run of the scenarios says that another does not."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.cli.report import write_report
from harness.lib.errors import ExitCode
from harness.report.comparison_of_runs import as_html, as_json, as_text
from harness.report.comparison_of_runs.comparison import RunComparison, compare_runs

FORMATS: Mapping[str, Callable[[RunComparison], str]] = {
    "text": as_text.render,
    "html": as_html.render,
    "json": as_json.render,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.description = (
        f"{parser.description}\n\nExit code: 0 no regression, 1 a regression, 2 if the runs cannot be\n"
        "compared, or a regression cannot be excluded."
    )
    parser.add_argument("before", metavar="A", type=Path, help="the results folder of the older run")
    parser.add_argument("after", metavar="B", type=Path, help="the results folder of the newer run")
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="the format of the answer (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write to FILE, not to the screen")
    parser.add_argument(
        "--force",
        action="store_true",
        help="compare runs of different programs, and runs that were cut off; the answer says so",
    )


def compare(args: argparse.Namespace) -> ExitCode:
    """Compare two stored runs; the exit code is RunComparison.exit_code.

    Raises UsageError for runs that cannot be compared, and HarnessError for a folder that holds no run.
    """
    comparison = compare_runs(args.before, args.after, force=args.force)
    write_report(FORMATS[args.format](comparison), args.output)
    return comparison.exit_code
