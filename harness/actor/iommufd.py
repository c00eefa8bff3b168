"""Handles for what iommufd maps for DMA by a device: address spaces and hardware page tables."""

from __future__ import annotations

from dataclasses import dataclass

from harness.actor.handles import Buffer, Device, Mapping
from harness.actor.reply import hex_number


@dataclass(frozen=True)
class PageTable:
    """A hardware page table (HWPT) of an address space, made for ``device``; ``number`` is iommufd's."""

    device: Device
    number: int

    def attach(self) -> None:
        """Attach the device, instead of what it is attached to."""
        self.device.actor.say("attach", self.device.name, self.number)

    def destroy(self) -> None:
        """Call IOMMU_DESTROY; Refused (EBUSY) while the device is attached."""
        self.device.actor.say("destroy", self.device.name, self.number)


@dataclass(frozen=True)
class AddressSpace:
    """An IOAS in the iommufd of ``device``, which is opened by cdev; ``number`` is iommufd's."""

    device: Device
    number: int

    @classmethod
    def of(cls, device: Device) -> AddressSpace:
        """Make a new one (IOMMU_IOAS_ALLOC); the device is not attached to it."""
        return cls(device, device.actor.read(int, "ioas", device.name))

    def map(
        self,
        source: Buffer | Mapping,
        iova: int | None = None,
        *,
        start: int = 0,
        length: int | None = None,
        prot: str = "rw",
    ) -> int:
        """Map a buffer (IOMMU_IOAS_MAP_FILE), or memory by its address (IOMMU_IOAS_MAP); return the IOVA.

        ``length`` bytes from byte ``start`` on, by default all.  ``prot`` of ``r``, ``w``,
        ``rw``.  Without ``iova`` the kernel chooses one.
        """
        if length is None:
            length = (source.size if isinstance(source, Buffer) else source.length) - start
        words = ("iomap", self.device.name, self.number, source.name)
        options = {"start": start or None, "length": length, "iova": iova, "prot": prot}
        return self.device.actor.read(hex_number, *words, **options)

    def unmap(self, iova: int | None = None, length: int | None = None) -> int:
        """Call IOMMU_IOAS_UNMAP, by default of all; return the number of bytes that it unmapped."""
        options = {"iova": iova, "length": length}
        return self.device.actor.read(hex_number, "iounmap", self.device.name, self.number, **options)

    def page_table(self) -> PageTable:
        """Make a hardware page table over this address space (IOMMU_HWPT_ALLOC)."""
        return PageTable(self.device, self.device.actor.read(int, "hwpt", self.device.name, self.number))

    def attach(self) -> None:
        """Attach the device, instead of what it is attached to."""
        self.device.actor.say("attach", self.device.name, self.number)

    def destroy(self) -> None:
        """Call IOMMU_DESTROY; Refused (EBUSY) while a hardware page table refers to it."""
        self.device.actor.say("destroy", self.device.name, self.number)


def detach(device: Device) -> None:
    """Detach a device from what it is attached to (VFIO_DEVICE_DETACH_IOMMUFD_PT)."""
    device.actor.say("detach", device.name)


@dataclass(frozen=True)
class Container:
    """The container of ``device``, which is opened by ``group`` or ``compat``."""

    device: Device

    def map(self, memory: Mapping, iova: int) -> None:
        """Map memory by its address (VFIO_IOMMU_MAP_DMA)."""
        self.device.actor.say("type1map", self.device.name, memory.name, iova=iova, length=memory.length)

    def unmap(self, iova: int, length: int) -> int:
        """Call VFIO_IOMMU_UNMAP_DMA; return the number of bytes that it unmapped."""
        return self.device.actor.read(hex_number, "type1unmap", self.device.name, iova=iova, length=length)
