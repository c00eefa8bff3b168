"""Pauses of this program and of QEMU, which are never the fault of a kernel."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from small_run import until

from harness.vm import pauses
from harness.vm.pauses import ECHO_SECONDS, PAUSE_SECONDS, PauseWatch


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def watch(child: int) -> Iterator[PauseWatch]:
    watch = PauseWatch(child)
    yield watch
    watch.close()


def test_a_stopped_process_is_a_pause(child: int, watch: PauseWatch) -> None:
    begun = pauses.now()
    assert watch.since(begun) == ""
    os.kill(child, signal.SIGSTOP)
    until(lambda: watch.since(begun), "the pause to be noticed")
    os.kill(child, signal.SIGCONT)
    assert "QEMU was stopped by a signal" in watch.since(begun)
    assert watch.since(pauses.now() + ECHO_SECONDS) == ""


def test_a_process_that_ended_is_no_pause(child: int, watch: PauseWatch) -> None:
    begun = pauses.now()
    os.kill(child, signal.SIGKILL)
    assert watch.since(begun) == ""


@pytest.mark.parametrize(("seconds", "noticed"), [(PAUSE_SECONDS - 1, False), (PAUSE_SECONDS + 2, True)])
def test_time_without_a_look_is_a_pause(
    watch: PauseWatch, monkeypatch: pytest.MonkeyPatch, seconds: float, noticed: bool
) -> None:
    begun = pauses.now()
    later = begun + seconds
    monkeypatch.setattr(pauses, "now", lambda: later)
    assert ("this program did not run for" in watch.since(begun)) is noticed
