"""Reports, made from the results folder alone: they can be made again without a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from harness.journal.reader import read
from harness.lib.errors import ExitCode
from harness.report import junit, table


def report(directory: Path, stream: TextIO) -> ExitCode:
    """Write ``junit.xml``, print the table to ``stream`` and return the run's exit code.

    Raises HarnessError if ``directory`` is not the results folder of a run.
    """
    junit.write(directory)
    table.show(directory, stream)
    return read(directory).exit_code
