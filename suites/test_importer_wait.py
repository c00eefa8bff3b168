"""IMP, CONTRACT: calls that take a DMABUF away return after its importers have let go of it.

The verdict is the order of time stamps on one clock: that of the owner's return, and that
of the importer's unmap or signal, each taken before the call that the owner waits for.
"""

from __future__ import annotations

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_answers
from harness.actor.handles import Device
from harness.actor.importer import USAGES, Span, unload
from harness.actor.iommufd import AddressSpace
from harness.actor.mismatch import Mismatch
from harness.actor.reply import outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.guest.slabs import Slabs
from harness.plugin.markers import on_dialect, requirement
from harness.vm.ram_bar import RamBar
from suites.support.constants import IOVA
from suites.support.dma import Engine, Faults, HostWord, Path
from suites.support.fixtures import Finding, Importers
from suites.support.importing import (
    LATER,
    REVOKING,
    SPAN,
    TAKE_AWAY,
    Shared,
    attachments,
    require_after,
    require_during,
    require_let_go,
    require_told,
    ways,
)

CYCLES, WARM_UP = 1000, 100
AREAS = 100  # of iommufd, over one DMABUF
FENCES = [(usage, "memory off") for usage in USAGES]
FENCES += [("bookkeep", way) for way in ("reset", "close")]


@requirement("CONTRACT-09")
@pytest.mark.parametrize(
    ("usage", "way"), [*FENCES, pytest.param("bookkeep", "revoke", marks=on_dialect(*REVOKING))]
)
def test_call_returns_after_the_fences_of_importers(
    c_owner: Actor, ram: Function, importers: Importers, usage: str, way: str
) -> None:
    """A call that takes a DMABUF away returns after a fence that an importer added when it was told."""
    shared = Shared.of(c_owner, ram)
    one = shared.mapped(importers(c_owner))
    one.plan(fence=usage, signal=LATER)
    TAKE_AWAY[way](shared)
    span = Span.of_last(c_owner)
    one.wait("signaled")
    require_during(span, one.events("fenced")[0])
    require_after(span, one.events("signaled")[:1], "signalled its fence")


@requirement("CONTRACT-10")
@pytest.mark.parametrize("way", ways(*TAKE_AWAY))
def test_call_returns_after_the_unmap_of_importers(
    c_owner: Actor, ram: Function, importers: Importers, way: str
) -> None:
    """A call that takes a DMABUF away returns after an importer that unmaps later has done so."""
    shared = Shared.of(c_owner, ram)
    one = shared.mapped(importers(c_owner))
    one.plan(unmap=LATER)
    TAKE_AWAY[way](shared)
    span = Span.of_last(c_owner)
    one.wait("unmapped")
    require_during(span, one.events("notified")[0])
    require_after(span, one.events("unmapped"), "unmapped")


@requirement("IMP-14", "CONTRACT-11")
@pytest.mark.parametrize("way", ways("revoke", "memory off", "close"))
def test_call_returns_after_the_callback_of_importers(
    c_owner: Actor, ram: Function, importers: Importers, way: str
) -> None:
    """A call that takes a DMABUF away returns after the callback of an importer that takes its time there."""
    shared = Shared.of(c_owner, ram)
    one = shared.mapped(importers(c_owner))
    one.plan(stall=LATER)
    TAKE_AWAY[way](shared)
    span = Span.of_last(c_owner)
    one.wait("unmapped")
    require_after(span, one.events("unmapped"), "unmapped in its callback")


@requirement("IMP-14", "CONTRACT-11")
@pytest.mark.parametrize("way", ways("revoke", "memory off"))
@pytest.mark.parametrize("count", [0, 1, 10, 100])
def test_call_ends_when_all_importers_have_let_go(
    c_owner: Actor, ram: Function, importers: Importers, finding: Finding, count: int, way: str
) -> None:
    """A call that takes a DMABUF away from importers that let go at once ends, after the last has let go."""
    shared = Shared.of(c_owner, ram)
    ours = [shared.mapped(importers(c_owner)) for _ in range(count)]
    TAKE_AWAY[way](shared)
    span = Span.of_last(c_owner)
    for one in ours:
        (unmapped,) = one.events("unmapped")
        require_during(span, unmapped)
        require_let_go(one)
    finding(f"Importers: {count}. The call ({way}) takes {(span.ended - span.began) / 1e6:.1f} ms.")


@requirement("IMP-14")
@pytest.mark.parametrize("count", [1, AREAS])
def test_revoke_ends_when_iommufd_has_unmapped_all_areas(
    c_owner: Actor,
    ram: Function,
    ram_witness: RamBar,
    importer: Device,
    engine: Engine,
    faults: Faults,
    finding: Finding,
    count: int,
) -> None:
    """A revoke of a DMABUF that iommufd has mapped once, or 100 times, ends, and DMA through it is lost."""
    shared, space = Shared.of(c_owner, ram), AddressSpace.of(importer)
    length = shared.buffer.size
    for area in range(count):
        space.map(shared.buffer, IOVA + area * length)
    space.attach()
    word = HostWord(ram_witness, SPAN[0].offset)
    paths = [Path(engine, faults, word, IOVA + area * length) for area in sorted({0, count // 2, count - 1})]
    paths[0].load()
    for path in paths:
        path.require_lands()
    c_owner.revoke(shared.buffer)
    span = Span.of_last(c_owner)
    for path in paths:
        path.require_lost("after the revoke")
    assert space.unmap() == count * length
    finding(f"Areas of iommufd: {count}. The revoke takes {(span.ended - span.began) / 1e6:.1f} ms.")


@requirement("CONTRACT-12")
def test_a_thousand_suspensions_of_a_mapped_buffer(
    c_owner: Actor, ram: Function, importers: Importers
) -> None:
    """A DMABUF is mapped, suspended and given back 1,000 times; it can then be mapped, and be closed."""
    shared = Shared.of(c_owner, ram)
    one = shared.attached(importers(c_owner))
    one.suspend_repeatedly(shared.device, CYCLES)
    events = one.counts().events
    require_answers(events, CYCLES, "mapped", "unmapped")
    require_told(one, CYCLES, 2 * CYCLES)
    one.map()
    shared.device.close()
    require_let_go(one)


@requirement("CONTRACT-16")
def test_maps_of_an_importer_leave_no_memory_behind(
    c_owner: Actor, ram: Function, importers: Importers, guest: Guest, finding: Finding
) -> None:
    """No slab cache has more objects after 1,000 maps of a DMABUF that its importer has ended."""
    shared = Shared.of(c_owner, ram)
    one = shared.attached(importers(c_owner))
    one.suspend_repeatedly(shared.device, WARM_UP)
    before = Slabs.settled(guest)
    one.suspend_repeatedly(shared.device, CYCLES)
    if grown := before.growth(guest, CYCLES // 2):
        finding(f"Objects left by {CYCLES} maps and unmaps: {grown}.")
        raise Mismatch(
            f"{CYCLES} maps and unmaps left objects in {', '.join(sorted(grown))}",
            expected=f"at most {CYCLES // 2} more objects in each slab cache",
            seen=f"more in {', '.join(sorted(grown))}",
        )


@requirement("CONTRACT-12")
@pytest.mark.parametrize("first", ways("memory off", "low power", "reset", "revoke"))
def test_close_of_a_device_after_its_buffer_was_taken_away(
    c_owner: Actor, ram: Function, importers: Importers, first: str
) -> None:
    """A device whose DMABUF was taken away while an importer had mapped it can be closed and opened."""
    shared = Shared.of(c_owner, ram)
    one = shared.mapped(importers(c_owner))
    TAKE_AWAY[first](shared)
    shared.device.close()
    assert outcome(one.map) == "ENODEV"
    shared = Shared.of(c_owner, ram)
    shared.mapped(importers(c_owner))


@requirement("CONTRACT-15")
def test_nothing_is_left_of_detached_importers(
    c_owner: Actor, ram: Function, guest: Guest, importers: Importers
) -> None:
    """When importers have detached, no attachment, map, pin or fence is left, and their module can go."""
    shared = Shared.of(c_owner, ram)
    before = attachments(guest)
    ours = [shared.mapped(importers(c_owner)) for _ in range(3)]
    assert attachments(guest) == before + 3, "the kernel lists another number of attachments"
    ours[0].plan(fence="read", signal=LATER)
    shared.device.decode_memory(False)
    for one in ours:
        one.detach()
        counts = one.counts()
        left = {"attached": counts.attached, "mapped": counts.mapped, "pins": counts.pins}
        expected = {"attached": False, "mapped": False, "pins": 0, "fences": 0}
        assert {**left, "fences": counts.fences} == expected, "a detached importer left something behind"
        require_answers(counts.events, 1, "mapped", "unmapped")
    assert attachments(guest) == before, "the kernel still lists attachments"
    assert outcome(lambda: unload(c_owner)) == "EAGAIN"
    for one in ours:
        one.close()
    shared.buffer.close()
    unload(c_owner)
