"""The build folders: which one a configuration gets, and which are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_kernel import SmallKernel

from harness.kernel.builddir import BuildDir
from harness.lib.cache import Store


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


def test_workbench_is_cold_until_the_first_build(small: SmallKernel) -> None:
    assert BuildDir(small.store, "").cold
    small.build()
    assert not BuildDir(small.store, "").cold


def options(*numbers: int) -> str:
    return "".join(f"CONFIG_{number}=y\n" for number in numbers)


def test_similar_configurations_share_a_build_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    small, large = options(*range(50)), options(*range(70))
    for request in (small, large):
        BuildDir(store, request).prepare()
    assert BuildDir(store, small).build != BuildDir(store, large).build
    assert BuildDir(store, options(*range(48))).build == BuildDir(store, small).build
    assert BuildDir(store, options(*range(66))).build == BuildDir(store, large).build


def test_prepare_keeps_the_last_used_build_folders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    benches = [BuildDir(store, options(*range(100 * n, 100 * n + 20))) for n in range(4)]
    for age, bench in enumerate(benches[:3]):
        bench.prepare()
        os.utime(bench.build, (1000 + age, 1000 + age))
    os.utime(benches[0].build)
    benches[3].prepare()
    assert [bench.build.exists() for bench in benches] == [True, False, True, True]
