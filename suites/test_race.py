"""RACE: a revoke and a first touch of a page, of which one is held inside the kernel."""

from __future__ import annotations

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.actor.handles import Range
from harness.actor.reply import BUS_ADRERR, Sigbus
from harness.guest.guest import PciFunction as Function
from harness.guest.hold import Hold
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import MIB, RAM_BAR
from suites.support.fixtures import Finding
from suites.support.race import HELD, Sides, outcome_while_held, require_dead

pytestmark = machine(hold=True)

START = 4 * MIB
LENGTH = 4 * PAGE


@requirement("RACE-01")
def test_a_first_touch_held_at_its_insertion_does_not_outlive_a_revoke(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding
) -> None:
    """A client that is about to insert a page when the owner revokes has no access afterwards."""
    sides = Sides.of(c_owner, held="client")
    device = sides.owner.open(ram.address)
    buffer = sides.owner.export(device, RAM_BAR, [Range(START, LENGTH)])
    client_buffer = sides.share(buffer)
    mapping = sides.client.map(client_buffer)
    ram_witness.stamp()
    with hold.at("vmf_insert_pfn", cpu=HELD) as held:
        touch = Call.begin(sides.client, lambda: mapping.load32(0))
        held.arrive()
        revoke = Call.begin(sides.owner, lambda: sides.owner.revoke(buffer))
        outcome = outcome_while_held(held, revoke)
    touched = touch.result()
    revoke.result()
    finding(f"The revoke {outcome} while a page was about to be inserted; the load was {touched}.")
    assert touched in (f"{START // PAGE:#010x}", Sigbus(BUS_ADRERR, 0))
    require_dead(mapping, ram_witness, START)
