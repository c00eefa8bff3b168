"""Cache folders, locks and digests.

Expensive results are kept below one cache folder, under a key that is a digest of
their inputs.  An entry is made in a temporary folder beside its final path and
renamed when it is complete, so a reader sees a whole entry or none.  It is renamed again
before it is removed.  A killed process leaves only a temporary folder, which the next run
removes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from harness.lib import locks
from harness.lib.errors import HarnessError
from harness.lib.untrusted_files import remove_folder, usage

CACHE_VARIABLE = "PATCHPROOF_CACHE"
_CACHE = "cache"  # the lock that each run shares, and that `clean` needs alone
_REMOVED = ".removed."  # the beginning of the name of a folder that is being removed


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

    While this object lives, no other run deletes the cache.  ``report`` tells the user of a
    wait for another run; a Progress sets its own.

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
        self.report: locks.Reporter = locks.plainly
        self._users: dict[str, weakref.finalize[..., Store]] = {}
        self._use(_CACHE)

    def path(self, *parts: str) -> Path:
        """Return a path below the cache folder, and make its parent folder."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def lock(self, name: str) -> AbstractContextManager[bool]:
        """Hold the lock ``name`` between runs, see locks.hold()."""
        return locks.hold(self._lock_file(name), name, self.report)

    def entry(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the folder ``kind/key``; make it with ``make(folder)`` if it is absent.

        If two runs want the same entry, one makes it and the other waits for it.  An
        exception of ``make`` is passed on, and no entry is left.  No other run removes the
        entry while this object lives.
        """
        if (found := self.existing(kind, key)) is not None:
            return found
        folder, name = self.path(kind, key), _name(kind, key)
        with self.lock(name):
            if not folder.is_dir():
                self._sweep(kind, folder)
                temporary = Path(tempfile.mkdtemp(prefix=f".{key[:16]}.", dir=folder.parent))
                try:
                    make(temporary)
                    temporary.chmod(0o755)
                    temporary.replace(folder)
                except BaseException:
                    shutil.rmtree(temporary, ignore_errors=True)
                    raise
            self._use(name)
        return folder

    def existing(self, kind: str, key: str) -> Path | None:
        """Return the folder ``kind/key`` if there is one; no other run removes it while this object lives."""
        folder, name = self.path(kind, key), _name(kind, key)
        if not folder.is_dir():
            return None
        self._use(name)
        return folder if folder.is_dir() else None

    def discard(self, kind: str, key: str) -> None:
        """Remove the entry ``kind/key``, unless another run uses it."""
        folder, name = self.path(kind, key), _name(kind, key)
        with self.lock(name):
            self._use(name)
            if folder.is_dir() and self._use_alone(name):
                _remove(folder)
            self._users.pop(name)()

    def _use(self, name: str) -> None:
        """Note that this object uses an entry or the cache, until its own end."""
        if name not in self._users:
            descriptor = locks.share(self._use_file(name), name, self.report)
            self._users[name] = weakref.finalize(self, os.close, descriptor)

    def _use_alone(self, name: str) -> bool:
        """Return whether no other run uses what this object uses; no run then begins to use it."""
        peeked = self._users[name].peek()
        return peeked is not None and locks.take_alone(peeked[2][0], self._use_file(name))

    def _use_file(self, name: str) -> Path:
        return self.path("locks", "use", f"{name}.lock")

    def _lock_file(self, name: str) -> Path:
        return self.path("locks", f"{name}.lock")

    def _sweep(self, kind: str, folder: Path) -> None:
        """Remove the temporary folders that killed runs left beside ``folder``.

        The caller holds the lock of the entry ``folder``.  A temporary folder of another
        entry is removed only if no run holds that entry's lock.
        """
        for leftover in folder.parent.glob(".*.*"):
            key = leftover.name.split(".")[1]
            others = [] if folder.name.startswith(key) else self.root.glob(f"locks/{kind}-{key}*.lock")
            with contextlib.ExitStack() as held:
                if all(held.enter_context(locks.try_hold(path)) for path in others):
                    shutil.rmtree(leftover, ignore_errors=True)

    def remove(self, kinds: Iterable[str]) -> int:
        """Delete all entries of these kinds; return the number of bytes freed.

        Raises HarnessError if another run uses the cache; nothing is deleted then.
        """
        if not self._use_alone(_CACHE):
            self._users.pop(_CACHE)()
            users = locks.sharers(self._use_file(_CACHE))
            named = f": process {' and '.join(map(str, users))}" if users else ""
            raise HarnessError(
                f"Nothing was deleted, because another run uses the cache {self.root}{named}. Wait for its "
                "end, or end it."
            )
        for leftover in self.root.glob(f"{_REMOVED}*"):  # of a `clean` that was killed
            remove_folder(leftover)
        freed = 0
        for kind in kinds:
            folder = self.root / kind
            if not folder.exists():
                continue
            freed += usage(folder)
            _remove(folder)
        return freed


def _name(kind: str, key: str) -> str:
    """Return the name of the lock of an entry."""
    return f"{kind}-{key[:32]}"


def _remove(folder: Path) -> None:
    """Remove a folder; if that is cut off, there is no half of it under its name."""
    away = folder.with_name(f"{_REMOVED}{secrets.token_hex(8)}")
    folder.rename(away)
    remove_folder(away)
