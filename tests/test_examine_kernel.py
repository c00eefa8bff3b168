"""Complaints of a kernel whose processor gets no ticks any more, by a defect of QEMU."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from harness.klog.splat import Splat
from harness.run.examine_kernel import deaf_processor_behind
from harness.vm import diagnose
from harness.vm.machine import Machine

DUMP = Path(__file__).parent / "data" / "processors" / "deaf.txt"
STALL = Splat("rcu-stall", "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "")
WAKEUP = Splat("rcu-stall", "rcu: rcu_preempt kthread timer wakeup didn't happen for 5251 jiffies!", "")
WARNING = Splat("warning", "WARNING: drivers/vfio/vfio_main.c:1 at f", "")


class DumpedMachine:
    """A machine whose processors are in the recorded state; ``running`` is false after QEMU's end."""

    def __init__(self, running: bool) -> None:
        self._running = running

    def alive(self) -> bool:
        return self._running

    def dump_processors(self) -> tuple[Path, str]:
        assert self._running, "QEMU has ended"
        return DUMP, diagnose.lost_interrupt(DUMP.read_text())


@pytest.mark.parametrize(
    ("faults", "running", "explained"),
    [
        ([STALL, WAKEUP], True, True),
        ([STALL, WARNING], True, False),  # no missing tick causes a warning
        ([STALL], False, False),
        ([], True, False),
    ],
)
def test_deaf_processor_explains_stalls_alone(faults: list[Splat], running: bool, explained: bool) -> None:
    found = deaf_processor_behind(cast(Machine, DumpedMachine(running)), faults)
    assert found.startswith("QEMU has lost the end of interrupt 236 on processor 0") == explained
    assert bool(found) == explained
