"""A scenario whose QEMU crashed is tried once more, on another machine."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from small_run import Built, Invocation, events, junit, until

from harness.lib.errors import ExitCode

SCENARIO = "test_dmabufs_that_outlive_their_device_leave_no_memory"  # takes some seconds


def start(folder: Path) -> Invocation:
    built = Built(folder)
    return Invocation("run", *built.arguments, "--results", folder / "results", "-k", SCENARIO, mark=folder)


def crash_qemu(invocation: Invocation, tries: int) -> None:
    """Crash QEMU once the last of so many tries has done a step."""
    transcripts = invocation.mark / "results" / "latest" / "transcripts"
    until(lambda: transcripts.exists() and len(list(transcripts.iterdir())) == tries, "a step")
    number = invocation.qemu()
    assert number is not None
    os.kill(number, signal.SIGSEGV)


@pytest.mark.vm
def test_scenario_whose_qemu_crashed_once_conforms(tmp_path: Path) -> None:
    with start(tmp_path) as invocation:
        crash_qemu(invocation, 1)
        assert invocation.end() == ExitCode.OK, invocation.output
        assert re.search(r"1 passed, \d+ deselected, 1 repeated in ", invocation.output)
    assert junit(tmp_path / "results")[SCENARIO].verdict == "conforms"
    (finding,) = [one["text"] for one in events(tmp_path / "results") if one["event"] == "finding"]
    assert finding.startswith("This is the second try, on another machine. The scenario was cut off: QEMU ")


@pytest.mark.vm
def test_scenario_whose_qemu_crashed_twice_is_an_error(tmp_path: Path) -> None:
    with start(tmp_path) as invocation:
        crash_qemu(invocation, 1)
        crash_qemu(invocation, 2)
        assert invocation.end() == ExitCode.HARNESS, invocation.output
    case = junit(tmp_path / "results")[SCENARIO]
    assert case.verdict == "harness-error"
    assert "The scenario was cut off: QEMU was killed (SIGSEGV" in case.text
