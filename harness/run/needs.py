"""The needs of a scenario: the machine that it requires."""

from __future__ import annotations

from dataclasses import dataclass

from harness.vm.hardware import GIB
from harness.vm.pci_devices import Layout

USUAL = Layout()
BIG = GIB  # bytes of the RAM BAR of a scenario that needs a big one
LARGEST = Layout(bigram=BIG)
# One processor for the system, one to hold, and one for the other side.  No device may interrupt those two.
HOLD_CPUS = 3
HOLD_ARGUMENTS = ("irqaffinity=0",)


def is_big(layout: Layout) -> bool:
    """Return whether a machine of this layout may leave too little memory for others beside it."""
    return layout.bigram > 0


@dataclass(frozen=True)
class Needs:
    """The machine that a scenario needs; without a marker ``machine``, any machine of the usual layout.

    ``fresh``: no scenario has used the machine before.  ``alone``: moreover, none uses
    the machine afterwards, because the scenario may leave the kernel broken.  ``taints``
    are the taint bits that the scenario's own tools set.  ``quiet``: no other machine of the
    run works meanwhile, because the scenario depends on the speed of its own.
    """

    layout: Layout = USUAL
    fresh: bool = False
    alone: bool = False
    taints: frozenset[int] = frozenset()
    quiet: bool = False


# The keywords of the marker.  Every machine has the devices of two owners (edu, ram, edu2, ram2).
MACHINE_KEYWORDS = {
    "fresh": "a machine that no scenario has used before",
    "alone": "a fresh machine that no scenario uses after it",
    "big_ram": "the device bigram, with a RAM BAR of 1 GiB",
    "power": "the device rng, with power management and function-level reset",
    "ats": "the device rng, with an address cache of its own (ATS) in place of a BAR of I/O ports",
    "pair": "the devices pair and pair2, two functions that are reset together",
    "taints": "the taint bits that the scenario sets itself, such as 14 by a fence of sw_sync",
    "quiet": "no other machine of the run at work beside it (--machines), as it depends on its speed",
    "parallel": "emulated processors that work at the same time, for tasks that race without being held",
    "hold": "a debugger's port and three processors, for scenarios that hold one of them (fixture ``hold``)",
    "kernel": 'words for the kernel\'s command line, "nopat"',
}
