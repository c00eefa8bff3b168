"""Scenarios of which some lose their machine, all to one cause.

tests/test_give_up.py runs this suite.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.actor.actor import Actor
from harness.guest.guest import Guest
from harness.plugin.markers import requirement

Start = Callable[[str], Actor]


@requirement("MAP-01")
@pytest.mark.parametrize("number", range(5))
def test_warns(start: Start, guest: Guest, number: int) -> None:
    start("c").descriptors()
    guest.write("/sys/kernel/debug/provoke-crash/DIRECT", "WARNING")


@requirement("ATTR-04")
def test_warns_in_a_scenario_for_information(start: Start, guest: Guest) -> None:
    start("c").descriptors()
    guest.write("/sys/kernel/debug/provoke-crash/DIRECT", "WARNING")


@requirement("MAP-02")
@pytest.mark.parametrize("number", range(2))
def test_reads(start: Start, guest: Guest, number: int) -> None:
    start("c").descriptors()
    assert guest.read("/proc/cmdline")
