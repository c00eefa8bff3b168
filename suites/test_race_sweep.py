"""RACE: an operation that is held at each lock that it takes or releases, one after the other.

So every order of its steps and those of the other side is tried, whatever the code looks like.
"""

from __future__ import annotations

from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_no_page
from harness.actor.handles import Range
from harness.actor.reply import BUS_ADRERR, Sigbus
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.guest.hold import Hold
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import EDU_BAR, EDU_MAGIC, FRONT
from suites.support.fixtures import Finding
from suites.support.race import DATA, DONE, Sides, require_dead, require_result, with_memory
from suites.support.sweep import Sweep

pytestmark = machine(hold=True)

FAULT = "__do_fault"
LAST_CLOSE = "__fput"
REVOKES = {"ioctl": "dma_buf_ioctl"}  # the entry of the call that revokes, if it is not one of the device
IOCTL = "vfio_device_fops_unl_ioctl"
RELEASE = ("dma_buf_release", "dma_buf_file_release")
SPAN = [Range(0, PAGE)]


@requirement("RACE-01")
def test_a_revoke_at_any_lock_of_a_fault_ends_the_access(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding
) -> None:
    """A client whose first touch is held at any of its locks has no access after the revoke."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="client")
    sweep = Sweep(hold, FAULT)
    with sides.client.map(sides.shared) as mapping:
        sweep.scout(sides.client, partial(mapping.load32, 0))
    while not sweep.over():
        sides = sides.again()
        mapping = sides.client.map(sides.shared)
        touch = partial(mapping.load32, 0)
        met = sweep.meet((sides.client, touch), (sides.owner, sides.revoke))
        require_result(met.first, DATA, "SIGBUS")
        require_result(met.second, DONE)
        require_dead(mapping, ram_witness)
        mapping.unmap()
    finding(f"A revoke {sweep.told()}.")


@requirement("RACE-01")
def test_a_first_touch_at_any_lock_of_a_revoke_ends_with_it(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding
) -> None:
    """A client that touches a new page while a revoke is at any of its locks has no access afterwards."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    sweep = Sweep(hold, REVOKES.get(c_owner.revoke_via or "", IOCTL))
    with sides.client.map(sides.shared):
        sweep.scout(sides.owner, sides.revoke)
    while not sweep.over():
        sides = sides.again()
        mapping = sides.client.map(sides.shared)
        met = sweep.meet((sides.owner, sides.revoke), (sides.client, partial(mapping.load32, 0)))
        require_result(met.first, DONE)
        require_result(met.second, DATA, "SIGBUS")
        require_dead(mapping, ram_witness)
        mapping.unmap()
    finding(f"A first touch {sweep.told()}.")


@requirement("RACE-02")
def test_of_two_revokes_at_any_lock_one_is_ebadfd(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding
) -> None:
    """Of a revoke that is held at any of its locks, and one by another process, one is 0, one EBADFD."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    lent = sides.lend()
    sweep = Sweep(hold, REVOKES.get(c_owner.revoke_via or "", IOCTL))
    with sides.client.map(sides.shared):
        sweep.scout(sides.owner, sides.revoke)
    while not sweep.over():
        sides = sides.again()
        mapping = sides.client.map(sides.shared)
        other = partial(sides.client.revoke, sides.shared, device=lent)
        met = sweep.meet((sides.owner, sides.revoke), (sides.client, other))
        results = sorted(one or "success" for one in (met.first, met.second))
        assert results == ["EBADFD", "success"], "of two revokes at once not one alone succeeded"
        require_dead(mapping, ram_witness)
        mapping.unmap()
    finding(f"A second revoke {sweep.told()}.")


@requirement("RACE-03", "LIFE-14")
def test_a_close_at_any_lock_of_a_fault_ends_the_access(
    c_owner: Actor, registers: Function, guest: Guest, hold: Hold, finding: Finding
) -> None:
    """A first touch held at any of its locks is data or SIGBUS when the device is closed and unbound."""
    sides = Sides.of(c_owner, registers, held="client", length=PAGE, bar=EDU_BAR, start=0)
    sweep = Sweep(hold, FAULT)
    with sides.client.map(sides.shared) as mapping:
        sweep.scout(sides.client, partial(mapping.load32, 0))
    device = sides.device
    while not sweep.over():
        buffer = sides.owner.export(device, EDU_BAR, SPAN)
        mapping = sides.client.map(sides.share(buffer))
        met = sweep.meet(
            (sides.client, partial(mapping.load32, 0)),
            (sides.owner, device.close),
            partial(sides.owner.unbind, registers.address),
        )
        require_result(met.first, f"{EDU_MAGIC:#010x}", "SIGBUS")
        require_result(met.second, DONE)
        require_no_page(mapping)
        assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)
        mapping.unmap()
        guest.rebind(registers)
        device = sides.owner.open(registers.address)
    finding(f"A close and unbind {sweep.told()}.")


@requirement("RACE-08")
@pytest.mark.parametrize("event", ["reset", "memory off", "close"])
def test_a_last_close_at_any_lock_meets_the_owner(
    c_owner: Actor, registers: Function, hold: Hold, finding: Finding, event: str
) -> None:
    """A DMABUF whose last descriptor is being closed when the owner acts leaves nothing behind."""
    sides = Sides.of(c_owner, registers, held="client", length=PAGE, bar=EDU_BAR, start=0)
    sweep = Sweep(hold, LAST_CLOSE, RELEASE)
    device = sides.device
    sides.buffer.close()
    sweep.scout(sides.client, sides.shared.close)
    while not sweep.over():
        with sides.owner.export(device, EDU_BAR, SPAN) as buffer:
            shared = sides.share(buffer)
        act = {"reset": device.reset, "memory off": with_memory(device, False), "close": device.close}[event]
        met = sweep.meet((sides.client, shared.close), (sides.owner, act))
        require_result(met.first, DONE)
        require_result(met.second, DONE)
        if event == "close":
            device = sides.owner.open(registers.address)
        elif event == "memory off":
            device.decode_memory(True)
        with sides.owner.export(device, EDU_BAR, SPAN) as buffer, sides.owner.map(buffer) as mapping:
            assert mapping.load32(0) == EDU_MAGIC
    finding(f"The owner's {event} {sweep.told()}.")
