"""Bound what a contained program takes of the host while it runs: processes, disk, and time without a word.

The kernel's own limits (harness/lib/sandbox.py) bound each file, and not root's processes.  So the
program that waits for the build looks now and then, and ends it when it takes more than any build needs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.lib.errors import BuildError, HarnessError
from harness.lib.process_group_limit import Limited
from harness.lib.sandbox import PROCESSES
from harness.lib.untrusted_files import usage

#: The longest time between two looks, in seconds.
LOOK_SECONDS = 0.2
#: Bytes that the folders of a build may hold; a kernel with KASAN and debug information takes 1.5 GB.
FOLDER_BYTES = 8 << 30
#: Files that they may hold; a kernel build leaves 20 000.
FOLDER_FILES = 400_000
#: Bytes of output; a build of this kernel with all warnings prints 3 MB.
OUTPUT_BYTES = 64 << 20
#: Seconds without a line of output; the longest step, a link with all debug information, takes a minute.
SILENT_SECONDS = 1800.0
# The folders are measured when the disk has so much less room than before (bytes, files).
_STEP_BYTES = 1 << 30
_STEP_FILES = 50_000


class TooMuchError(BuildError):
    """A contained program took more than its limit and was ended."""

    def __init__(self, what: str) -> None:
        super().__init__(f"A program that the tree under test started was ended: {what}.")


class SilentError(HarnessError):
    """A contained program printed nothing for so long that it is taken for hung."""


class Watch:
    """The limits of one contained program that writes to ``folders`` and was started as ``program``."""

    interval = LOOK_SECONDS

    def __init__(self, folders: Sequence[Path], program: Limited) -> None:
        self._folders = folders
        self._program = program
        self._threads = _threads()
        self._room = self._measured()
        self._spoke = self._looked = time.monotonic()
        self._bytes = 0

    def heard(self, count: int) -> None:
        """Count bytes of output.  Raises TooMuchError."""
        self._spoke = time.monotonic()
        self._bytes += count
        if self._bytes > OUTPUT_BYTES:
            raise TooMuchError(f"it printed more than {OUTPUT_BYTES >> 20} MiB")

    def look(self, pid: int) -> None:
        """Look at the program ``pid``, once in LOOK_SECONDS.  Raises TooMuchError, and SilentError."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        # A program whose forks fail may end and leave few processes, so their number alone shows nothing.
        if self._program.refused():
            raise TooMuchError(f"it wanted more than {self._program.processes} processes at once")
        # The host's number of threads is one short read; the processes are counted only if it has grown.
        if _threads() - self._threads > PROCESSES // 2:
            count = len(list(descendants(pid)))
            most = PROCESSES * 3 // 4  # with all of them it would wait for ever for another one
            if count > most:
                raise TooMuchError(f"it had {count} processes at once, and {most} are allowed")
        self._look_at_folders()
        if now - self._spoke > SILENT_SECONDS:
            raise SilentError(
                f"The build printed nothing for {SILENT_SECONDS / 60:.0f} minutes and was ended. Whether the "
                "host was too slow or the build hangs is not known."
            )

    def _look_at_folders(self) -> None:
        room = self._measured()
        if all(
            old_bytes - new_bytes < _STEP_BYTES and old_files - new_files < _STEP_FILES
            for (old_bytes, old_files), (new_bytes, new_files) in zip(self._room, room, strict=True)
        ):
            return
        self._room = room
        for folder in self._folders:
            if (used := usage(folder, "--block-size=1")) > FOLDER_BYTES:
                raise TooMuchError(f"it wrote {used >> 20} MiB, and {FOLDER_BYTES >> 20} MiB are allowed")
            if (files := usage(folder, "--inodes")) > FOLDER_FILES:
                raise TooMuchError(f"it made {files} files, and {FOLDER_FILES} are allowed")

    def _measured(self) -> list[tuple[int, int]]:
        """Return the free bytes and files at each folder."""
        found = [os.statvfs(folder) for folder in self._folders]
        return [(one.f_bavail * one.f_frsize, one.f_favail) for one in found]


def _threads() -> int:
    """Return the number of threads on this host (proc(5), /proc/loadavg, the fourth field)."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that descend from ``pid``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    pending = [pid]
    while pending:
        found = children.get(pending.pop(), [])
        yield from found
        pending += found
