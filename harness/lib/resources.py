"""What a run needs of the host, and what the host has of it: memory, disk, processes, files, ports."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.lib import cgroup
from harness.lib.cache import CACHE_VARIABLE
from harness.lib.errors import HarnessError

MIB = 1 << 20
ROOM = "Make room (`python -m harness clean` empties the cache), or move the cache with " + (
    f"{CACHE_VARIABLE}, the results with --results, temporary files with TMPDIR."
)


@dataclass(frozen=True)
class Need:
    """An amount that a run needs of one ``subject``, such as ``memory``.

    ``available`` is the amount that the host has, None if there is no limit.  ``unit`` is the
    word behind the numbers.  ``parts`` are what the amount is for, ``advice`` what to do if it
    is not there.
    """

    subject: str
    amount: int
    available: int | None
    unit: str
    parts: str
    advice: str

    @property
    def met(self) -> bool:
        """True if the host has the amount."""
        return self.available is None or self.available >= self.amount

    def __str__(self) -> str:
        """Return the need and what there is, as one line without its subject."""
        there = "no limit" if self.available is None else f"{self.available} available"
        return f"{self.amount} {self.unit} needed, {there}: {self.parts}"


@dataclass(frozen=True)
class Room:
    """Bytes that a run will write below ``place``, and ``what`` for."""

    place: Path
    size: int
    what: str


def require(needs: Iterable[Need]) -> None:
    """Raise HarnessError, with a sentence for each, unless the host has all of ``needs``."""
    unmet = [one for one in needs if not one.met]
    if unmet:
        raise HarnessError(
            "This host does not have what the run needs, so nothing was begun.\n"
            + "\n".join(f"{one.subject}: {one}. {one.advice}" for one in unmet)
        )


def disk(rooms: Iterable[Room]) -> list[Need]:
    """Return the need of disk, one for each file system that the ``rooms`` are on."""
    by_device: dict[int, list[Room]] = {}
    for room in rooms:
        by_device.setdefault(_existing(room.place).stat().st_dev, []).append(room)
    needs = []
    for found in by_device.values():
        place = found[0].place
        parts = (f"{room.what} {_mib(room.size)} ({room.place})" for room in found)
        needs.append(
            Need(
                "disk" if len(by_device) == 1 else f"disk of {place}",
                _mib(sum(room.size for room in found)),
                shutil.disk_usage(_existing(place)).free // MIB,
                "MiB",
                ", ".join(parts),
                ROOM,
            )
        )
    return needs


def _existing(path: Path) -> Path:
    """Return ``path``, or the nearest folder above it that exists."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def memory_available(meminfo: str | None = None) -> int:
    """Return the bytes that new processes can have: of the host, within the limits of the control groups.

    ``meminfo`` is the text of /proc/meminfo, whose kB are KiB; by default it is read now.
    """
    text = Path("/proc/meminfo").read_text() if meminfo is None else meminfo
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    left = cgroup.memory_left()
    limit = _limit(resource.RLIMIT_AS)
    return min(one for one in (available, left, limit) if one is not None)


def processes_available() -> int | None:
    """Return how many processes and threads can be started; None without a limit."""
    lefts = [cgroup.processes_left()]
    own = _limit(resource.RLIMIT_NPROC)
    if own is not None and os.geteuid() != 0:  # the limit does not hold for root
        lefts.append(max(own - _own_threads(), 0))
    return min((one for one in lefts if one is not None), default=None)


def open_files_available() -> int | None:
    """Return how many files one process may have open; None without a limit."""
    return _limit(resource.RLIMIT_NOFILE)


def file_size_available() -> int | None:
    """Return the MiB that one file may have; None without a limit."""
    limit = _limit(resource.RLIMIT_FSIZE)
    return None if limit is None else limit // MIB


def loopback_ports(wanted: int) -> int:
    """Return how many of ``wanted`` TCP ports of 127.0.0.1 are free."""
    held: list[socket.socket] = []
    try:
        for _ in range(wanted):
            held.append(socket.create_server(("127.0.0.1", 0)))
    except OSError:
        pass  # the number that was found is the result
    finally:
        for one in held:
            one.close()
    return len(held)


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _own_threads() -> int:
    """Return the number of threads of this user, which RLIMIT_NPROC counts."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid():
                count += sum(1 for _ in (folder / "task").iterdir())
        except OSError:
            continue  # the process has just ended
    return count


def _mib(size: int) -> int:
    """Return ``size`` in MiB, rounded up."""
    return -(-size // MIB)
