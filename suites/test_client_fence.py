"""IMP-15: a client's fence that is never signalled, and whom it keeps waiting.

The client adds the fence to its DMABUF (DMA_BUF_IOCTL_IMPORT_SYNC_FILE).  The guard, a
process that takes no part, can signal it too, so that no wait outlives its scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.actor.expect import require
from harness.actor.handles import PCI_COMMAND, PCI_COMMAND_MEMORY, Buffer, Device, Mapping, Range
from harness.actor.importer import NEVER
from harness.actor.mismatch import Mismatch
from harness.actor.reply import Refused
from harness.actor.timeline import is_ready
from harness.guest.guest import PciFunction as Function
from harness.guest.health import TAINT_SOFT_LOCKUP
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, needs_option, on_dialect, requirement
from harness.vm.hardware import PAGE
from suites.support.constants import RAM_BAR
from suites.support.fixtures import Finding, Importers
from suites.support.in_flight import Fence, Party, require_killed, waits_or_answers

pytestmark = [needs_option("SW_SYNC", "STACKTRACE"), machine(taints=[TAINT_SOFT_LOCKUP])]

SPAN = [Range(0, 2 * PAGE)]
OTHER_SPAN = [Range(8 * PAGE, 2 * PAGE)]


@pytest.fixture
def party(c_owner: Actor, ram: Function) -> Party:
    """The owner of a device, and a client with a DMABUF of two pages."""
    return Party.of(c_owner, ram, SPAN)


def memory_off(party: Party) -> Callable[[], None]:
    """Return the one write that turns memory off."""
    command = party.device.read("config", PCI_COMMAND, 2)
    return lambda: party.device.write("config", PCI_COMMAND, 2, command & ~PCI_COMMAND_MEMORY)


CALLS: dict[str, Callable[[Party], Callable[[], None]]] = {
    "revoke": lambda party: lambda: party.owner.revoke(party.buffer),
    "reset": lambda party: party.device.reset,
    "hot reset": lambda party: party.device.hot_reset,
    "memory off": memory_off,
    "low power": lambda party: party.device.enter_low_power,
    "close": lambda party: party.device.close,
}


def mapped(buffer: Buffer, touch: bool) -> Mapping | None:
    """Map a DMABUF, and touch its first page; None on a kernel that maps none."""
    try:
        mapping = buffer.actor.map(buffer)
    except Refused:
        return None
    if touch:
        mapping.load32(0)
    return mapping


class Others:
    """Users of the device beside the one whose call waits: what each of them can do meanwhile."""

    def __init__(self, party: Party, address: str, device_users: bool) -> None:
        self.attempts: dict[str, tuple[Actor, Callable[[], object]]] = {}
        other = party.owner.export(party.device, RAM_BAR, OTHER_SPAN)
        for name, buffer in (("the DMABUF", party.buffer), ("another DMABUF", other)):
            for touch, page in ((True, "a touched"), (False, "an untouched")):
                given = party.give(buffer, f"{page.split()[1]}{buffer.name}")
                if mapping := mapped(given, touch):
                    self._add(f"a load from {page} page of {name}", given.actor, self._load(mapping))
        opener = party.guard.spawn("opener")
        self._add("another open of the device", opener, lambda: opener.open(address, "node"))
        if device_users:
            for number, (what, attempt) in enumerate(DEVICE_USES.items()):
                device = party.lend(f"user{number}")
                self._add(what, device.actor, self._use(attempt, device))

    def _add(self, what: str, actor: Actor, attempt: Callable[[], object]) -> None:
        self.attempts[what] = (actor, attempt)

    @staticmethod
    def _load(mapping: Mapping) -> Callable[[], object]:
        return lambda: mapping.load32(0)

    @staticmethod
    def _use(attempt: Callable[[Device], object], device: Device) -> Callable[[], object]:
        return lambda: attempt(device)

    @contextmanager
    def tried(self) -> Iterator[dict[str, str]]:
        """Have each try, and yield what became of it; after the block all of them end."""
        calls = {what: Call.begin(actor, attempt) for what, (actor, attempt) in self.attempts.items()}
        seen = {what: waits_or_answers(call) for what, call in calls.items()}
        yield seen
        for what, call in calls.items():
            if seen[what] == "waits":
                call.outcome()


DEVICE_USES: dict[str, Callable[[Device], object]] = {
    "a read of configuration space": lambda device: device.read("config", PCI_COMMAND, 2),
    "a read of the BAR": lambda device: device.read(RAM_BAR, 0, 4),
    "a write of the command register": lambda device: device.write("config", PCI_COMMAND, 1, 3),
    "an export": lambda device: device.actor.export(device, RAM_BAR, SPAN),
}


def sentence(seen: dict[str, str]) -> str:
    """Say which of these waited, and what the others got."""
    waiting = ", ".join(what for what, result in seen.items() if result == "waits")
    going_on = ", ".join(f"{what} ({result})" for what, result in seen.items() if result != "waits")
    return f"meanwhile waiting: {waiting or 'nothing'}; answered: {going_on or 'nothing'}"


@requirement("IMP-15")
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(name, marks=on_dialect("feature", "device-ioctl", "ioctl")) if name == "revoke" else name
        for name in CALLS
    ],
)
def test_a_clients_fence_does_not_block_the_owner(
    party: Party, ram: Function, finding: Finding, call: str
) -> None:
    """The owner's call returns although a client's fence is never signalled; what waits is recorded."""
    others = Others(party, ram.address, device_users=call != "close")
    fence = Fence.of(party)
    begun = Call.begin(party.owner, CALLS[call](party))
    place = fence.held(begun)
    if place is None:
        assert begun.outcome() == "success"
        if is_ready(party.theirs):
            raise HarnessError("The client's fence was signalled meanwhile, so it could block nobody.")
        finding(f"{call}: returns although the client's fence is not signalled")
        return
    with others.tried() as seen:
        fence.require_held(begun)
        party.guard.signal(party.client, "kill")
        party.guard.reap(party.client)
        fence.require_held(begun)  # the guard has the timeline, too
        fence.lifeline.close()
        end = begun.outcome()
    finding(
        f"{call}: waits in {place.functions[0]}(), also when the client is killed, until nobody has the "
        f"timeline any more; {sentence(seen)}"
    )
    assert end == "success", f"the owner's {call} was refused once the fence was signalled"
    raise Mismatch(
        f"the owner's {call} waits for the client's fence without a timeout",
        expected="an end of the call although the fence is not signalled",
        seen=str(place),
    )


@requirement("IMP-15")
def test_an_owner_that_waits_for_a_fence_can_be_killed(party: Party, finding: Finding) -> None:
    """An owner whose reset waits for a client's fence ends by SIGKILL while the fence is not signalled."""
    fence = Fence.of(party)
    begun = fence.hold(party.owner, party.device.reset)
    party.guard.signal(party.owner, "kill")
    place = fence.held(begun)
    fence.release()
    require_killed(begun)
    if place is not None:
        finding("SIGKILL does not end an owner that waits for a fence; it ends when the fence is signalled")
    require(
        place is None,
        "the owner still waited after SIGKILL",
        expected="the end of the owner",
        seen=f"the owner {place}",
    )


@requirement("IMP-15")
def test_an_owner_that_waits_for_an_unmap_can_be_killed(
    party: Party, importers: Importers, finding: Finding
) -> None:
    """An owner whose reset waits for an importer that does not unmap ends by SIGKILL."""
    importer = importers(party.guard)
    importer.attach(party.guard.take(party.buffer), device=party.device.address)
    importer.map()
    importer.plan(unmap=NEVER)
    begun = Call.begin(party.owner, party.device.reset)
    importer.wait("notified")
    importer.plan()
    if begun.asleep() is None:
        assert begun.outcome() == "success"
        importer.release()
        pytest.skip("this kernel does not wait until importers have unmapped")
    party.guard.signal(party.owner, "kill")
    place = begun.asleep()
    importer.release()
    require_killed(begun)
    if place is not None:
        finding(
            "SIGKILL does not end an owner that waits for an unmap; it ends when the importer has unmapped"
        )
    require(
        place is None,
        "the owner still waited after SIGKILL",
        expected="the end of the owner",
        seen=f"the owner {place}",
    )


@requirement("IMP-15")
@on_dialect("feature", "device-ioctl", "ioctl", "map")
def test_a_client_behind_its_own_fence_can_be_killed(party: Party, finding: Finding) -> None:
    """A client that waits for the owner, which waits for the client's own fence, ends by SIGKILL."""
    fence = Fence.of(party)
    mapping = party.client.map(party.theirs)
    begun = fence.hold(party.owner, party.device.reset)
    load = Call.begin(party.client, lambda: mapping.load32(0))
    state = waits_or_answers(load)
    party.guard.signal(party.client, "kill")
    still = load.asleep() if state == "waits" else None
    fence.release()
    assert begun.outcome() == "success"
    if still is None:
        return
    require_killed(load)
    finding(
        "a client whose load waits behind its own fence is not ended by SIGKILL, so its end does not signal "
        "the fence: only another holder of the timeline can free client and owner"
    )
    raise Mismatch(
        "the client still waited after SIGKILL", expected="the end of the client", seen=f"the client {still}"
    )
