"""Wait for other processes, and find those that are still running."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def running(words: str) -> Iterator[Path]:
    """Yield the folders in /proc of the processes that have ``words`` in their command line."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if words in command and is_alive(process):
                yield process


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until ``condition`` holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


def is_alive(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
