"""The commands about stored runs, apart from the others: they import little, so they start at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.cli import compare, report
from harness.cli.program import Program

COMMANDS = ("report", "compare")


def add_commands(program: Program) -> None:
    """Add the commands."""
    reporting = program.add(
        "report",
        report.report,
        "make one report of a stored run, in the format of its reader",
        "report junit results/latest -o junit.xml",
    )
    report.add_arguments(reporting)
    comparing = program.add(
        "compare",
        compare.compare,
        "tell what differs between two stored runs, and whether the second breaks what the first does",
        "compare results/v3-20261101T101500Z results/latest",
    )
    compare.add_arguments(comparing)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of one of these commands; a wrong one ends the program with a usage message."""
    program = Program()
    add_commands(program)
    return program.parser.parse_args(arguments)
