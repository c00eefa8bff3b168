"""Take a resource of the host from a running program: disk, memory, time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from small_run import until

from harness.lib import cgroup

SMALL_GROUP = 1 << 16  # bytes


def mounted(place: Path, undo: contextlib.ExitStack, size: str) -> bool:
    """Mount a disk of this size at the folder ``place`` until ``undo`` is closed; return whether it works."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        return False
    undo.callback(subprocess.run, ["umount", str(place)], check=True)
    return True


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with path.open("ab", buffering=0) as stream:
        for size in (1 << 20, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))


def memory_group(name: str, undo: contextlib.ExitStack) -> Path | None:
    """Make a control group with hardly any memory until ``undo`` is closed; None if that does not work.

    A process that is moved into it is killed by the host's kernel as soon as it needs a page.
    """
    for parent in cgroup.folders("memory")[:1]:
        group = parent / f"patchproof-test-{os.getpid()}-{name}"
        with contextlib.suppress(OSError):
            group.mkdir()
            undo.callback(group.rmdir)
            undo.callback(until, partial(_is_empty, group), "the processes of the group to end")
            limit = next(one for one in ("memory.limit_in_bytes", "memory.max", "") if (group / one).exists())
            if limit:
                (group / limit).write_text(str(SMALL_GROUP))
                return group
    return None


def _is_empty(group: Path) -> bool:
    return not (group / "cgroup.procs").read_text()


def pause(processes: Iterable[int], seconds: float) -> None:
    """Stop these processes for this time."""
    stopped = list(processes)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        if number == signal.SIGSTOP:
            time.sleep(seconds)


def make_clock(library: Path) -> None:
    """Compile the library that sets the clock of a program (data/clock.c)."""
    source = Path(__file__).parent / "data" / "clock.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", library, source], check=True)
