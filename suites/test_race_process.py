"""RACE: a revoke that is held inside the kernel while a client forks, unmaps or ends."""

from __future__ import annotations

import time
from functools import partial

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.guest.guest import PciFunction as Function
from harness.guest.hold import Hold
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, requirement
from harness.vm.ram_bar import RamBar
from suites.support.constants import FRONT
from suites.support.fixtures import Finding
from suites.support.race import (
    DATA,
    DONE,
    HELD,
    MOMENTS,
    PATIENCE,
    ZAP,
    Result,
    Sides,
    begin_held,
    meet,
    outcome_while_held,
    require_alive,
    require_dead,
    require_result,
)

pytestmark = machine(hold=True)


@requirement("RACE-09")
@MOMENTS
def test_a_child_born_during_a_revoke_is_dead_after_it(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A child that a client forks while the revoke is about to zap, or has, has no access afterwards."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    mapping = sides.client.map(sides.shared)
    require_alive(mapping)
    child = sides.client.child("child")
    touch = None
    with hold.at(*ZAP, cpu=HELD, leaving=leaving) as held:
        revoke = begin_held(held, sides.owner, sides.revoke)
        fork = Call.begin(sides.client, partial(sides.client.fork, child.name))
        outcome = outcome_while_held(held, fork)
        if outcome == "returned":
            require_result(Result.of(fork), DONE)
            touch = Call.begin(child, partial(child.adopt(mapping).load32, 0))
            looked = outcome_while_held(held, touch)
            finding(f"The touch of a forked child {looked} {'after' if leaving else 'before'} the zap.")
    finding(f"A fork() {outcome} {'after' if leaving else 'before'} the zap of a revoke.")
    require_result(Result.of(revoke), DONE)
    if touch is None:
        require_result(Result.of(fork), DONE)
    else:
        require_result(Result.of(touch), DATA, "SIGBUS")
    require_dead(mapping, ram_witness)
    require_dead(child.adopt(mapping), ram_witness)


@requirement("RACE-09")
@MOMENTS
def test_a_munmap_during_a_revoke_ends_with_it(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A client that unmaps while the revoke is about to zap, or has, loses its other mapping as well."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    mapping, other = sides.client.map(sides.shared), sides.client.map(sides.shared)
    require_alive(mapping)
    require_alive(other)
    met = meet(hold, ZAP, (sides.owner, sides.revoke), (sides.client, mapping.unmap), leaving=leaving)
    finding(f"A munmap() {met.outcome} {'after' if leaving else 'before'} the zap of a revoke.")
    require_result(met.first, DONE)
    require_result(met.second, DONE)
    require_dead(other, ram_witness)


@requirement("RACE-09")
@MOMENTS
def test_a_client_that_ends_during_a_revoke_leaves_nothing(
    c_owner: Actor, ram: Function, ram_witness: RamBar, hold: Hold, finding: Finding, leaving: bool
) -> None:
    """A client that is killed while the revoke is about to zap, or has, ends; others have no access."""
    ram_witness.stamp(length=FRONT)
    sides = Sides.of(c_owner, ram, held="owner")
    mapping = sides.client.map(sides.shared)
    require_alive(mapping)
    other = sides.client.fork("other")
    require_alive(other.adopt(mapping))
    with hold.at(*ZAP, cpu=HELD, leaving=leaving) as held:
        revoke = begin_held(held, sides.owner, sides.revoke)
        sides.client.signal(other, "kill")
        end = await_end(sides.client, other)
    finding(f"A client {end} {'after' if leaving else 'before'} the zap of a revoke.")
    require_result(Result.of(revoke), DONE)
    assert sides.client.reap(other) == "signal=9"
    require_dead(mapping, ram_witness)


def await_end(parent: Actor, child: Actor) -> str:
    """Wait until a child that was killed has ended, or sleeps on its way; tell which.

    Raises HarnessError if it does neither.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = parent.say("stack", child.name).removeprefix("state=")[:1]
        if state in "ZX":
            return "ended"
        if state == "D":
            return "was blocked in its end"
    raise HarnessError(f"The actor {child.name} was killed, and neither ended nor slept.")
