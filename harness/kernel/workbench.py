"""The lock of the build folders, which one run at a time has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.lib import interruption
from harness.lib.cache import Store
from harness.lib.errors import HarnessError

FOLDER = "workbench"
ORPHAN_SECONDS = 10.0  # for the end of the programs that a killed run had started


@contextmanager
def workbench(store: Store) -> Iterator[None]:
    """Hold the lock of the build folders.

    If the last holder was killed, first wait for the end of its compilers, which would write
    into the folders.  Raises HarnessError if they do not end.
    """
    with store.lock(FOLDER) as killed:
        if killed:
            wait_for_orphans(store.root / FOLDER)
        yield


def wait_for_orphans(folder: Path, seconds: float = ORPHAN_SECONDS) -> None:
    """Wait until no process works in ``folder``.  Raises HarnessError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while found := _working_in(folder.resolve()):
        if time.monotonic() > deadline:
            raise HarnessError(
                f"A run was killed while it built in {folder}, and programs that it had started still run "
                f"there: process {' and '.join(map(str, found))}. End them."
            )
        interruption.check()
        time.sleep(0.05)


def _working_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is in ``folder``, apart from this one."""
    found = []
    for entry in Path("/proc").glob("[1-9]*"):
        try:
            where = (entry / "cwd").readlink()
        except OSError:
            continue  # it has ended, or belongs to another user
        if int(entry.name) != os.getpid() and (where == folder or folder in where.parents):
            found.append(int(entry.name))
    return sorted(found)
