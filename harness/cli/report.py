"""The command ``report``: make one report of a stored run, in the format of its reader."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.lib.errors import ExitCode, UsageError
from harness.lib.files import write_atomically
from harness.lib.host import host_errors
from harness.report import junit


@dataclass(frozen=True)
class Format:
    """A format: ``render`` makes the report of a results folder, ``text`` names its reader."""

    render: Callable[[Path, argparse.Namespace], str | bytes]
    text: str


FORMATS: Mapping[str, Format] = {
    "junit": Format(lambda folder, _args: junit.render(folder), "XML for a CI system"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.usage = "%(prog)s [-h] FORMAT RESULTS [-o FILE]"
    names = "; ".join(f"{name}: {one.text}" for name, one in FORMATS.items())
    parser.add_argument(
        "words", metavar="FORMAT RESULTS", nargs="+", help=f"the format, and the folder of the run ({names})"
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write to FILE, not to the screen")


def report(args: argparse.Namespace) -> ExitCode:
    """Make the report of a stored run; the exit code says only whether it was made.

    Raises UsageError for an unknown format, and HarnessError for a folder that holds no run.
    """
    name, *folders = args.words
    if name not in FORMATS:
        raise UsageError(f"There is no format {name!r}; the formats are {', '.join(FORMATS)}.")
    if len(folders) != 1:
        raise UsageError(f"A report is of one run: give one results folder after {name}, not {len(folders)}.")
    _write(FORMATS[name].render(Path(folders[0]), args), args.output)
    return ExitCode.OK


def _write(content: str | bytes, path: Path | None) -> None:
    """Write a report to a file, or else to standard output; it is UTF-8 whatever the locale is."""
    data = content.encode() if isinstance(content, str) else content
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with host_errors(path.parent):
        write_atomically(path, data)
