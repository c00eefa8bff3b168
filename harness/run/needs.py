"""The needs of a scenario: what it asks of its machine."""

from __future__ import annotations

from dataclasses import dataclass

from harness.vm.layout import Layout

USUAL = Layout()


@dataclass(frozen=True)
class Needs:
    """What the marker ``machine`` says; without it, the machine that is already running.

    ``fresh``: no scenario has used it before.  ``alone``: none will after it
    either, because the scenario may leave the kernel broken.
    """

    layout: Layout = USUAL
    fresh: bool = False
    alone: bool = False


# The marker's words.  Two owners' worth of devices (edu2, ram2) every machine has.
WORDS = {
    "fresh": "a machine that no scenario has used before",
    "alone": "a fresh machine that no scenario uses after it",
    "big_ram": "the device bigram, with a RAM BAR of 1 GiB",
    "power": "the device rng, with power management and function-level reset",
    "pair": "the devices pair and pair2, two functions that are reset together",
    "kernel": 'words for the kernel\'s command line, "nopat"',
}
