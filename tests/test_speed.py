"""The measured speed of a guest, and the deadlines that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import SUITES, Built, facts, make_qemu, run

from harness.guest import speed
from harness.lib.errors import ExitCode
from harness.vm.accelerator import Accelerator

LOOP_SECONDS = 0.5  # as an example of what the loop usually takes


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(0.1, 1.0), (1.0, 1.0), (1.49, 1.0), (1.5, 1.5), (3.04, 3.0), (8.0, 8.0), (100.0, 8.0)],
)
def test_slowdown_is_measured_between_1_and_the_limit(factor: float, expected: float) -> None:
    assert speed.slowdown(factor * LOOP_SECONDS, LOOP_SECONDS) == expected


def test_slower_accelerator_has_longer_deadlines() -> None:
    accelerator = Accelerator("tcg", 4.0, "as requested")
    assert accelerator.slower(2.5) == Accelerator("tcg", 10.0, "as requested")
    assert accelerator.time_scale == 4.0


def test_each_accelerator_has_its_loop() -> None:
    assert set(speed.LOOPS) == {"kvm", "tcg"}


@pytest.mark.vm
def test_slow_guest_gets_longer_deadlines(tmp_path: Path) -> None:
    """QEMU does not chain the blocks that it has translated, and each has one instruction (before QEMU 9)."""
    script = (
        'case "$*" in *-kernel*) set -- -d nochain "$@"\n'
        'case "$($qemu -version)" in *" version "[78].*) set -- -singlestep "$@" ;; esac ;; esac\n'
        'exec $qemu "$@"'
    )
    slow = make_qemu(tmp_path / "qemu", script)
    results = tmp_path / "results"
    options: tuple[str | Path, ...] = (*Built(tmp_path).arguments, "--qemu", slow, "--results", results)
    code, output = run("run", *options, SUITES / "lost_machines.py", "-k", "reads[0", mark=tmp_path)
    assert code == ExitCode.OK, output
    slowdown = facts(results)["slowdowns"]["machine-1"]
    assert speed.NOTICEABLE <= slowdown <= speed.LIMIT
    assert f"Note: The guest of machine-1 ran {slowdown:g} times slower than usual" in output
    (transcript,) = (results / "latest" / "transcripts").iterdir()
    assert "> fds deadline=" in transcript.read_text()
