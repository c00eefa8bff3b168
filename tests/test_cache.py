"""The cache: entries are whole or absent, and leftovers of killed runs are removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from harness.lib.cache import Store
from harness.lib.files import digest

KEY, OTHER = digest("key"), digest("other")


def left_over(store: Store, key: str) -> Path:
    """Make the folder that a run leaves which is killed while it makes the entry ``key``."""
    folder = store.path("kernel", f".{key[:16]}.killed", "bzImage").parent
    (folder / "bzImage").write_text("half")
    return folder


def make(folder: Path) -> None:
    (folder / "bzImage").write_text("whole")


def test_entry_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert (store.entry("kernel", KEY, make) / "bzImage").read_text() == "whole"
    store.entry("kernel", KEY, lambda folder: pytest.fail(f"{folder} is made again"))


def test_entry_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Store(tmp_path).entry("kernel", KEY, fail)
    assert not list((tmp_path / "kernel").iterdir())


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_leftovers_of_killed_runs_are_removed(tmp_path: Path, key: str) -> None:
    store = Store(tmp_path)
    leftover = left_over(store, key)
    store.entry("kernel", KEY, make)
    assert not leftover.exists()


def test_entry_in_progress_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    unfinished = left_over(store, OTHER)
    with FileLock(store.path("locks", f"kernel-{OTHER[:32]}.lock")):
        store.entry("kernel", KEY, make)
        assert (unfinished / "bzImage").read_text() == "half"
    store.entry("kernel", digest("third"), make)
    assert not unfinished.exists()


def test_leftovers_of_other_kinds_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    leftover = left_over(store, OTHER)
    store.entry("image", KEY, make)
    assert leftover.exists()
