"""Cache folders, locks and digests.

Expensive results are kept below one cache folder, under a key that is a digest of
their inputs.  An entry is made in a temporary folder beside its final path and
renamed when it is complete, so a reader sees a whole entry or none.  A killed process
leaves only a temporary folder, which the next run removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.lib.errors import HarnessError

CACHE_VARIABLE = "PATCHPROOF_CACHE"


def default_root() -> Path:
    """Return the cache folder.

    In this order: ``$PATCHPROOF_CACHE``, ``$XDG_CACHE_HOME/patchproof``, ``~/.cache/patchproof``.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "patchproof"


class Store:
    """The cache folder of one user, shared by any number of simultaneous runs.

    Raises HarnessError if the folder cannot be made.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_root()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HarnessError(
                f"The cache folder {self.root} cannot be made ({error.strerror}). "
                f"Set {CACHE_VARIABLE} to a folder you can write to."
            ) from error

    def path(self, *parts: str) -> Path:
        """Return a path below the cache folder, and make its parent folder."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def lock(
        self, name: str, *, waiting: Callable[[], None] | None = None, timeout: float = -1
    ) -> Iterator[None]:
        """Hold the inter-process lock ``name``.

        ``waiting`` is called once if another run holds the lock.  ``timeout`` is in
        seconds; a negative one waits for ever.  The kernel releases the lock when its
        holder dies, so a killed run leaves nothing to clean up.

        Raises HarnessError if the lock is still held after ``timeout``.
        """
        lock = FileLock(self.path("locks", f"{name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            try:
                lock.acquire(timeout=timeout)
            except Timeout as error:
                raise HarnessError(
                    f"Another run has held the lock {lock.lock_file} for {timeout:.0f} s. "
                    "Wait for it to end, or end it."
                ) from error
        try:
            yield
        finally:
            lock.release()

    def entry(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the folder ``kind/key``; make it with ``make(folder)`` if it is absent.

        If two runs want the same entry, one makes it and the other waits for it.  An
        exception of ``make`` is passed on, and no entry is left.
        """
        folder = self.path(kind, key)
        if folder.is_dir():
            return folder
        with self.lock(f"{kind}-{key[:32]}"):
            if folder.is_dir():
                return folder
            self._sweep(kind, folder)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key[:16]}.", dir=folder.parent))
            try:
                make(temporary)
                temporary.chmod(0o755)
                temporary.replace(folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return folder

    def _sweep(self, kind: str, folder: Path) -> None:
        """Remove the temporary folders that killed runs left beside ``folder``.

        The caller holds the lock of the entry ``folder``.  A temporary folder of another
        entry is removed only if no run holds that entry's lock.
        """
        for leftover in folder.parent.glob(".*.*"):
            key = leftover.name.split(".")[1]
            locks = [] if folder.name.startswith(key) else self.root.glob(f"locks/{kind}-{key}*.lock")
            with contextlib.ExitStack() as held, contextlib.suppress(Timeout):
                for path in locks:
                    held.enter_context(FileLock(path).acquire(timeout=0))
                shutil.rmtree(leftover, ignore_errors=True)

    def remove(self, kinds: Iterable[str]) -> int:
        """Delete all entries of these kinds; return the number of bytes freed."""
        freed = 0
        for kind in kinds:
            folder = self.root / kind
            if not folder.exists():
                continue
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    freed += path.stat().st_size
            shutil.rmtree(folder)
        return freed
