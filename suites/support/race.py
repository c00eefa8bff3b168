"""Races decided on purpose: one side is held inside the kernel while the other acts.

The two sides are children of a third actor, the director.  It runs on processor 0 with
the rest of the guest; each side has a processor of its own, of which one is held.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.actor.handles import Buffer, Mapping
from harness.actor.reply import BUS_ADRERR, Sigbus
from harness.guest.hold import Held
from harness.lib.errors import HarnessError
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar

SYSTEM, HELD, OTHER = 0, 1, 2  # the processors of @machine(hold=True)
PATIENCE = 4.0  # seconds for the other side to return or to be seen to wait
# The other side waits for what the held side has if it sleeps at one place for so many looks, or if its
# processor spins on the owner of a lock.
LOOKS = 4
SLEEPS = ("msleep", "usleep", "schedule_timeout", "hrtimer")  # these wait for time, not for the held side
SPINS = ("spin", "osq_lock")


@dataclass(frozen=True)
class Sides:
    """Two processes that race, the ``owner`` of a device and a ``client``, and their ``director``."""

    director: Actor
    owner: Actor
    client: Actor

    @classmethod
    def of(cls, director: Actor, held: str) -> Sides:
        """Make both sides, of which ``held`` (``owner`` or ``client``) is the one to be held."""
        director.confine(SYSTEM)
        owner, client = director.spawn("owner"), director.spawn("client")
        owner.pin(HELD if held == "owner" else OTHER)
        client.pin(HELD if held == "client" else OTHER)
        return cls(director, owner, client)

    def share(self, buffer: Buffer) -> Buffer:
        """Give the owner's DMABUF to the client, too; return the client's handle."""
        with self.director.take(buffer) as passed:
            return self.director.give(passed, self.client)


def outcome_while_held(held: Held, other: Call) -> str:
    """Return how the other side fares while one is held: it ``returned``, or it is ``blocked``.

    Raises HarnessError if it does neither: then it is not known to have been inside.
    """
    last: tuple[str, ...] = ()
    same = 0
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if other.ended():
            return "returned"
        place = other.place()
        if place.state == "R":
            functions: tuple[str, ...] = (held.sample(OTHER),)
            waits = any(word in functions[0] for word in SPINS)
        else:
            functions = place.functions
            waits = place.state == "D" and not any(one.startswith(SLEEPS) for one in functions[:3])
        same = same + 1 if waits and functions == last else 0
        last = functions
        if same >= LOOKS:
            return "blocked"
    raise HarnessError(
        f"The other side neither returned nor waited for the one held at {held.function}: it was last seen "
        f"in {' < '.join(last) or 'user space'}. So nothing shows that both were inside at once."
    )


def require_dead(mapping: Mapping, witness: RamBar, offset: int) -> None:
    """Raise AssertionError unless a mapping of the RAM BAR from ``offset`` on is without access.

    Every load is SIGBUS, its page table is empty, and a store does not reach the host's bytes.
    """
    spans = mapping.page_table()
    if not spans.is_empty():
        raise AssertionError(
            "Expected the page table to be empty after the revoke, but it has "
            f"{spans.mapped():#x} bytes of the mapping."
        )
    before = witness.words(offset, mapping.length)
    for at in range(0, mapping.length, PAGE):
        if (store := mapping.store32(at, 0xBAD)) != Sigbus(BUS_ADRERR, at):
            raise AssertionError(
                f"Expected a store at {at:#x} to be SIGBUS after the revoke, but it is {store}."
            )
    gone = [Sigbus(BUS_ADRERR, at) for at in range(0, mapping.length, PAGE)]
    if (pages := mapping.pages()) != gone:
        raise AssertionError(f"Expected every load to be SIGBUS after the revoke, but they are {pages}.")
    if witness.words(offset, mapping.length) != before:
        raise AssertionError("Expected no store to arrive after the revoke, but the host sees one.")
