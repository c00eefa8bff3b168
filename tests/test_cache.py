"""The cache: entries are whole or absent, leftovers of killed runs are removed, and what a run uses stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.lib import cache, locks
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
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
    with locks.try_hold(store.path("locks", f"kernel-{OTHER[:32]}.lock")):
        store.entry("kernel", KEY, make)
        assert (unfinished / "bzImage").read_text() == "half"
    store.entry("kernel", digest("third"), make)
    assert not unfinished.exists()


def test_leftovers_of_other_kinds_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    leftover = left_over(store, OTHER)
    store.entry("image", KEY, make)
    assert leftover.exists()


def test_entry_in_use_stays(tmp_path: Path) -> None:
    mine, others = Store(tmp_path), Store(tmp_path)
    entry = mine.entry("kernel", KEY, make)
    assert others.existing("kernel", KEY) == entry
    mine.discard("kernel", KEY)
    assert (entry / "bzImage").read_text() == "whole"


def test_entry_that_nobody_uses_is_discarded(tmp_path: Path) -> None:
    mine, others = Store(tmp_path), Store(tmp_path)
    entry = mine.entry("kernel", KEY, make)
    mine.discard("kernel", KEY)
    assert list(entry.parent.iterdir()) == []
    assert others.existing("kernel", KEY) is None
    assert (others.entry("kernel", KEY, make) / "bzImage").exists()


def test_cache_in_use_is_not_removed(tmp_path: Path) -> None:
    mine, others = Store(tmp_path), Store(tmp_path)
    entry = others.entry("kernel", KEY, make)
    with pytest.raises(HarnessError, match="Nothing was deleted, because another run uses the cache"):
        mine.remove(["kernel"])
    assert entry.exists()
    del others
    assert Store(tmp_path).remove(["kernel"]) > len("whole")
    assert not entry.exists()


def test_removal_that_was_cut_off_leaves_no_half_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(path: Path) -> None:
        raise KeyboardInterrupt

    store = Store(tmp_path)
    entry = store.entry("kernel", KEY, make)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "remove_folder", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.discard("kernel", KEY)
    assert not entry.exists()
    assert len(list(entry.parent.iterdir())) == 1
    store.entry("kernel", OTHER, make)
    assert [path.name for path in entry.parent.iterdir()] == [OTHER]
