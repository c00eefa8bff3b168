"""Limit the number of processes of root's programs by a control group, as no other limit holds for root.

The kernel exempts root from RLIMIT_NPROC (kernel/fork.c, copy_process()); the controller ``pids`` holds for
everybody (kernel/cgroup/pids.c).  Where root may not make a group, as in most containers, there is none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.lib import cgroup

_PREFIX = "patchproof-"
_WAIT_SECONDS = 5.0  # until the processes of a group that were killed are gone
_numbers = itertools.count()


@dataclass(frozen=True)
class Limited:
    """A command that runs in a control ``group`` of at most ``processes``; in none if that is None."""

    argv: list[str]
    processes: int
    group: Path | None

    def refused(self) -> bool:
        """Return whether the kernel has refused a process because of the limit; false without a group.

        The file counts such refusals (kernel/cgroup/pids.c, pids_events_show()).
        """
        if self.group is None:
            return False
        try:
            words = (self.group / "pids.events").read_text().split()
        except OSError:  # the group was removed
            return False
        return int(words[words.index("max") + 1]) > 0


@contextlib.contextmanager
def limited(argv: Sequence[str], processes: int) -> Iterator[Limited]:
    """Yield ``argv`` such that it runs in a new group of at most ``processes``; unchanged where that fails.

    The group is removed afterwards.
    """
    group = _new_group(processes) if os.geteuid() == 0 else None
    if group is None:
        yield Limited(list(argv), processes, None)
        return
    words = ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', str(group), *argv]
    try:
        yield Limited(words, processes, group)
    finally:
        _remove(group)


def _new_group(processes: int) -> Path | None:
    """Return a new group below that of this process, or below one above it; None if neither is possible."""
    for parent in cgroup.folders("pids"):
        _sweep(parent)
        group = parent / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        try:
            group.mkdir()
            (group / "pids.max").write_text(f"{processes}\n")
            return group
        except OSError:  # not allowed here, or this group passes the controller to no other
            _remove(group)
    return None


def _sweep(parent: Path) -> None:
    """Remove the groups that killed runs left."""
    for group in parent.glob(f"{_PREFIX}*-*"):
        pid = group.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):  # its processes are still ending
                group.rmdir()


def _remove(group: Path) -> None:
    """Remove a group, once the processes in it are gone."""
    limit = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > limit:
                return  # the next run sweeps it away
            time.sleep(0.02)
