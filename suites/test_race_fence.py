"""RACE: one party is held in the middle of its call while others act.

An importer that stalls in its callback holds the owner where it has been told that the
DMABUF goes away: memory_lock is held for write, and the device is not reset yet.  So does
a fence of sw_sync, on kernels that wait for fences, which is a moment later.  A
userfaultfd holds a call that copies its argument.  Each scenario checks that the window
was open: the held call had not ended when the others had done what they could.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.actor.expect import require_pages
from harness.actor.handles import PCI_COMMAND, PCI_COMMAND_MEMORY, Buffer, Device, Mapping, Range
from harness.actor.ioctl import SET, VFIO_DEVICE_FEATURE, Abi, Argument, feature
from harness.actor.late_page import HELD_IN, LatePage
from harness.actor.reply import BUS_ADRERR, Fault, Sigbus, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.guest.health import TAINT_SOFT_LOCKUP
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, needs_option, on_dialect, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.cases import FEATURE_SIZE, IOCTL_SIZE
from suites.support.constants import FRONT, RAM_BAR, VFIO_DEVICE_PCI_DMABUF_REVOKE
from suites.support.fixtures import Finding, Importers
from suites.support.in_flight import Fence, Holder, Party, Stall, require_killed, waits_or_answers

REVOKING = ("feature", "device-ioctl", "ioctl")
PAGES = 2
SPAN = [Range(0, PAGES * PAGE)]
SHOWN = list(range(PAGES))
GONE = [Sigbus(BUS_ADRERR, page * PAGE) for page in range(PAGES)]
ROUNDS = 10  # of three processes at once

pytestmark = [needs_option("STACKTRACE"), machine(parallel=True)]


@pytest.fixture
def party(c_owner: Actor, ram: Function, ram_witness: RamBar) -> Party:
    """The owner of a device, and a client with a DMABUF of two pages that show their numbers."""
    ram_witness.stamp(length=FRONT)
    return Party.of(c_owner, ram, SPAN)


@pytest.fixture(
    params=[
        "importer",
        pytest.param("fence", marks=[needs_option("SW_SYNC"), machine(taints=[TAINT_SOFT_LOCKUP])]),
    ]
)
def holder(request: pytest.FixtureRequest, party: Party) -> Holder:
    """What holds the party's owner when it takes the DMABUF away."""
    if request.param == "fence":
        return Fence.of(party)
    importers: Importers = request.getfixturevalue("importers")
    return Stall.of(party, importers(party.guard))


def with_memory(device: Device, on: bool) -> Callable[[], None]:
    """Return the one write that turns memory on or off."""
    command = device.read("config", PCI_COMMAND, 2) & ~PCI_COMMAND_MEMORY
    return lambda: device.write("config", PCI_COMMAND, 2, command | (PCI_COMMAND_MEMORY if on else 0))


# -- the owner held while it takes the DMABUF away -------------------------------------


@requirement("RACE-02")
@on_dialect(*REVOKING)
def test_of_two_revokes_at_once_one_is_ebadfd(party: Party, holder: Holder) -> None:
    """A revoke that another process begins inside a revoke of the same DMABUF is EBADFD, the first is 0."""
    other = party.lend("other")
    theirs = party.guard.give(party.guard.take(party.buffer), other.actor)
    mapping = party.client.map(party.theirs)
    assert mapping.pages() == SHOWN
    first = holder.hold(party.owner, lambda: party.owner.revoke(party.buffer))
    second = Call.begin(other.actor, lambda: other.actor.revoke(theirs, device=other))
    early = waits_or_answers(second)
    holder.require_held(first)
    holder.release()
    outcomes = [first.outcome(), second.outcome() if early == "waits" else early]
    assert sorted(outcomes) == ["EBADFD", "success"]
    assert mapping.pages() == GONE


def during(
    party: Party, holder: Holder, attempt: Callable[[], object]
) -> tuple[dict[str, str], dict[str, str | Fault]]:
    """Hold ``attempt`` of the owner; have two clients load, one of a touched page, one of an untouched page.

    Returns what the loads gave while the owner was held, ``waits`` if nothing, and what
    they ended in.
    """
    calls: dict[str, Call] = {}
    mappings: dict[str, Mapping] = {}
    for name in ("touched", "untouched"):
        given = party.give(party.buffer, name)
        mappings[name] = given.actor.map(given)
    assert mappings["touched"].pages() == SHOWN
    held = holder.hold(party.owner, attempt)
    for name, mapping in mappings.items():
        calls[name] = Call.begin(mapping.actor, lambda mapping=mapping: mapping.load32(PAGE))  # type: ignore[misc]
    early = {name: "waits" if call.asleep() else "" for name, call in calls.items()}
    holder.require_held(held)
    holder.release()
    assert held.outcome() == "success"
    return early, {name: call.result() for name, call in calls.items()}


def described(early: dict[str, str], late: dict[str, str | Fault]) -> str:
    """Say of each load whether it waited, and what it gave."""
    return ", ".join(
        f"of {name} pages {'waits, then ' if early[name] else ''}"
        f"{'SIGBUS' if isinstance(late[name], Fault) else 'data'}"
        for name in late
    )


@requirement("RACE-05")
@on_dialect(*REVOKING, "map")
def test_loads_inside_a_reset_are_data_or_sigbus(party: Party, holder: Holder, finding: Finding) -> None:
    """A load while the owner is inside a reset is the old content or SIGBUS; afterwards all is accessible."""
    mapping = party.client.map(party.theirs)
    early, late = during(party, holder, party.device.reset)
    finding(f"Loads while the owner's reset is held: {described(early, late)}.")
    gone = Sigbus(BUS_ADRERR, PAGE)
    assert set(late.values()) <= {"0x00000001", gone}, "a load inside the reset gave neither data nor SIGBUS"
    require_pages(SHOWN, mapping, party.client.map(party.theirs))


@requirement("RACE-05")
@on_dialect(*REVOKING, "map")
def test_loads_inside_memory_off_are_data_or_sigbus(party: Party, holder: Holder, finding: Finding) -> None:
    """A load while the owner turns memory off ends as before or as after it; once on, all is accessible."""
    mapping = party.client.map(party.theirs)
    early, late = during(party, holder, with_memory(party.device, on=False))
    finding(f"Loads while memory off is held: {described(early, late)}.")
    for name, state in early.items():
        expected = {Sigbus(BUS_ADRERR, PAGE)} | (set() if state == "waits" else {"0x00000001"})
        assert late[name] in expected, f"a load of {name} pages while memory is turned off went wrong"
    assert mapping.pages() == GONE
    with_memory(party.device, on=True)()
    require_pages(SHOWN, mapping, party.client.map(party.theirs))


def require_revoked(party: Party, mapping: Mapping) -> None:
    """Raise Mismatch unless the DMABUF is revoked for good, also after a reset, memory off and on."""
    for event in (
        party.device.reset,
        with_memory(party.device, on=False),
        with_memory(party.device, on=True),
    ):
        assert mapping.pages() == GONE
        event()
    assert mapping.pages() == GONE
    assert outcome(lambda: party.client.map(party.theirs)) == "ENODEV"


@requirement("RACE-06")
@on_dialect(*REVOKING)
@pytest.mark.parametrize("held_one", ["reset", "revoke"])
def test_a_revoke_and_a_reset_at_once_end_revoked(party: Party, holder: Holder, held_one: str) -> None:
    """A reset inside a revoke, and a revoke inside a reset, both succeed and leave the DMABUF revoked."""
    other = party.lend("other")
    theirs = party.guard.give(party.guard.take(party.buffer), other.actor)
    mapping = party.client.map(party.theirs)
    assert mapping.pages() == SHOWN
    attempts: dict[str, tuple[Actor, Callable[[], None]]] = {
        "reset": (party.owner, party.device.reset),
        "revoke": (party.owner, lambda: party.owner.revoke(party.buffer)),
    }
    answers: dict[str, Callable[[], None]] = {
        "reset": lambda: other.actor.revoke(theirs, device=other),
        "revoke": other.reset,
    }
    first = holder.hold(*attempts[held_one])
    second = Call.begin(other.actor, answers[held_one])
    early = waits_or_answers(second)
    holder.require_held(first)
    holder.release()
    assert first.outcome() == "success"
    assert (second.outcome() if early == "waits" else early) == "success"
    require_revoked(party, mapping)


# -- a revoker held while it copies its argument ---------------------------------------


def begin_late_revoke(guard: Actor, device: Device, buffer: Buffer) -> tuple[Call, LatePage]:
    """Begin a revoke that is held while the kernel copies the descriptor of the DMABUF."""
    page = LatePage.of(guard, device.actor)
    if device.actor.revoke_via == "device-ioctl":
        request, present = VFIO_DEVICE_PCI_DMABUF_REVOKE, IOCTL_SIZE - 4
        argument = Argument([struct.pack("=I", IOCTL_SIZE), buffer])
    else:
        request, present = VFIO_DEVICE_FEATURE, FEATURE_SIZE - 4
        number = Abi.of(device.actor).revoke
        if number is None:
            raise HarnessError("The headers of this kernel do not define the feature that revokes.")
        argument = feature(SET | number, buffer)
    call = Call.begin(device.actor, lambda: page.call(device, request, argument, present))
    return call, page


def require_in_window(call: Call) -> None:
    """Raise HarnessError unless the call is held by the userfaultfd."""
    if call.held_in(HELD_IN) is None:
        raise HarnessError(f"The operation `{call.line}` ended before it was to get its argument.")


@requirement("RACE-13")
@on_dialect("feature", "device-ioctl")
@pytest.mark.parametrize("revoked_meanwhile", [False, True])
def test_a_held_revoke_outlives_the_close_of_all_others(
    party: Party, ram: Function, guest: Guest, revoked_meanwhile: bool
) -> None:
    """A revoke that is held while all others close the device is 0, or EBADFD if one of them has revoked."""
    mapping = party.client.map(party.theirs)
    assert mapping.pages() == SHOWN
    second, third = party.lend("second"), party.lend("third")
    given = [party.guard.give(party.guard.take(party.buffer), one.actor) for one in (second, third)]
    call, page = begin_late_revoke(party.guard, second, given[0])
    require_in_window(call)
    if revoked_meanwhile:
        third.actor.revoke(given[1], device=third)
    third.close()
    party.device.close()
    require_in_window(call)
    assert mapping.pages() == (GONE if revoked_meanwhile else SHOWN)
    page.release()
    assert call.outcome() == ("EBADFD" if revoked_meanwhile else "success")
    assert mapping.pages() == GONE
    assert outcome(lambda: second.actor.revoke(given[0], device=second)) == "EBADFD"
    second.close()
    guest.unbind(ram)


@requirement("RACE-13")
@on_dialect("feature", "device-ioctl")
def test_a_held_revoker_may_be_killed_after_the_close(party: Party, ram: Function, guest: Guest) -> None:
    """A revoker that is killed in the middle of its call, as the last user of the device, ends all access."""
    mapping = party.client.map(party.theirs)
    assert mapping.pages() == SHOWN
    second = party.lend("second")
    given = party.guard.give(party.guard.take(party.buffer), second.actor)
    call, _ = begin_late_revoke(party.guard, second, given)
    require_in_window(call)
    party.device.close()
    require_in_window(call)
    assert mapping.pages() == SHOWN
    party.guard.signal(second.actor, "kill")
    require_killed(call)
    assert mapping.pages() == GONE
    guest.unbind(ram)


@requirement("RACE-13")
@on_dialect(*REVOKING)
def test_two_revokes_and_a_close_at_once(c_owner: Actor, ram: Function) -> None:
    """Of two processes that revoke while a third closes the device one gets 0, the other EBADFD."""
    second, third = c_owner.spawn("second"), c_owner.spawn("third")
    for _ in range(ROUNDS):
        device = c_owner.open(ram.address)
        buffer = c_owner.export(device, RAM_BAR, SPAN)
        lent = [(c_owner.lend(device, actor), c_owner.give(buffer, actor)) for actor in (second, third)]
        calls = [
            Call.begin(one.actor, lambda one=one, theirs=theirs: one.actor.revoke(theirs, device=one))  # type: ignore[misc]
            for one, theirs in lent
        ]
        device.close()
        assert sorted(call.outcome() for call in calls) == ["EBADFD", "success"]
        for one, theirs in lent:
            one.close()
            theirs.close()
        buffer.close()
