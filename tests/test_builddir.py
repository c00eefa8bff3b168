"""The build folders: which one a configuration gets, and which are kept."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from small_kernel import DMABUF, SmallKernel

from harness.kernel import build_folder
from harness.kernel.build_folder import _FOLDERS, _RELEASES
from harness.kernel.builddir import BuildDir
from harness.lib import clock
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.lib.progress import Progress


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


def test_workbench_is_cold_until_the_first_build(small: SmallKernel) -> None:
    assert BuildDir(small.store, "6.19.6", "").cold
    small.build()
    assert not BuildDir(small.store, "6.19.6", "").cold


def options(*numbers: int) -> str:
    return "".join(f"CONFIG_{number}=y\n" for number in numbers)


def test_similar_configurations_share_a_build_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    small, large = options(*range(50)), options(*range(70))
    for request in (small, large):
        BuildDir(store, "6.19.6", request).prepare()
    assert BuildDir(store, "6.19.6", small).build != BuildDir(store, "6.19.6", large).build
    assert BuildDir(store, "6.19.6", options(*range(48))).build == BuildDir(store, "6.19.6", small).build
    assert BuildDir(store, "6.19.6", options(*range(66))).build == BuildDir(store, "6.19.6", large).build


def test_option_that_changes_every_object_has_its_own_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    usual = options(*range(50))
    BuildDir(store, "6.19.6", usual).prepare()
    other = BuildDir(store, "6.19.6", usual + "CONFIG_FAULT_INJECTION=y\n")
    other.prepare()
    assert other.build != BuildDir(store, "6.19.6", usual + "CONFIG_VFIO=y\n").build
    assert BuildDir(store, "6.19.6", other.request + "CONFIG_VFIO=y\n").build == other.build


def test_prepare_keeps_the_last_used_build_folders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    versions = ["6.19.6", "7.2.6", "7.3.4"]
    benches = [
        BuildDir(store, versions[n % 3], options(*range(100 * n, 100 * n + 20))) for n in range(_FOLDERS + 1)
    ]
    for age, bench in enumerate(benches[:-1]):
        bench.prepare()
        os.utime(bench.folder, (1000 + age, 1000 + age))
    os.utime(benches[0].folder)
    benches[-1].prepare()
    assert [bench.folder.exists() for bench in benches] == [True, False, *([True] * (_FOLDERS - 1))]


def test_each_release_has_its_own_folders(small: SmallKernel) -> None:
    small.build()
    progress = Progress(small.store, io.StringIO())
    other = replace(small.tree({"drivers/dmabuf.c": None}), base=replace(small.base, version="7.2-rc3"))
    bench = BuildDir(small.store, "7.2-rc3", "")
    bench.check_out(other, progress)
    assert bench.root == small.store.root / "workbench" / "7.2"
    assert bench.cold
    assert not (bench.source / "drivers" / "dmabuf.c").exists()
    assert (small.build_folder.parents[1] / "src" / "drivers" / "dmabuf.c").exists()
    assert small.build_folder.parents[1] == small.store.root / "workbench" / "6.19"


def test_check_out_keeps_the_last_used_releases(small: SmallKernel) -> None:
    progress = Progress(small.store, io.StringIO())
    tree = small.tree()
    workbench = small.store.root / "workbench"
    for age in range(_RELEASES):
        BuildDir(small.store, f"7.{age}", "").check_out(tree, progress)
        os.utime(workbench / f"7.{age}", (1000 + age, 1000 + age))
    (workbench / "src").mkdir()  # as earlier versions had it
    (workbench / "src.index").touch()
    BuildDir(small.store, "7.0", "").check_out(tree, progress)  # makes nothing new: nothing is removed
    assert (workbench / "src").exists()
    BuildDir(small.store, "7.11", "").check_out(tree, progress)
    kept = ["7.0", *(f"7.{age}" for age in range(2, _RELEASES)), "7.11"]
    assert sorted(path.name for path in workbench.iterdir()) == sorted(kept)


def test_check_out_needs_space_for_a_new_release(small: SmallKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_folder, "SPACE_FOR_RELEASE", 1 << 60)
    progress = Progress(small.store, io.StringIO())
    with pytest.raises(HarnessError, match=r"MiB are needed.*PATCHPROOF_CACHE"):
        BuildDir(small.store, "7.2", "").check_out(small.tree(), progress)


CHANGED = {"drivers/dmabuf.c": DMABUF.replace("return 1", "return 7")}


def aged(folder: Path, seconds: float) -> None:
    """Move the time stamps of all files below ``folder``, as if they had been made later."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            stamp = path.stat().st_mtime + seconds
            os.utime(path, (stamp, stamp))


def test_changed_file_is_compiled_after_the_clock_went_back(small: SmallKernel) -> None:
    small.build()
    aged(small.build_folder.parent, 3600)
    built = small.build(CHANGED)
    assert "drivers/dmabuf.o" in small.compiled()
    assert b"\x07" in built.bzimage.parent.joinpath("vmlinux").read_bytes()


def test_build_during_which_the_clock_goes_back_is_refused(
    small: SmallKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.build()
    monkeypatch.setattr(clock, "offset", lambda: 20.0 if small.compiled() else 49.0)
    with pytest.raises(HarnessError, match=r"set back by 29 s during the build.*Nothing is said"):
        small.build(CHANGED)
    assert BuildDir(small.store, "6.19.6", "").cold
