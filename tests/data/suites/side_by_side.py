"""Scenarios that two machines run at once, until the process of one of them dies.

tests/test_workers.py runs this suite.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from harness.guest.guest import Guest
from harness.lib import interruption
from harness.plugin.items import RUN
from harness.plugin.markers import machine, requirement

PATIENCE = 300.0  # seconds for the other machine to boot


def seen(name: str) -> bool:
    if not (found := (Path(os.environ["PATCHPROOF_TEST_MARK"]) / name).exists()):
        time.sleep(0.05)
    return found


@requirement("MAP-01")
def test_run_meets_its_worker(guest: Guest) -> None:
    (Path(os.environ["PATCHPROOF_TEST_MARK"]) / "run").touch()
    assert interruption.until(lambda _: seen("worker"), PATIENCE)
    assert guest.read("/proc/cmdline")


@requirement("MAP-02")
@machine(power=True)
def test_worker_meets_its_run(guest: Guest) -> None:
    (Path(os.environ["PATCHPROOF_TEST_MARK"]) / "worker").touch()
    assert interruption.until(lambda _: seen("run"), PATIENCE)
    assert guest.devices["rng"]


@requirement("MAP-03")
@machine(power=True)
def test_worker_dies(request: pytest.FixtureRequest, guest: Guest) -> None:
    assert RUN not in request.config.stash  # this is a worker
    os.kill(os.getpid(), signal.SIGKILL)


@requirement("MAP-04")
@machine(power=True, taints=[14])  # those that may taint the kernel are the last of their layout
def test_run_goes_on_without_it(request: pytest.FixtureRequest, guest: Guest) -> None:
    assert RUN in request.config.stash
    assert guest.devices["rng"]


@requirement("MAP-05")
@machine(quiet=True)
def test_no_other_machine_is_at_work(request: pytest.FixtureRequest, guest: Guest) -> None:
    assert RUN in request.config.stash
