"""Cache folders, locks and digests.

Everything that is expensive lives below one cache folder, under a key that is a
digest of what went in.  An entry is made in a temporary folder beside its final
place and renamed when it is whole, so a reader sees all of it or nothing, and a
process killed half-way leaves only a folder that the next run sweeps away.
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
    """The cache folder: ``$PATCHPROOF_CACHE``, else ``$XDG_CACHE_HOME/patchproof``."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "patchproof"


class Store:
    """The cache folder of one user, shared by any number of runs at once."""

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
        """A place below the cache folder; its parent folder exists afterwards."""
        place = self.root.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    @contextmanager
    def lock(
        self, name: str, *, waiting: Callable[[], None] | None = None, timeout: float = -1
    ) -> Iterator[None]:
        """Hold the inter-process lock ``name``.

        ``waiting`` is called once if another run holds it; ``timeout`` is in
        seconds, negative waits for ever.  The kernel drops the lock when its
        holder dies, so a killed run leaves nothing to clean up.
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
        """The folder ``kind/key``, made by ``make(folder)`` if it is not there yet.

        Two runs that want the same entry wait for each other; the second one
        finds it made.
        """
        place = self.path(kind, key)
        if place.is_dir():
            return place
        with self.lock(f"{kind}-{key[:32]}"):
            if place.is_dir():
                return place
            self._sweep(kind, place)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{key[:16]}.", dir=place.parent))
            try:
                make(unfinished)
                unfinished.chmod(0o755)
                unfinished.replace(place)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        return place

    def _sweep(self, kind: str, place: Path) -> None:
        """Remove what killed runs left of this entry (its lock is held), and of any that nobody makes now."""
        for leftover in place.parent.glob(".*.*"):
            key = leftover.name.split(".")[1]
            locks = [] if place.name.startswith(key) else self.root.glob(f"locks/{kind}-{key}*.lock")
            with contextlib.ExitStack() as held, contextlib.suppress(Timeout):
                for path in locks:
                    held.enter_context(FileLock(path).acquire(timeout=0))
                shutil.rmtree(leftover, ignore_errors=True)

    def remove(self, kinds: Iterable[str]) -> int:
        """Delete whole kinds of entries; returns the number of bytes freed."""
        freed = 0
        for kind in kinds:
            place = self.root / kind
            if not place.exists():
                continue
            for path in place.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    freed += path.stat().st_size
            shutil.rmtree(place)
        return freed
