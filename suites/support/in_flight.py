"""Owners and clients of a device, and where the kernel holds them while another of them acts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from harness.actor.actor import Actor
from harness.actor.call import Call, Place
from harness.actor.handles import Buffer, Device, Range
from harness.actor.importer import NEVER, Importer
from harness.actor.mismatch import Mismatch
from harness.actor.reply import ActorDiedError
from harness.actor.timeline import Timeline, is_ready
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from suites.support.constants import RAM_BAR
from suites.support.passing import pass_buffer, pass_device

# A kernel that waits for the fences of a DMABUF: drivers/dma-buf/dma-resv.c, dma-fence.c.
FENCE_WAIT = ("dma_resv_wait_timeout", "dma_fence_default_wait")


@dataclass(frozen=True)
class Party:
    """An owner of a device and its DMABUF, and a client that has no more than the DMABUF.

    ``guard`` is their parent.  It takes no part, so it can always be asked.
    """

    guard: Actor
    owner: Actor
    client: Actor
    device: Device
    buffer: Buffer
    theirs: Buffer

    @classmethod
    def of(cls, guard: Actor, ram: Function, span: list[Range], via: str = "group") -> Party:
        """Have the owner open the device, export ``span`` of its RAM BAR and give it to the client."""
        owner, client = guard.spawn("owner"), guard.spawn("client")
        device = owner.open(ram.address, via)
        buffer = owner.export(device, RAM_BAR, span)
        return cls(guard, owner, client, device, buffer, pass_buffer(guard, buffer, client))

    def give(self, buffer: Buffer, name: str) -> Buffer:
        """Give a DMABUF of the owner to a new client of this ``name``."""
        return pass_buffer(self.guard, buffer, self.guard.spawn(name))

    def lend(self, name: str) -> Device:
        """Give the owner's device descriptor to a new process of this ``name``."""
        return pass_device(self.guard, self.device, self.guard.spawn(name))


@dataclass(frozen=True)
class Fence:
    """A fence that the client has added to its DMABUF.

    The guard has the timeline as well: its end, or that of the scenario, signals the fence,
    whatever becomes of the client.
    """

    timeline: Timeline
    lifeline: Timeline

    @classmethod
    def of(cls, party: Party, usage: str = "write") -> Fence:
        """Make the fence."""
        timeline = Timeline.of(party.client)
        lifeline = Timeline(party.guard, party.guard.fetch(party.client, timeline.name))
        if not is_ready(party.theirs):
            raise HarnessError("A new DMABUF has fences that are not signalled.")
        timeline.attach(party.theirs, usage)
        if is_ready(party.theirs):
            raise HarnessError("The client's fence is signalled from the start, so nobody waits for it.")
        return cls(timeline, lifeline)

    def held(self, call: Call) -> Place | None:
        """Wait until the kernel waits for the fence in ``call``; None if the call ends without."""
        return call.held_in(*FENCE_WAIT)

    def hold(self, actor: Actor, attempt: Callable[[], object]) -> Call:
        """Begin an operation, and wait until the kernel waits for the fence in it.

        Skips the scenario on a kernel that waits for no fence.
        """
        call = Call.begin(actor, attempt)
        if self.held(call) is None:
            call.result()
            pytest.skip("this kernel does not wait for the fences of a DMABUF, so none holds the owner")
        return call

    def require_held(self, call: Call) -> None:
        """Raise HarnessError unless the kernel still waits for the fence in ``call``: the window is open."""
        if self.held(call) is None:
            raise HarnessError(f"The operation `{call.line}` has ended before its fence was signalled.")

    def release(self) -> None:
        """Signal the fence."""
        self.lifeline.advance()


@dataclass(frozen=True)
class Stall:
    """An importer of the guard's that stalls in its callback, and so holds whoever takes the DMABUF away."""

    importer: Importer

    @classmethod
    def of(cls, party: Party, importer: Importer) -> Stall:
        """Attach to the party's DMABUF."""
        buffer = party.guard.take(party.buffer)
        importer.attach(buffer, device=party.device.address)
        importer.plan(stall=NEVER)
        return cls(importer)

    def hold(self, actor: Actor, attempt: Callable[[], object]) -> Call:
        """Begin an operation, and wait until the importer's callback holds it."""
        call = Call.begin(actor, attempt)
        self.importer.wait("stalled")
        return call

    def require_held(self, call: Call) -> None:
        """Raise HarnessError unless the callback still holds ``call``: the window is open."""
        if self.importer.counts().events["resumed"] or call.ended():
            raise HarnessError(f"The operation `{call.line}` has left the importer's callback early.")

    def release(self) -> None:
        """Let the callback return; later ones do not stall."""
        self.importer.plan()
        self.importer.release()


def require_killed(call: Call) -> None:
    """Raise Mismatch unless SIGKILL ends the actor of a call before the call returns."""
    try:
        result = call.outcome()
    except ActorDiedError as died:
        if "signal=9" in str(died):
            return
        raise
    raise Mismatch(
        "SIGKILL did not end the process before its call returned",
        expected="the end of the process",
        seen=f"the end of the call: {result}",
    )


Holder = Fence | Stall


def waits_or_answers(call: Call) -> str:
    """Return what becomes of a call while another one is held: ``waits``, or its outcome."""
    return "waits" if call.asleep() else call.outcome()
