"""IMP, CONTRACT, STATE: how importers are told that a DMABUF is taken away, and what they can do then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Range
from harness.actor.importer import Event
from harness.actor.reply import outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from suites.support.constants import D0, D3HOT, RAM_BAR, VIRTIO_BAR
from suites.support.fixtures import Finding, Importers
from suites.support.importing import GIVE_BACK, SPAN, TAKE_AWAY, Shared, require_let_go, require_told, ways

IMPORTERS = 3
ENODEV = 19
WRITE_LOCKS = ("&vdev->memory_lock:w", "reservation_ww_class_mutex:w")  # of the caller, as lockdep names them


def require_careful(event: Event) -> None:
    """Raise Mismatch unless a callback came in the way that importers may rely on."""
    held = {"reservation lock": event.reservation, "mmap_lock": event.mmap_lock}
    expected = {"reservation lock": True, "mmap_lock": False}
    assert held == expected, "importers are told under the wrong locks"
    assert event.power == D0, "the device is not in D0 when importers are told"
    if event.locks is not None:
        locks = set(event.locks)
        assert locks >= set(WRITE_LOCKS), "the caller of importers does not hold the locks for writing"


@requirement("IMP-09", "CONTRACT-05")
@pytest.mark.parametrize("way", ways(*TAKE_AWAY))
def test_each_importer_is_told_once_and_the_newest_first(
    c_owner: Actor, ram: Function, importers: Importers, way: str
) -> None:
    """A call that takes a DMABUF away tells each of its importers once, the newest first, under the lock."""
    shared = Shared.of(c_owner, ram)
    ours = [shared.mapped(importers(c_owner)) for _ in range(IMPORTERS)]
    for one in ours:
        require_told(one, 0)
    TAKE_AWAY[way](shared)
    told = [one.events("notified") for one in ours]
    # A reset also ends the suspension, which may be told: see the scenarios of STATE-17.
    allowed = ([1] * IMPORTERS, [2] * IMPORTERS) if way == "reset" else ([1] * IMPORTERS,)
    assert [len(events) for events in told] in allowed, "an importer was not told once"
    first = [events[0] for events in told]
    order = sorted(range(IMPORTERS), key=lambda number: first[number].sequence)
    assert order == list(range(IMPORTERS))[::-1], "the newest importer was not told first"
    for one, event in zip(ours, first, strict=True):
        require_careful(event)
        require_let_go(one)


@pytest.fixture
def sleeper(guest: Guest) -> Iterator[Function]:
    """A device that can sleep."""
    with guest.bind("rng") as device:
        yield device


@requirement("CONTRACT-05", "IMP-04")
@machine(power=True)
def test_importer_is_told_before_the_device_sleeps(
    sleeper: Function, c_owner: Actor, importers: Importers
) -> None:
    """An importer is told of D3hot once, while the device is in D0, and can map again when that ends."""
    device = c_owner.open(sleeper.address)
    shared = Shared(c_owner, device, c_owner.export(device, VIRTIO_BAR, [Range(0, PAGE)]))
    one = shared.mapped(importers(c_owner))
    device.power(D3HOT)
    (event,) = one.events("notified")
    require_careful(event)
    require_let_go(one)
    assert outcome(one.map) == "ENODEV"
    device.power(D0)
    one.map()


@requirement("STATE-17")
@pytest.mark.parametrize("way", [*GIVE_BACK, "reset"])
def test_importer_is_told_of_a_suspension_and_not_of_its_end(
    c_owner: Actor, ram: Function, importers: Importers, way: str
) -> None:
    """A suspension calls an importer's callback once when it begins, and not when it ends."""
    shared = Shared.of(c_owner, ram)
    one = shared.attached(importers(c_owner))
    TAKE_AWAY[way](shared)
    require_told(one, 1)
    if way in GIVE_BACK:
        GIVE_BACK[way](shared)
    require_told(one, 1)


@requirement("CONTRACT-06")
@pytest.mark.parametrize("way", GIVE_BACK)
def test_end_of_a_suspension_is_recorded(
    c_owner: Actor, ram: Function, importers: Importers, finding: Finding, way: str
) -> None:
    """The end of a suspension calls an importer's callback once, or not at all."""
    shared = Shared.of(c_owner, ram)
    one = shared.attached(importers(c_owner))
    one.plan(remap=True)
    TAKE_AWAY[way](shared)
    before = one.counts().events["notified"]
    GIVE_BACK[way](shared)
    maps = [event.errno for event in one.events("remapped")][before:]
    finding(f"The end of {way} calls an importer's callback {len(maps)} times; maps in it: {maps or 'none'}.")
    assert len(maps) <= 1, f"the importer was told more than once of the end of {way}"


@requirement("CONTRACT-07")
@pytest.mark.parametrize("way", ways(*TAKE_AWAY))
def test_map_in_the_callback_is_refused(
    c_owner: Actor, ram: Function, importers: Importers, way: str
) -> None:
    """An importer that tries to map in its callback gets ENODEV: the DMABUF is closed before it is told."""
    shared = Shared.of(c_owner, ram)
    one = shared.mapped(importers(c_owner))
    one.plan(remap=True)
    TAKE_AWAY[way](shared)
    assert [event.errno for event in one.events("remapped")[:1]] == [ENODEV]


@requirement("IMP-06", "CONTRACT-08")
@pytest.mark.parametrize("way", [*GIVE_BACK, "reset"])
def test_importer_maps_again_after_a_suspension(
    c_owner: Actor, ram: Function, importers: Importers, way: str
) -> None:
    """After a suspension an importer can map again, new ones can attach, and the addresses are the same."""
    shared = Shared.of(c_owner, ram)
    one = shared.mapped(importers(c_owner))
    entries = one.entries()
    TAKE_AWAY[way](shared)
    require_let_go(one)
    if way in GIVE_BACK:
        assert outcome(one.map) == "ENODEV"
        GIVE_BACK[way](shared)
    one.map()
    assert one.entries() == entries
    assert shared.mapped(importers(c_owner)).entries() == entries


@requirement("IMP-16")
def test_importers_of_other_buffers_are_not_told(c_owner: Actor, ram: Function, importers: Importers) -> None:
    """A revoke tells no importer of another DMABUF, also not one over the same bytes."""
    shared = Shared.of(c_owner, ram)
    other = c_owner.export(shared.device, RAM_BAR, SPAN)
    ours, theirs = shared.mapped(importers(c_owner)), shared.mapped(importers(c_owner), other)
    entries = theirs.entries()
    c_owner.revoke(shared.buffer)
    require_told(ours, 1)
    require_told(theirs, 0)
    assert theirs.entries() == entries
    theirs.unmap()
    theirs.map()


@requirement("REV-14")
def test_second_revoke_tells_nobody(c_owner: Actor, ram: Function, importers: Importers) -> None:
    """A second revoke is EBADFD and tells no importer once more, nor do a suspension and the close."""
    shared = Shared.of(c_owner, ram)
    one = shared.mapped(importers(c_owner))
    c_owner.revoke(shared.buffer)
    assert outcome(lambda: c_owner.revoke(shared.buffer)) == "EBADFD"
    shared.device.decode_memory(False)
    shared.device.decode_memory(True)
    shared.device.close()
    require_told(one, 1)
