"""The layout of a machine: the PCI devices under test, each behind its root port."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.vm.hardware import MIB


@dataclass(frozen=True)
class Edu:
    """QEMU's teaching device: the register BAR."""

    def device(self, role: str) -> list[str]:
        """The arguments of this device as ``role``, but for the bus it sits on."""
        return ["-device", f"edu,id={role}"]


@dataclass(frozen=True)
class IvshmemDevice:
    """A device whose BAR 2 is memory that the host sees: ``size`` bytes (a power of two) at ``path``."""

    size: int
    path: Path

    def device(self, role: str) -> list[str]:
        """The arguments of this device as ``role``, but for the bus it sits on."""
        return [
            "-object",
            f"memory-backend-file,id={role}-memory,size={self.size},share=on,mem-path={self.path}",
            "-device",
            f"ivshmem-plain,id={role},memdev={role}-memory,master=on",
        ]


@dataclass(frozen=True)
class VirtioRng:
    """A device with what the others lack: power management, function-level reset, a BAR of I/O ports."""

    def device(self, role: str) -> list[str]:
        """The arguments of this device as ``role``, but for the bus it sits on."""
        return [
            *("-object", f"rng-random,id={role}-source,filename=/dev/urandom"),
            *("-device", f"virtio-rng-pci,id={role},rng={role}-source,disable-legacy=off"),
        ]


@dataclass(frozen=True)
class Display:
    """A display whose BAR 0 is its memory: ``size`` bytes, a power of two of at least 4 MiB."""

    size: int

    def device(self, role: str) -> list[str]:
        """The arguments of this device as ``role``, but for the bus it sits on.

        Without its BIOS, for which the firmware needs a quarter of a second under emulation.
        """
        return ["-device", f"bochs-display,id={role},vgamem={self.size},romfile="]


Contents = Edu | IvshmemDevice | VirtioRng | Display


@dataclass(frozen=True)
class Slot:
    """A device in its ``role`` behind a root port of its own, at ``0000:00:<number>.0``.

    A port of its own puts a device into an IOMMU group of its own, and its place
    does not depend on which other devices there are.  ``second`` is its function 1,
    in the same group, if it has one: the role of that ends in ``2``.
    """

    role: str
    number: int
    contents: Contents
    second: Contents | None = None

    @property
    def port(self) -> str:
        """The root port's address in the guest; the device is the only one below it."""
        return f"0000:00:{self.number:02x}.0"

    def args(self) -> list[str]:
        *before, device = self.contents.device(self.role)
        port = f"{self.role}-port"
        # Of a faster port Linux expects that its link comes up again after a bus reset, which it
        # does not in QEMU 7.2 (drivers/pci/pci.c, pci_bridge_wait_for_secondary_bus()).
        root = f"pcie-root-port,id={port},bus=pcie.0,addr={self.number:#x},chassis={self.number},x-speed=5"
        if self.second is None:
            return ["-device", root, *before, f"{device},bus={port}"]
        *before_second, second = self.second.device(f"{self.role}2")
        return [
            *("-device", root, *before, f"{device},bus={port},addr=0.0,multifunction=on"),
            *(*before_second, f"{second},bus={port},addr=0.1"),
        ]


# Where each role sits.  The numbers below are taken by devices without a role.
SLOTS = {
    "edu": 0x10,
    "ram": 0x11,
    "edu2": 0x12,
    "ram2": 0x13,
    "bigram": 0x14,
    "rng": 0x15,
    "display": 0x16,
    "pair": 0x17,
}

# Which BAR of a role's device is memory.  An edu has one only in a QEMU that was changed so: 64 MiB, BAR 1.
MEMORY_BARS = {"ram": 2, "ram2": 2, "bigram": 2, "edu": 1, "edu2": 1, "display": 0, "pair": 2}


@dataclass(frozen=True)
class Layout:
    """Which devices the machine has; sizes in bytes, powers of two, at least 4096.

    ``bigram`` adds a second kind of RAM BAR when it is not 0, ``rng`` a virtio
    device with power management and function-level reset, ``display`` one that
    has this much memory as a BAR, ``pair`` a device of two functions, the first with
    a RAM BAR of this size, the second like ``rng``.  ``arguments`` are added to the
    kernel's command line.
    """

    ram: int = 64 * MIB
    ram2: int = 64 * MIB
    bigram: int = 0
    rng: bool = False
    display: int = 16 * MIB
    pair: int = 0
    arguments: tuple[str, ...] = ()

    def within(self, devices: Set[str]) -> Layout:
        """What of it a QEMU with these devices can have: the display may be missing."""
        return self if "bochs-display" in devices else replace(self, display=0)

    def memories(self) -> dict[str, int]:
        """Role to size of each RAM BAR."""
        sizes = {"ram": self.ram, "ram2": self.ram2, "bigram": self.bigram, "pair": self.pair}
        return {role: size for role, size in sizes.items() if size}

    def __str__(self) -> str:
        """How it differs from the usual one, ``usual`` if it does not."""
        usual = Layout()
        different = [
            f"{one.name}={value}"
            for one in fields(self)
            if (value := getattr(self, one.name)) != getattr(usual, one.name)
        ]
        return " ".join(different) or "usual"

    def slots(self, memory: Mapping[str, Path]) -> list[Slot]:
        """The devices, with the files in ``memory`` (by role) behind the RAM BARs."""
        contents: dict[str, Contents] = {"edu": Edu(), "edu2": Edu()}
        contents |= {role: IvshmemDevice(size, memory[role]) for role, size in self.memories().items()}
        if self.rng:
            contents["rng"] = VirtioRng()
        if self.display:
            contents["display"] = Display(self.display)
        second = {"pair": VirtioRng()}
        return [
            Slot(role, number, contents[role], second.get(role))
            for role, number in SLOTS.items()
            if role in contents
        ]
