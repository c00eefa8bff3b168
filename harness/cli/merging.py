"""The option ``--merge`` of the command ``report``: put the shards of a run together."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.journal.merge import merge
from harness.journal.reader import read
from harness.lib.errors import ExitCode, UsageError
from harness.lib.host import host_errors
from harness.report import html, junit, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the command."""
    parser.add_argument(
        "--merge",
        metavar="RESULTS",
        type=Path,
        nargs="+",
        help="put the runs of all parts of a selection (run --shard) together into a new results folder, "
        "which -o names (default: one below results/); the exit code is that of the whole run",
    )
    parser.add_argument(
        "--incomplete",
        action="store_true",
        help="with --merge: parts may be missing or cut off; their other scenarios are not-reached",
    )


def merge_shards(args: argparse.Namespace) -> ExitCode:
    """Put the shards together, write the reports, and return the exit code of the whole run.

    Raises UsageError or HarnessError, see merge().
    """
    if args.format is not None:
        raise UsageError(
            f"--merge makes a results folder: run `report {args.format}` with that folder afterwards."
        )
    output = args.output
    with host_errors(output if output is not None and output.is_dir() else Path()):
        folder = merge(args.merge, output, incomplete=args.incomplete)
        junit.write(folder)
        html.write(folder)
    terminal.show(folder, sys.stdout)
    return read(folder).exit_code
