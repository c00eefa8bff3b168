"""The disk that a kernel still needs in the cache: its source, its build folder, its result."""

from __future__ import annotations

from pathlib import Path

from harness.kernel import kconfig
from harness.kernel.base import SPACE_NEEDED, is_cached
from harness.kernel.build_folder import SPACE_FOR_RELEASE
from harness.lib.cache import Store
from harness.lib.resources import MIB, Room

#: A kernel with its symbols and headers in the cache, and the new objects of an incremental build.
SPACE_FOR_KERNEL = 256 * MIB


def rooms(store: Store, release: str, tree: Path | None = None) -> list[Room]:
    """Return what a build of a kernel of ``release`` will write to the cache.

    ``tree`` is the checkout that the kernel comes from, if it is no release that is fetched.
    """
    found = [Room(store.root, SPACE_FOR_KERNEL, "kernel")]
    fetched = is_cached(store, release) if tree is None else (store.root / "trees").exists()
    if not fetched:
        found.insert(0, Room(store.root, SPACE_NEEDED, f"source of {release}"))
    if not (store.root / "workbench" / kconfig.release_name(release) / "src").exists():
        found.append(Room(store.root, SPACE_FOR_RELEASE, "build folder"))
    return found
