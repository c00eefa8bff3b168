"""IMP: imports by virtual address, where iommufd is to be given a descriptor, and malformed imports."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Device, Mapping
from harness.actor.ioctl import Anchor, Argument, Part, call
from harness.actor.iommufd import AddressSpace, Container
from harness.actor.reply import BUS_ADRERR, Sigbus, outcome
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.cases import LENGTH, SPAN, require_refused
from suites.support.constants import FIXED_IOVA, IOVA, RAM_BAR, READABLE, WRITEABLE
from suites.support.dma import OWNERS, Engine, Faults, HostWord, Path
from suites.support.fixtures import Finding

IOMMU_IOAS_MAP_FILE = 0x3B8F  # include/uapi/linux/iommufd.h: _IO(';', 0x8f)
UNKNOWN_FLAG = 8
TOP = 1 << 64  # lengths and offsets have 64 bits


@dataclass(frozen=True)
class MapFile:
    """IOMMU_IOAS_MAP_FILE of a file of ``LENGTH`` bytes; by default correct, at IOVA."""

    flags: int = FIXED_IOVA | WRITEABLE | READABLE
    start: int = 0
    length: int = LENGTH
    iova: int = IOVA
    descriptor: int | None = None  # in place of the file

    def make(self, space: AddressSpace, file: Buffer) -> None:
        """Make the call.  Raises Refused."""
        descriptor: Part = file if self.descriptor is None else struct.pack("=i", self.descriptor)
        parts: list[Part] = [
            struct.pack("=III", 40, self.flags, space.number),
            descriptor,
            struct.pack("=QQQ", self.start, self.length, self.iova),
        ]
        call(space.device.actor, Anchor(space.device), IOMMU_IOAS_MAP_FILE, Argument(parts))


MALFORMED = {
    "EINVAL": (
        MapFile(length=0),
        MapFile(length=LENGTH + PAGE),
        MapFile(start=PAGE),
        MapFile(start=LENGTH, length=PAGE),
        MapFile(flags=FIXED_IOVA),
    ),
    "EOVERFLOW": (
        MapFile(start=TOP - PAGE, length=2 * PAGE),
        MapFile(start=PAGE, length=TOP - 1),
        MapFile(iova=TOP - 1),
    ),
    "EOPNOTSUPP": (MapFile(flags=FIXED_IOVA | READABLE | UNKNOWN_FLAG), MapFile(flags=READABLE | 1 << 31)),
    "EBADF": (MapFile(descriptor=-1), MapFile(descriptor=1 << 20)),
}


@requirement("IMP-08")
@pytest.mark.parametrize("kind", ["dmabuf", "memfd"])
def test_a_malformed_import_is_refused(c_owner: Actor, ram: Function, importer: Device, kind: str) -> None:
    """A wrong range, flag or descriptor has its errno and leaves nothing behind, as for a memfd."""
    device = c_owner.open(ram.address)
    file = c_owner.export(device, RAM_BAR, SPAN) if kind == "dmabuf" else c_owner.make("memfd", LENGTH)
    space = AddressSpace.of(importer)
    space.attach()
    for errno, calls in MALFORMED.items():
        require_refused(c_owner, {one: partial(one.make, space, file) for one in calls}, errno)
    MapFile().make(space, file)
    assert outcome(lambda: MapFile().make(space, file)) == "EEXIST"
    assert space.unmap(IOVA, LENGTH) == LENGTH
    MapFile(start=PAGE, length=LENGTH - PAGE).make(space, file)
    assert space.unmap() == LENGTH - PAGE


def dmabuf_mappings(owner: Actor, ram: Function) -> list[Mapping]:
    """Return two mappings of a DMABUF, the second untouched."""
    buffer = owner.export(owner.open(ram.address), RAM_BAR, SPAN)
    mappings = [owner.map(buffer) for _ in range(2)]
    assert mappings[0].stamp() is None
    return mappings


@requirement("IMP-11")
def test_iommufd_imports_no_dmabuf_by_address(c_owner: Actor, ram: Function, importer: Device) -> None:
    """IOMMU_IOAS_MAP of a DMABUF's address is EFAULT, or the attach is, if that comes later."""
    mappings = dmabuf_mappings(c_owner, ram)
    attached, later = AddressSpace.of(importer), AddressSpace.of(importer)
    attached.attach()
    for mapping in mappings:
        assert outcome(partial(attached.map, mapping, IOVA)) == "EFAULT"
    # iommufd looks up pages only when there is a page table.
    later.map(mappings[0], IOVA)
    assert outcome(later.attach) == "EFAULT"
    later.unmap()
    memory = c_owner.map(c_owner.make("memfd", LENGTH))
    for space in (attached, later):
        space.map(memory, IOVA)
        space.attach()


@requirement("IMP-11")
def test_iommufd_as_a_container_takes_no_dmabuf(c_owner: Actor, ram: Function, registers: Function) -> None:
    """VFIO_IOMMU_MAP_DMA of a DMABUF's address is EFAULT where the container is an iommufd."""
    mappings = dmabuf_mappings(c_owner, ram)
    container = Container(c_owner.open(registers.address, "compat"))
    for mapping in mappings:
        assert outcome(partial(container.map, mapping, IOVA)) == "EFAULT"
    container.map(c_owner.map(c_owner.make("memfd", LENGTH)), IOVA)


@requirement("IMP-11")
def test_a_type1_container_keeps_an_address_after_a_revoke(
    c_owner: Actor,
    ram: Function,
    registers: Function,
    ram_witness: RamBar,
    faults: Faults,
    finding: Finding,
) -> None:
    """A legacy container accepts a DMABUF's address; whether its DMA lands after a revoke is a finding."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    edu = c_owner.open(registers.address, "group")
    mapping = c_owner.map(buffer)
    path = Path(Engine(edu), faults, HostWord(ram_witness, 0), IOVA)
    Container(edu).map(mapping, IOVA)
    path.load()
    path.require_lands()
    c_owner.revoke(buffer)
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)
    path.target.write(OWNERS)
    path.engine.write(IOVA)
    lands = path.target.read() != OWNERS
    finding(
        "A type1 container maps a DMABUF for DMA by its virtual address, and a DMA through it "
        f"{'STILL LANDS' if lands else 'is lost'} after the revoke."
    )
    assert Container(edu).unmap(IOVA, LENGTH) == LENGTH
