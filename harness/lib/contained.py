"""Run a program of a tree under test to its end: in the sandbox of this process, and within limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.lib import command, sandbox
from harness.lib.build_limits import Watch
from harness.lib.process_group_limit import limited


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    folder: Path | None = None,
    log: Path | None = None,
    stdin: bytes | None = None,
    line: Callable[[str], None] | None = None,
) -> str:
    """Run ``argv`` and return its output; the arguments are those of sandbox.contained() and command.run().

    Raises the errors of command.run(), TooMuchError for a program that takes more of the host than a
    build needs, and SilentError for one that hangs.
    """
    words = sandbox.contained(argv, environment=environment, read=read, write=write, folder=folder)
    with limited(words, sandbox.PROCESSES) as started:
        watch = Watch(write, started)
        return command.run(started.argv, log=log, stdin=stdin, line=line, watch=watch, shown=argv)
