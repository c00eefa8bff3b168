"""IMP: imports of DMABUFs by iommufd, and DMA through them before and after a revoke."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require
from harness.actor.handles import Device, Range
from harness.actor.ioctl import Anchor, Argument, call
from harness.actor.iommufd import AddressSpace
from harness.actor.reply import outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import FIXED_IOVA, IOVA, RAM_BAR, READABLE, WRITEABLE
from suites.support.dma import ENGINES, MOST, OWNERS, Engine, Faults, HostWord, Path

START = 3 * PAGE
LENGTH = 4 * PAGE
SPAN = [Range(START, LENGTH)]
OTHER_IOVA = 0x800000
IOMMU_IOAS_COPY = 0x3B83  # include/uapi/linux/iommufd.h: _IO(';', 0x83)
ATTEMPTS = 5  # until a transfer is still to come when a revoke returns


@pytest.fixture
def second_edu(guest: Guest) -> Iterator[Function]:
    """Another edu than the importer's."""
    with guest.bind("edu2") as device:
        yield device


def copy(source: AddressSpace, target: AddressSpace) -> None:
    """Copy the first map of ``source``, at IOVA, to the same address in ``target`` (IOMMU_IOAS_COPY)."""
    flags = FIXED_IOVA | WRITEABLE | READABLE
    numbers = struct.pack("=IIIIQQQ", 40, flags, target.number, source.number, LENGTH, IOVA, IOVA)
    call(source.device.actor, Anchor(source.device), IOMMU_IOAS_COPY, Argument([numbers]))


# -- live ------------------------------------------------------------------------------


@requirement("IMP-01")
def test_dma_through_an_import_lands_both_ways(
    c_owner: Actor, ram: Function, ram_witness: RamBar, importer: Device, engine: Engine, faults: Faults
) -> None:
    """DMA reads and writes the exported bytes, also across pages, and through a second map with an offset."""
    content = bytes(byte % 251 for byte in range(MOST - PAGE // 4))
    ram_witness.fill(0xEE, 0, START + LENGTH + PAGE)
    ram_witness.write(START + 0x10, content)
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    space = AddressSpace.of(importer)
    assert space.map(buffer, IOVA) == IOVA
    chosen = space.map(buffer, start=2 * PAGE, length=PAGE)
    space.attach()
    before = faults.count()
    engine.read(IOVA + 0x10, len(content))
    engine.write(IOVA + PAGE - 0x100, len(content))
    engine.write(chosen + 0x20, 0x40)
    expected = bytearray(b"\xee" * (START + LENGTH + PAGE))
    for place, data in ((0x10, content), (PAGE - 0x100, content), (2 * PAGE + 0x20, content[:0x40])):
        expected[START + place : START + place + len(data)] = data
    assert ram_witness.read(0, len(expected)) == expected
    view = c_owner.map(device, LENGTH, START, bar=RAM_BAR)
    assert view.load32(2 * PAGE + 0x20) == int.from_bytes(content[:4], "little")
    assert faults.count() == before


@requirement("IMP-01")
def test_an_import_permits_no_more_than_was_mapped(
    c_owner: Actor, ram: Function, ram_witness: RamBar, importer: Device, engine: Engine, faults: Faults
) -> None:
    """The IOMMU refuses a write to a read-only map, a read of a write-only map, and DMA beyond a map."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    space = AddressSpace.of(importer)
    space.map(buffer, IOVA)
    readable, writeable = (
        space.map(buffer, OTHER_IOVA + at, prot=prot) for at, prot in ((0, "r"), (LENGTH, "w"))
    )
    space.attach()
    word = HostWord(ram_witness, START)
    path = Path(engine, faults, word, IOVA)
    path.load()
    path.require_lands()
    # QEMU reports no fault once a permitted DMA to the page is in its IOTLB (docs/findings.md).
    Path(engine, faults, word, readable).require_lost("through a read-only map")
    Path(engine, faults, word, IOVA + LENGTH).require_lost("beyond the map")
    word.write(OWNERS)
    before = faults.count()
    engine.read(writeable)
    faults.require_more(before, "a read through a write-only map")
    engine.read(readable)
    word.write(0)
    engine.write(writeable)
    assert word.read() == OWNERS, "a DMA that its map permits was lost"


# -- an explicit revoke ----------------------------------------------------------------


@requirement("IMP-02", "IMP-16", "REV-14")
@machine(fresh=True)
def test_dma_after_a_revoke_is_refused(
    c_owner: Actor,
    ram: Function,
    ram_witness: RamBar,
    importer: Device,
    engine: Engine,
    faults: Faults,
    guest: Guest,
) -> None:
    """After a revoke the IOMMU refuses reads and writes; the import of another DMABUF of the bytes works."""
    device = c_owner.open(ram.address)
    revoked, other = (c_owner.export(device, RAM_BAR, SPAN) for _ in range(2))
    space = AddressSpace.of(importer)
    space.map(revoked, IOVA)
    space.map(other, OTHER_IOVA)
    space.attach()
    path = Path(engine, faults, HostWord(ram_witness, START), IOVA)
    neighbour = Path(engine, faults, HostWord(ram_witness, START), OTHER_IOVA)
    path.load()
    path.require_lands()
    neighbour.require_lands()
    c_owner.revoke(revoked)
    mark = guest.machine.console.mark()
    path.require_lost("after the revoke")
    # The kernel limits the rate of these lines, so only the first of a machine is certain.
    require(
        faults.logged(importer, IOVA, mark),
        "the kernel's log has no line of the refused DMA",
        expected="a line with the device and the address",
        seen="none",
    )
    for _ in range(2):
        path.require_lost("after the revoke")
    neighbour.require_lands()
    before = faults.count()
    path.target.write(OWNERS)
    engine.read(IOVA)
    faults.require_more(before, "a read after the revoke")
    engine.write(OTHER_IOVA + PAGE)
    assert ram_witness.word(START + PAGE) != OWNERS, "a DMA after the revoke has read the owner's bytes"


@requirement("IMP-03")
def test_dma_in_flight_does_not_land_after_a_revoke(
    c_owner: Actor, ram: Function, ram_witness: RamBar, importer: Device, engine: Engine, faults: Faults
) -> None:
    """A DMA that was started before a revoke changes nothing that is written after its return."""
    device = c_owner.open(ram.address)
    path = Path(engine, faults, HostWord(ram_witness, START), IOVA)
    for _ in range(ATTEMPTS):
        buffer = c_owner.export(device, RAM_BAR, SPAN)
        importer.import_buffer(buffer, IOVA)
        path.load()
        path.require_lands()
        before = faults.count()
        path.target.write(0)
        engine.start_write(IOVA)
        c_owner.revoke(buffer)
        early = path.target.read() == ENGINES
        path.target.write(OWNERS)
        engine.finish()
        assert path.target.read() == OWNERS, "a DMA landed after the revoke had returned"
        if not early:
            faults.require_more(before, "a DMA that did not land")
            return
    raise HarnessError(f"Each of {ATTEMPTS} DMAs landed before the revoke that followed had returned.")


@requirement("IMP-09")
def test_a_revoke_reaches_every_import_of_a_device(
    c_owner: Actor, ram: Function, ram_witness: RamBar, importer: Device, engine: Engine, faults: Faults
) -> None:
    """One revoke ends two maps under each of two page tables, and in other address spaces and copies."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    first, second, unused, copied = (AddressSpace.of(importer) for _ in range(4))
    for iova in (IOVA, OTHER_IOVA):
        first.map(buffer, iova)
    second.map(buffer, IOVA)
    unused.map(buffer, IOVA)  # under no page table at the time of the revoke
    copy(first, copied)
    tables = [first.page_table(), first.page_table()]
    twice = [Path(engine, faults, HostWord(ram_witness, START), iova) for iova in (IOVA, OTHER_IOVA)]
    once = twice[0]
    for table in tables:
        table.attach()
        if table is tables[0]:
            once.load()
        for path in twice:
            path.require_lands()
    for space in (second, copied):
        space.attach()
        once.require_lands()
    c_owner.revoke(buffer)
    once.require_lost("through a copy, after the revoke")
    for table in tables:
        table.attach()
        for path in twice:
            path.require_lost("in the first address space, after the revoke")
    late = AddressSpace.of(importer)
    copy(first, late)
    for space in (second, unused, late):
        space.attach()
        once.require_lost("in another address space, after the revoke")


@requirement("IMP-09", "IMP-16")
def test_a_revoke_reaches_importers_of_other_processes(
    c_owner: Actor,
    ram: Function,
    ram_witness: RamBar,
    importer: Device,
    faults: Faults,
    second_edu: Function,
) -> None:
    """One revoke ends the imports of the owner and of a client; their imports of another DMABUF stay."""
    device = c_owner.open(ram.address)
    buffers = {IOVA: c_owner.export(device, RAM_BAR, SPAN), OTHER_IOVA: c_owner.export(device, RAM_BAR, SPAN)}
    word = HostWord(ram_witness, START)
    client = c_owner.spawn("client")
    lost, kept = [], []
    for edu in (importer, client.open(second_edu.address, "cdev")):
        space = AddressSpace.of(edu)
        for iova, buffer in buffers.items():
            space.map(buffer if edu is importer else c_owner.give(buffer, client), iova)
        space.attach()
        lost.append(Path(Engine(edu), faults, word, IOVA))
        kept.append(Path(Engine(edu), faults, word, OTHER_IOVA))
        lost[-1].load()
    for path in (*lost, *kept):
        path.require_lands()
    c_owner.revoke(buffers[IOVA])
    for path in lost:
        path.require_lost("after the revoke")
    for path in kept:
        path.require_lands()


# -- closed descriptors ----------------------------------------------------------------


@requirement("IMP-17", "LIFE-05")
def test_an_import_ends_with_the_device_not_with_the_descriptor(
    c_owner: Actor, ram: Function, ram_witness: RamBar, importer: Device, engine: Engine, faults: Faults
) -> None:
    """DMA lands after the DMABUF is closed, and is refused after the device is."""
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    importer.import_buffer(buffer, IOVA)
    path = Path(engine, faults, HostWord(ram_witness, START), IOVA)
    path.load()
    buffer.close()
    path.require_lands()
    device.close()
    path.require_lost("after the close of the device")


@requirement("IMP-17")
def test_the_end_of_an_importer_does_not_affect_the_owner(
    c_owner: Actor, ram: Function, ram_witness: RamBar, importer: Device, engine: Engine, faults: Faults
) -> None:
    """After the importer's close the DMABUF can be mapped, imported by another, and revoked."""
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    importer.import_buffer(buffer, IOVA)
    path = Path(engine, faults, HostWord(ram_witness, START), IOVA)
    path.load()
    path.require_lands()
    importer.close()
    mapping = c_owner.map(buffer)
    assert mapping.load32(0) == ENGINES
    again = c_owner.open(importer.address, "cdev")
    again.import_buffer(buffer, IOVA)
    path = Path(Engine(again), faults, path.target, IOVA)
    path.require_lands()
    c_owner.revoke(buffer)
    path.require_lost("after the revoke")
    again.close()
    assert outcome(lambda: c_owner.revoke(buffer)) == "EBADFD"
