"""The machine of a kit: QEMU's arguments for a folder of files, without descriptors, disk or network."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.vm.hardware import MEMORY, Board, Iommu, Part
from harness.vm.pci_devices import Display, Edu, IvshmemDevice, Layout, VirtioRng

CONSOLE = "console.log"  # of the kernel
LOG = "kit.log"  # of the kit's init

# The slots of the devices through which the guest plays the host, above those of pci_devices.SLOTS.
_WITNESS_SLOTS = {"ram": 0x18, "ram2": 0x19, "bigram": 0x1A, "pair": 0x1B}
_MODELS = {Edu: "edu", IvshmemDevice: "ivshmem-plain", VirtioRng: "virtio-rng-pci", Display: "bochs-display"}


@dataclass(frozen=True)
class SerialFile:
    """The next serial port, written to a file."""

    name: str

    def args(self) -> list[str]:
        return ["-serial", f"file:{self.name}"]


@dataclass(frozen=True)
class Witness:
    """A second device with the memory behind the RAM BAR of ``role``, on the root bus.

    The guest's init reads and writes through it what the host does in a run.  It is no part of
    what is tested, and works while the device under test is without power or driver.
    """

    role: str
    size: int  # bytes

    @property
    def address(self) -> str:
        """The address in the guest."""
        return f"0000:00:{_WITNESS_SLOTS[self.role]:02x}.0"

    def args(self) -> list[str]:
        memory = IvshmemDevice(self.size, memory_file(self.role))
        *backend, device = memory.device(f"{self.role}-witness")
        return [*backend, f"{device},bus=pcie.0,addr={_WITNESS_SLOTS[self.role]:#x}"]


def memory_file(role: str) -> Path:
    """Return the file behind the RAM BAR of a role; QEMU makes it, and it has holes where nothing is."""
    return Path(f"{role}.memory")


def witnesses(layout: Layout, roles: Collection[str]) -> list[Witness]:
    """Return the devices for the host's access to the memory of these roles.  Raises KeyError."""
    sizes = layout.memories()
    return [Witness(role, sizes[role]) for role in sorted(roles)]


def arguments(layout: Layout, added: Iterable[Witness]) -> list[str]:
    """Return QEMU's arguments, apart from accelerator and kernel; all files are in the working directory."""
    parts: list[Part] = [
        Board(layout.cpus, MEMORY),
        SerialFile(CONSOLE),
        SerialFile(LOG),
        Iommu(layout.ats),
        *layout.slots({role: memory_file(role) for role in layout.memories()}),
        *added,
    ]
    return [argument for part in parts for argument in part.args()]


def models(layout: Layout) -> list[str]:
    """Return the names of the devices that a QEMU needs for this layout."""
    slots = layout.slots({role: memory_file(role) for role in layout.memories()})
    contents = [one for slot in slots for one in (slot.contents, slot.second) if one is not None]
    return sorted({"intel-iommu", "pcie-root-port", *(_MODELS[type(one)] for one in contents)})
