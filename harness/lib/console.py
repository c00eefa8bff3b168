"""The console of the program's tables and progress, on which a reader that has gone ends nothing."""

from __future__ import annotations

import os

import rich.console


class Console(rich.console.Console):
    """A console of rich whose output may be cut short (``| head``).

    Rich itself ends the program with the exit code 1, which blames the series.
    """

    def on_broken_pipe(self) -> None:
        """Drop this output and any later one."""
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.file.fileno())
        os.close(null)
