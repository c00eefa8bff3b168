"""The program's entry: parse the command line, run a command, report an error as a sentence."""

from __future__ import annotations

import argparse
import logging
import select
import sys
from collections.abc import Sequence
from typing import TextIO

from harness.cli import stored
from harness.lib import interruption, locks, sandbox
from harness.lib.errors import PatchproofError
from harness.lib.host import host_errors
from harness.lib.text import visible, without_credentials
from harness.verdict.interruption import exit_code, how


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Every PatchproofError is printed as a sentence, without a traceback.
    """
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it logs what it raises as well
    try:
        with host_errors():
            arguments = sys.argv[1:] if argv is None else argv
            args = _parse(arguments)
            locks.introduce(f"the command {arguments[0]}")
            sandbox.choose(getattr(args, "sandbox", sandbox.AUTO))
            interruption.check()
            return int(args.command(args))
    except PatchproofError as error:
        if not (isinstance(error.__cause__, BrokenPipeError) and _has_no_reader(sys.stdout)):
            print(f"patchproof: {visible(without_credentials(str(error)))}", file=sys.stderr)
        return int(exit_code(interruption.taken()) if interruption.taken() else error.exit_code)
    except KeyboardInterrupt:
        print(f"patchproof: it {how(interruption.taken())}", file=sys.stderr)
        return int(exit_code(interruption.taken()))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line, and import only what its command needs."""
    if arguments and arguments[0] in stored.COMMANDS:
        return stored.parse(arguments)
    with interruption.anywhere():  # it imports the whole program, which takes seconds on a busy host
        from harness.cli.parser import parse

    return parse(arguments)


def _has_no_reader(stream: TextIO) -> bool:
    """Return whether ``stream`` is a pipe without a reader, as after ``| head``."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
