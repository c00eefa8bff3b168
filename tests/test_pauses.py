"""Pauses of this program, of QEMU and of a processor, which are never the fault of a kernel."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import SUITES, Built, junit, run, until

from harness.vm import pauses
from harness.vm.pauses import ECHO_SECONDS, HOLD_SECONDS, PAUSE_SECONDS, PauseWatch


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


@pytest.mark.parametrize(("seconds", "words"), [(HOLD_SECONDS - 1, ""), (52, "processor 1 for 52 s")])
def test_a_processor_held_for_long_is_a_pause(watch: PauseWatch, seconds: float, words: str) -> None:
    begun = pauses.now()
    watch.add_hold(1, begun - seconds)
    assert watch.since(begun) == (words and f"a debugger held {words}")
    assert watch.since(pauses.now() + ECHO_SECONDS) == ""


@pytest.mark.vm
def test_verdict_after_a_pause_is_not_that_of_the_kernel(tmp_path: Path) -> None:
    arguments: list[str | Path] = [*Built(tmp_path).arguments, "--no-base", "--results", tmp_path]
    run("run", *arguments, SUITES / "pauses.py", mark=tmp_path)
    named = junit(tmp_path).items()
    cases = {name: (case.verdict, case.text) for name, case in named if name.startswith("test_")}
    assert {name: verdict for name, (verdict, _) in cases.items()} == {
        "test_pause_alone": "conforms",
        "test_pause_and_a_lockup": "harness-error",
        "test_pause_and_a_failure": "harness-error",
        "test_pause_and_a_warning": "violates",
        "test_lockup_without_a_pause": "violates",
        "test_hold_and_a_lockup[True]": "harness-error",
        "test_hold_and_a_lockup[False]": "violates",
    }
    assert "The scenario was cut off: a debugger held processor 1" in cases["test_hold_and_a_lockup[True]"][1]
    for name in ("test_pause_and_a_lockup", "test_pause_and_a_failure"):
        assert "The scenario was cut off: QEMU was stopped by a signal" in cases[name][1]
