"""RACE: a change of the device's state, of which one side is held inside the kernel while the other acts."""

from __future__ import annotations

from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_gone
from harness.actor.handles import Buffer, Range
from harness.actor.importer import Counts
from harness.actor.reply import Refused, outcome
from harness.guest.guest import PciFunction as Function
from harness.guest.hold import Hold
from harness.plugin.markers import machine, requirement
from harness.vm.ram_bar import RamBar
from suites.support.constants import FRONT, RAM_BAR
from suites.support.fixtures import Finding, Importers
from suites.support.race import (
    DATA,
    DONE,
    LENGTH,
    MOMENTS,
    RESET,
    RESTORE,
    START,
    ZAP,
    Sides,
    meet,
    require_alive,
    require_dead,
    require_result,
    told,
    with_memory,
)

pytestmark = machine(hold=True)

SPAN = [Range(START, LENGTH)]
SECOND = "buf2"  # the name of an actor's second DMABUF


# -- an access during a reset, or during memory off ------------------------------------


@requirement("RACE-05")
@pytest.mark.parametrize("touched", [False, True], ids=["untouched", "touched"])
def test_no_access_reaches_a_device_that_is_reset_and_not_restored(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, touched: bool
) -> None:
    """A load while a reset device is not restored waits or is SIGBUS; afterwards it shows the data."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    views = {
        "DMABUF": sides.client.map(sides.shared),
        "device-fd": sides.client.map(sides.lend(), LENGTH, START, bar=RAM_BAR),
    }
    for name, view in views.items():
        if touched:
            require_alive(view)
        load = partial(view.load32, 0)
        met = meet(hold, RESTORE, (sides.owner, sides.device.reset), (sides.client, load))
        finding(f"A load from {'a touched' if touched else 'an untouched'} {name} mapping {met.outcome}.")
        require_result(met.first, DONE)
        require_result(met.second, DATA, "SIGBUS")
        if met.outcome == "returned":
            require_result(met.second, "SIGBUS")
        require_alive(view)


@requirement("RACE-05")
@MOMENTS
def test_an_access_during_memory_off_leaves_no_page_behind(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A client that touches a page while memory is being turned off has no access until it is on again."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    mapping = sides.client.map(sides.shared)
    off, on = (with_memory(sides.device, state) for state in (False, True))
    touch = partial(mapping.load32, 0)
    met = meet(hold, ZAP, (sides.owner, off), (sides.client, touch), leaving=leaving)
    finding(f"A first touch {met.outcome} {'after' if leaving else 'before'} the zap by memory off.")
    require_result(met.first, DONE)
    if met.outcome == "returned":
        require_result(met.second, DATA, "SIGBUS")
    else:
        require_result(met.second, "SIGBUS")
    require_dead(mapping, ram_witness)
    on()
    require_alive(mapping)


@requirement("IMP-04", "CONTRACT-05")
def test_an_importer_is_told_before_a_reset_begins(
    c_owner: Actor, ram: Function, hold: Hold, importers: Importers
) -> None:
    """An importer has been told, and has let go, when the reset of the device is about to begin."""
    sides = Sides.of(c_owner, ram, held="owner")
    one = importers(sides.client)
    one.attach(sides.shared, device=ram.address, exporter=ram.address)
    one.map()
    met = meet(hold, RESET, (sides.owner, sides.device.reset), (sides.client, one.counts))
    require_result(met.first, DONE)
    counts = Counts.parse(met.second)
    seen = {"told": counts.events["notified"], "has the addresses": counts.mapped}
    expected = {"told": 1, "has the addresses": False}
    assert seen == expected, "the reset was about to begin before the importer had let go"


# -- a reset and a revoke --------------------------------------------------------------


@requirement("RACE-06", "REV-05")
def test_a_revoke_during_a_reset_is_permanent(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding
) -> None:
    """A DMABUF that another process revokes while the device is about to be reset stays revoked."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    lent, mapping = sides.lend(), sides.client.map(sides.shared)
    require_alive(mapping)
    revoke = partial(sides.client.revoke, sides.shared, device=lent)
    met = meet(hold, RESET, (sides.owner, sides.device.reset), (sides.client, revoke))
    finding(f"A revoke {met.outcome} while a reset was about to begin.")
    require_result(met.first, DONE)
    require_result(met.second, DONE)
    require_dead(mapping, ram_witness)
    sides.device.decode_memory(False)
    sides.device.decode_memory(True)
    require_dead(mapping, ram_witness)
    assert outcome(sides.revoke) == "EBADFD"


@requirement("RACE-06", "REV-05")
@MOMENTS
def test_a_reset_during_a_revoke_gives_nothing_back(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A reset by another process while a revoke is about to zap, or has, leaves the DMABUF revoked."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    lent, mapping = sides.lend(), sides.client.map(sides.shared)
    require_alive(mapping)
    met = meet(hold, ZAP, (sides.owner, sides.revoke), (sides.client, lent.reset), leaving=leaving)
    finding(f"A reset {met.outcome} {'after' if leaving else 'before'} the zap of a revoke.")
    require_result(met.first, DONE)
    require_result(met.second, DONE)
    require_dead(mapping, ram_witness)
    assert outcome(sides.revoke) == "EBADFD"


# -- an export and a change of state ---------------------------------------------------


@requirement("RACE-07")
@pytest.mark.parametrize("at", ["dma_buf_export", "dma_buf_fd"])
@pytest.mark.parametrize("event", ["memory off", "low power", "reset"])
def test_an_export_during_a_change_of_state_has_the_right_state(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, at: str, event: str
) -> None:
    """A DMABUF that is being exported while the device is disabled has no access until it is enabled."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    lent = sides.lend()
    on = with_memory(lent, True)
    disable, enable = {
        "memory off": (with_memory(lent, False), on),
        "low power": (lent.enter_low_power, lent.exit_low_power),
        "reset": (lent.reset, on),
    }[event]
    export = partial(sides.owner.export, sides.device, RAM_BAR, SPAN)
    met = meet(hold, (at,), (sides.owner, export), (sides.client, disable))
    finding(f"{event.capitalize()} {met.outcome} during an export at {at}, {told(met.first)}.")
    require_result(met.second, DONE)
    assert met.first.split()[:1] == [SECOND], "the export was refused"
    exported = Buffer(sides.owner, SECOND, LENGTH, sides.device)
    if event != "reset":
        require_suspended(sides.owner, exported)
    enable()
    require_alive(sides.owner.map(exported))


@requirement("RACE-07")
@pytest.mark.parametrize("at", ["dma_buf_export", "dma_buf_fd"])
@pytest.mark.parametrize("event", ["memory on", "low power exit"])
def test_an_export_during_the_end_of_a_suspension_is_accessible(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, at: str, event: str
) -> None:
    """A DMABUF that is being exported while the device is enabled is accessible, and suspended with it."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    lent = sides.lend()
    disable, enable = {
        "memory on": (with_memory(lent, False), with_memory(lent, True)),
        "low power exit": (lent.enter_low_power, lent.exit_low_power),
    }[event]
    disable()
    export = partial(sides.owner.export, sides.device, RAM_BAR, SPAN)
    met = meet(hold, (at,), (sides.owner, export), (sides.client, enable))
    finding(f"{event.capitalize()} {met.outcome} during an export at {at}, {told(met.first)}.")
    require_result(met.second, DONE)
    assert met.first.split()[:1] == [SECOND], "the export was refused"
    exported = Buffer(sides.owner, SECOND, LENGTH, sides.device)
    mapping = sides.owner.map(exported)
    require_alive(mapping)
    disable()
    require_gone(mapping)


def require_suspended(owner: Actor, buffer: Buffer) -> None:
    """Raise Mismatch unless a DMABUF cannot be mapped, or its mapping is SIGBUS."""
    try:
        mapping = owner.map(buffer)
    except Refused:
        return
    require_gone(mapping)
