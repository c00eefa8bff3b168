"""A command line with commands, each with a help text and an example."""

from __future__ import annotations

import argparse
from collections.abc import Callable

PROGRAM = "python -m harness"
Command = Callable[[argparse.Namespace], int]


class Program:
    """The parser of the program, to which commands are added."""

    def __init__(self, epilog: str = "") -> None:
        self.parser = argparse.ArgumentParser(
            prog=PROGRAM,
            description="Test whether a kernel does what a patch series promises.",
            epilog=epilog,
            allow_abbrev=False,
        )
        self.commands = self.parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self, name: str, command: Command, text: str, example: str, *, passes_on: bool = False
    ) -> argparse.ArgumentParser:
        """Add a command, and return its parser; ``passes_on`` allows options that it does not know."""
        sub: argparse.ArgumentParser = self.commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:  {PROGRAM} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=command, passes_on=passes_on)
        return sub
