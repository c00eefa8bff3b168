"""RACE: a revoke and a client's access, of which one is held inside the kernel while the other acts."""

from __future__ import annotations

from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require, require_mapped, require_refusal
from harness.actor.handles import Mapping
from harness.guest.guest import PciFunction as Function
from harness.guest.hold import Hold
from harness.plugin.markers import machine, requirement
from harness.vm.ram_bar import RamBar
from suites.support.constants import FRONT, MIB
from suites.support.fixtures import Finding
from suites.support.race import (
    DATA,
    DONE,
    HELD,
    INSERT,
    INSERT_HUGE,
    LENGTH,
    MMAP,
    ZAP,
    Result,
    Sides,
    begin_held,
    meet,
    require_alive,
    require_dead,
    require_result,
    told,
)

pytestmark = machine(hold=True)

PAGES = [pytest.param(False, id="page"), pytest.param(True, id="huge page")]


def untouched(sides: Sides, huge: bool) -> Mapping:
    """Map the DMABUF in the client, which touches no page of it yet."""
    if not huge:
        return sides.client.map(sides.shared)
    with sides.huge() as control:
        control.touch()
        if control.page_table().mapped("pmd") != control.length:
            pytest.skip("this kernel maps a DMABUF by small pages only")
    return sides.huge()


# -- a first touch ---------------------------------------------------------------------


@requirement("RACE-01")
@pytest.mark.parametrize("huge", PAGES)
def test_a_first_touch_held_at_its_insertion_ends_with_the_revoke(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, huge: bool
) -> None:
    """A client that was about to insert a page when the owner revoked has no access afterwards."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="client", length=2 * MIB if huge else LENGTH)
    mapping = untouched(sides, huge)
    met = meet(
        hold,
        INSERT_HUGE if huge else INSERT,
        (sides.client, partial(mapping.load32, 0)),
        (sides.owner, sides.revoke),
    )
    finding(f"A revoke {met.outcome} while a client was about to insert a page.")
    require_result(met.first, DATA, "SIGBUS")
    require_result(met.second, DONE)
    require_dead(mapping, ram_witness)


@requirement("RACE-01")
@pytest.mark.parametrize("leaving", [False, True], ids=["before the zap", "after the zap"])
def test_a_first_touch_while_the_revoke_is_held_ends_with_it(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A client that touches a new page while the revoke is about to zap, or has, has no access afterwards."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    mapping = untouched(sides, huge=False)
    touch = partial(mapping.load32, 0)
    met = meet(hold, ZAP, (sides.owner, sides.revoke), (sides.client, touch), leaving=leaving)
    finding(f"A first touch {met.outcome} {'after' if leaving else 'before'} the zap of a revoke.")
    require_result(met.first, DONE)
    require_result(met.second, DATA, "SIGBUS")
    require_dead(mapping, ram_witness)


@requirement("RACE-01")
@pytest.mark.parametrize("huge", PAGES)
def test_a_first_touch_held_without_a_revoke_has_its_page(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, huge: bool
) -> None:
    """A client that was held at the insertion of a page, and was not revoked, has its pages."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="client", length=2 * MIB if huge else LENGTH)
    mapping = untouched(sides, huge)
    with hold.at(*(INSERT_HUGE if huge else INSERT), cpu=HELD) as held:
        touch = begin_held(held, sides.client, partial(mapping.load32, 0))
        require(not touch.ended(), "the client did not wait", expected="a load that is held", seen="its end")
    require_result(Result.of(touch), DATA)
    require_alive(mapping)
    require_mapped(mapping, "pmd" if huge else "pte")


# -- mmap() ----------------------------------------------------------------------------


@requirement("RACE-04")
@pytest.mark.parametrize("leaving", [False, True], ids=["unchecked", "checked"])
def test_a_mapping_made_during_a_revoke_is_dead(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A mapping whose mmap() was inside the kernel when the owner revoked has no access afterwards."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="client")
    before = sides.client.map(sides.shared)
    met = meet(
        hold,
        MMAP,
        (sides.client, partial(sides.client.map, sides.shared)),
        (sides.owner, sides.revoke),
        leaving=leaving,
    )
    finding(f"A revoke {met.outcome} during an mmap(), {told(met.first)}.")
    require_result(met.second, DONE)
    require_dead(before, ram_witness)
    if met.first.startswith("map"):
        require_dead(Mapping(sides.client, "map2", LENGTH), ram_witness)


@requirement("RACE-04")
@pytest.mark.parametrize("leaving", [False, True], ids=["before the zap", "after the zap"])
def test_an_mmap_while_the_revoke_is_held_is_dead(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """An mmap() while the revoke is about to zap, or has, gives no access afterwards."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    before = sides.client.map(sides.shared)
    mmap = partial(sides.client.map, sides.shared)
    met = meet(hold, ZAP, (sides.owner, sides.revoke), (sides.client, mmap), leaving=leaving)
    finding(f"An mmap() {met.outcome} {'after' if leaving else 'before'} the zap, {told(met.second)}.")
    require_result(met.first, DONE)
    require_dead(before, ram_witness)
    if met.second.startswith("map"):
        require_dead(Mapping(sides.client, "map2", LENGTH), ram_witness)
    require_refusal(lambda: sides.client.map(sides.shared))
