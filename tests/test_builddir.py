"""The build folders: which one a configuration gets, and which are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_kernel import SmallKernel

from harness.store import Store
from harness.workbench import Workbench


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


def test_workbench_is_cold_until_the_first_build(small: SmallKernel) -> None:
    assert Workbench(small.store, "").cold
    small.build()
    assert not Workbench(small.store, "").cold


def options(*numbers: int) -> str:
    return "".join(f"CONFIG_{number}=y\n" for number in numbers)


def test_similar_configurations_share_a_build_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    small, large = options(*range(50)), options(*range(70))
    for request in (small, large):
        Workbench(store, request)._prepare()
    assert Workbench(store, small).build != Workbench(store, large).build
    assert Workbench(store, options(*range(48))).build == Workbench(store, small).build
    assert Workbench(store, options(*range(66))).build == Workbench(store, large).build


def test_prepare_keeps_the_last_used_build_folders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    benches = [Workbench(store, options(*range(100 * n, 100 * n + 20))) for n in range(4)]
    for age, bench in enumerate(benches[:3]):
        bench._prepare()
        os.utime(bench.build, (1000 + age, 1000 + age))
    os.utime(benches[0].build)
    benches[3]._prepare()
    assert [bench.build.exists() for bench in benches] == [True, False, True, True]
