"""Locks between the runs of a host: their order, their holders, and the words for a run that waits.

A lock is a flock() on a file, so the kernel releases it when its holder dies, and nothing
is left to clean up.  The file has a record of the holder.  A record in a file that is not
locked is that of a holder that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.lib import interruption
from harness.lib.errors import HarnessError
from harness.lib.text import printable

#: The first word of each lock's name, in the order in which a process takes them, and what is
#: done under it.  A process that holds a lock takes only locks of later rows.
ORDER = {
    "threads": "the fetch of the same thread of mails",
    "packages": "the installation of host packages",
    "fetch": "the fetch of a base",
    "base": "the import of the same base",
    "tree": "the reading of the same checkout",
    "apply": "the same series to be applied",
    "selftests": "the build of the same selftests",
    "selftest": "the build of the same selftest",
    "check": "the same check for warnings",
    "kernel": "the build of the same kernel",
    "workbench": "the build folders",
    "module": "the build of the same test importer",
    "config": "the configuration of the same base",
    "source": "the files of the same source folder",
    "image": "the build of the same guest image",
    "init": "the build of the guest's init",
    "probe": "the build of the same probes",
    "cache": "the end of `clean`",
}
POLL_SECONDS = 0.1
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
_DEFECT = "This is a defect of this program: report it."
_held = threading.local()
_run = ""


class LockOrderError(HarnessError):
    """A lock was to be taken out of order, by which two runs could wait for each other for ever."""


def introduce(run: str) -> None:
    """Name what this process does, as a noun ("the run of v4"), for the runs that will wait for it."""
    global _run
    _run = run


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock; ``since`` is in seconds of the epoch."""

    process: int
    host: str
    run: str
    since: float

    def __str__(self) -> str:
        where = "" if self.host == os.uname().nodename else f" on {printable(self.host, 40)}"
        began = time.strftime("%H:%M:%S", time.gmtime(self.since))
        return (
            f"{printable(self.run, 200) or 'another run'} (process {self.process}{where}, since {began} UTC)"
        )


class Wait:
    """A wait for the lock ``name`` in the file ``path``, as a noun: what it is for, and who holds it."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.what = ORDER[_kind(name)]
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time that has passed since the wait began."""
        return time.monotonic() - self.began

    def __str__(self) -> str:
        holder = holder_of(self.path)
        return f"{self.what}, held by {holder if holder is not None else 'another run'}"


#: Tells the user of a wait while the context lasts; its value is called again and again meanwhile.
Reporter = Callable[[Wait], AbstractContextManager[Callable[[], None]]]


@contextmanager
def plainly(wait: Wait) -> Iterator[Callable[[], None]]:
    """Tell of a wait on standard error, by a line at its beginning and one at its end."""
    print(f"waiting for {wait}", file=sys.stderr, flush=True)
    yield lambda: None
    print(f"waited {wait.seconds:.0f} s for {wait.what}", file=sys.stderr, flush=True)


@contextmanager
def hold(path: Path, name: str, report: Reporter = plainly) -> Iterator[bool]:
    """Hold the lock ``name`` in the file ``path``; the value is true if its last holder was killed.

    A thread may take a lock again that it holds.  Raises LockOrderError by ORDER, HarnessError
    if the file system has no locks.
    """
    stack: list[tuple[str, Path]] = _held.__dict__.setdefault("stack", [])
    if (name, path) in stack:
        yield False
        return
    _require_order(name, [held for held, _ in stack])
    descriptor = _open(path)
    try:
        if not _try(descriptor, fcntl.LOCK_EX, path):
            _wait(descriptor, fcntl.LOCK_EX, Wait(path, name), report)
        killed = os.fstat(descriptor).st_size > 0
        _write_record(descriptor)
        stack.append((name, path))
        try:
            yield killed
        finally:
            stack.remove((name, path))
            with suppress(OSError):  # a full disk does not refuse that
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def try_hold(path: Path) -> Iterator[bool]:
    """Hold the lock in ``path`` if nobody does; the value is whether it is held."""
    descriptor = _open(path)
    try:
        held = _try(descriptor, fcntl.LOCK_EX, path)
        if held:
            _write_record(descriptor)
        try:
            yield held
        finally:
            if held:
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def claim(folder: Path, name: str, does: str) -> Iterator[None]:
    """Hold the file ``name`` in a results folder, which is made: one run at a time ``does`` its work there.

    Raises HarnessError if another run holds the file, or the folder cannot be made.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(try_hold(folder / name))
        except OSError as error:
            raise HarnessError(f"The results folder {folder} cannot be made: {error.strerror}.") from error
        if not held:
            holder = holder_of(folder / name)
            named = f": {holder}" if holder is not None else ""
            raise HarnessError(f"Another run {does} in {folder}{named}. Give this one another --results.")
        yield


def share(path: Path, name: str, report: Reporter = plainly) -> int:
    """Take the lock in ``path`` together with others; return the descriptor, whose end releases it.

    It is waited for only while another process has it alone, see take_alone().
    """
    descriptor = _open(path)
    try:
        if not _try(descriptor, fcntl.LOCK_SH, path):
            _wait(descriptor, fcntl.LOCK_SH, Wait(path, name), report)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def take_alone(descriptor: int, path: Path) -> bool:
    """Take alone what share() took; return False, without the lock, if others have it."""
    return _try(descriptor, fcntl.LOCK_EX, path)


def sharers(path: Path) -> list[int]:
    """Return the other processes of this host that hold the lock in ``path``, by number."""
    try:
        inode = f":{path.stat().st_ino} "
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    found = {
        int(line.split()[4]) for line in lines if inode in line and " FLOCK " in line and "->" not in line
    }
    return sorted(found - {os.getpid(), 0, -1})


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lock in ``path``; None if nobody does, or the record is being written."""
    try:
        known = json.loads(path.read_bytes())
        return Holder(int(known["process"]), str(known["host"]), str(known["run"]), float(known["since"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _kind(name: str) -> str:
    return re.split(r"[-.]", name, maxsplit=1)[0]


def _require_order(name: str, held: list[str]) -> None:
    ranks = list(ORDER)
    if _kind(name) not in ORDER:
        raise LockOrderError(f"The lock {name} has no place in the order of locks. {_DEFECT}")
    before = [one for one in held if ranks.index(_kind(one)) >= ranks.index(_kind(name))]
    if before:
        raise LockOrderError(
            f"The lock {name} was to be taken under {' and '.join(before)}, against their order. {_DEFECT}"
        )


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _try(descriptor: int, operation: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise HarnessError(
            f"The file {path} cannot be locked ({error.strerror}): its file system has no locks. Name a "
            "folder on a local disk: PATCHPROOF_CACHE moves the cache, --results the results."
        ) from error
    return True


def _wait(descriptor: int, operation: int, wait: Wait, report: Reporter) -> None:
    with report(wait) as again:
        while not _try(descriptor, operation, wait.path):
            interruption.check()
            again()
            time.sleep(POLL_SECONDS)


def _write_record(descriptor: int) -> None:
    record = {"process": os.getpid(), "host": os.uname().nodename, "run": _run, "since": time.time()}
    with suppress(OSError):  # the lock holds without a record, as on a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
