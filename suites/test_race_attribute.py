"""RACE: an mmap() that is held inside the kernel while the owner sets the memory attribute.

x86 shows no difference between the attributes (test_attribute.py), so a mapping of two modes
would be seen only if one of them were cached.
"""

from __future__ import annotations

from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Mapping
from harness.guest.guest import PciFunction as Function
from harness.guest.hold import Hold
from harness.plugin.markers import machine, on_attribute, requirement
from harness.vm.ram_bar import RamBar
from suites.support.constants import FRONT
from suites.support.fixtures import Finding
from suites.support.race import DONE, LENGTH, MMAP, Sides, meet, require_alive, require_result

pytestmark = machine(hold=True)


@requirement("RACE-14")
@on_attribute("set", "get-set")
@pytest.mark.parametrize("leaving", [False, True], ids=["before the choice", "after the choice"])
def test_a_mapping_made_while_the_attribute_is_set_has_one_mode(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A mapping whose mmap() was inside the kernel when the attribute was set has one mode."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="client")
    before = sides.client.map(sides.shared)
    require_alive(before)
    met = meet(
        hold,
        MMAP,
        (sides.client, partial(sides.client.map, sides.shared)),
        (sides.owner, partial(sides.owner.set_attribute, sides.buffer, "wc")),
        leaving=leaving,
    )
    finding(f"The call that sets the attribute {met.outcome} during an mmap().")
    require_result(met.first, "map2")
    require_result(met.second, DONE)
    mapping = Mapping(sides.client, "map2", LENGTH)
    require_alive(mapping)
    modes = [one.page_table().caching() for one in (before, mapping)]
    for mode in modes:
        assert len(mode) == 1, "a mapping has pages of several cache modes"
        assert mode - {"write-back"} == mode, "a mapping of a device is cached"
