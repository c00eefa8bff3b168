"""Find a cause outside of the kernel for what it complained of, or for a call that did not return."""

from __future__ import annotations

from collections.abc import Sequence

from harness.klog.splat import Splat
from harness.vm.machine import Machine

# Complaints that a pause of the host, or a processor without ticks, can cause alone.
BY_TIME = ("lockup", "rcu-stall", "hung-task")


def cause_outside(machine: Machine, since: float, faults: Sequence[Splat]) -> str:
    """Return the pause or the defect of QEMU, as a clause, that explains all ``faults``; empty if none does.

    The faults were reported ``since`` a time of pauses.now().
    """
    return pause_behind(machine, since, faults) or lost_write_behind(machine, faults)


def pause_behind(machine: Machine, since: float, faults: Sequence[Splat]) -> str:
    """Return the pause ``since`` a time of pauses.now(), as a clause, that explains all ``faults``.

    It is empty if none does.
    """
    pause = machine.paused(since)
    return pause if all(one.kind in BY_TIME for one in faults) else ""


def lost_write_behind(machine: Machine, faults: Sequence[Splat]) -> str:
    """Return the defect of QEMU, as a clause, that explains all ``faults``; empty if none does.

    A processor whose end of its timer's interrupt was lost gets no tick any more.  A call that waits
    for RCU, such as the open() of a device, then does not return.  After 21 s the kernel on another
    processor reports a stall of RCU (kernel/rcu/tree_stall.h).  A lost notification of the network or the
    disk leaves a guest that waits for these.  So the defect also explains a call that does not return
    without any fault.
    """
    if any(one.kind not in BY_TIME for one in faults) or not machine.alive():
        return ""
    return machine.dump_processors()[1]
