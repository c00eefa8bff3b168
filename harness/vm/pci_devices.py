"""The layout of a machine: the PCI devices under test, each behind its root port."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.vm.hardware import MIB

# Two processors: one revokes a DMABUF while the other accesses it.  More than the host has
# cost a second of boot under emulation.
CPUS = 2


@dataclass(frozen=True)
class Edu:
    """QEMU's educational device, whose BAR 0 is registers (docs/specs/edu)."""

    def device(self, role: str) -> list[str]:
        """Return the arguments of this device as ``role``, without its bus."""
        return ["-device", f"edu,id={role}"]


@dataclass(frozen=True)
class IvshmemDevice:
    """A device whose BAR 2 is shared memory: ``size`` bytes, a power of two, in the host's file ``path``."""

    size: int
    path: Path

    def device(self, role: str) -> list[str]:
        """Return the arguments of this device as ``role``, without its bus."""
        return [
            "-object",
            f"memory-backend-file,id={role}-memory,size={self.size},share=on,mem-path={self.path}",
            "-device",
            f"ivshmem-plain,id={role},memdev={role}-memory,master=on",
        ]


@dataclass(frozen=True)
class VirtioRng:
    """A device with power management and function-level reset, which the others lack.

    It also has a BAR of I/O ports, or with ``ats`` the Address Translation Service instead.
    """

    ats: bool = False

    def device(self, role: str) -> list[str]:
        """Return the arguments of this device as ``role``, without its bus."""
        kind = "disable-legacy=on,iommu_platform=on,ats=on" if self.ats else "disable-legacy=off"
        return [
            *("-object", f"rng-random,id={role}-source,filename=/dev/urandom"),
            *("-device", f"virtio-rng-pci,id={role},rng={role}-source,{kind}"),
        ]


@dataclass(frozen=True)
class Display:
    """A display whose BAR 0 is its memory: ``size`` bytes, a power of two of at least 4 MiB."""

    size: int

    def device(self, role: str) -> list[str]:
        """Return the arguments of this device as ``role``, without its bus.

        The device has no BIOS: the firmware would spend 0.25 s on it under emulation.
        """
        return ["-device", f"bochs-display,id={role},vgamem={self.size},romfile="]


Contents = Edu | IvshmemDevice | VirtioRng | Display


@dataclass(frozen=True)
class Slot:
    """A device in its ``role`` behind a root port of its own, at ``0000:00:<number>.0``.

    With its own port a device has its own IOMMU group, and an address that does not
    depend on the other devices.  ``second``, if not None, is function 1 of the device,
    in the same group; the role of that function ends in ``2``.
    """

    role: str
    number: int
    contents: Contents
    second: Contents | None = None

    @property
    def port(self) -> str:
        """The address of the root port in the guest; the device is the only one below it."""
        return f"0000:00:{self.number:02x}.0"

    def args(self) -> list[str]:
        *backend, device = self.contents.device(self.role)
        port = f"{self.role}-port"
        # After a bus reset Linux waits for the link of a faster port to come up again
        # (drivers/pci/pci.c, pci_bridge_wait_for_secondary_bus()).  In QEMU 7.2 it does not.
        root = f"pcie-root-port,id={port},bus=pcie.0,addr={self.number:#x},chassis={self.number},x-speed=5"
        if self.second is None:
            return ["-device", root, *backend, f"{device},bus={port}"]
        *second_backend, second = self.second.device(f"{self.role}2")
        return [
            *("-device", root, *backend, f"{device},bus={port},addr=0.0,multifunction=on"),
            *(*second_backend, f"{second},bus={port},addr=0.1"),
        ]


# The slot of each role on bus 0.  Devices without a role have the lower numbers.
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

# The memory BAR of each role's device.  Only a patched QEMU gives one to edu: BAR 1, 64 MiB.
MEMORY_BARS = {"ram": 2, "ram2": 2, "bigram": 2, "edu": 1, "edu2": 1, "display": 0, "pair": 2}


@dataclass(frozen=True)
class Layout:
    """The choice of devices and processors of a machine; sizes in bytes, powers of two, at least 4096.

    A size of 0 leaves the device out.  ``ram``, ``ram2`` and ``bigram`` are the sizes
    of RAM BARs.  ``rng`` adds a virtio device with power management and function-level
    reset, ``display`` a display with this much memory as a BAR.  ``pair`` adds a device
    of two functions: the first has a RAM BAR of this size, the second is like ``rng``.
    ``ats`` gives that virtio device an address cache of its own, and the IOMMU the means to
    invalidate it.  ``arguments`` are added to the kernel's command line.  ``debugger`` opens
    QEMU's port for one (harness.vm.gdbstub).  ``parallel`` gives each emulated processor a
    thread of the host.
    """

    ram: int = 64 * MIB
    ram2: int = 64 * MIB
    bigram: int = 0
    rng: bool = False
    display: int = 16 * MIB
    pair: int = 0
    ats: bool = False
    arguments: tuple[str, ...] = ()
    cpus: int = CPUS
    debugger: bool = False
    parallel: bool = False

    def within(self, devices: Set[str]) -> Layout:
        """Return this layout without a display if QEMU's ``devices`` do not include one."""
        return self if "bochs-display" in devices else replace(self, display=0)

    def memories(self) -> dict[str, int]:
        """Return the size in bytes of each RAM BAR, by role."""
        sizes = {"ram": self.ram, "ram2": self.ram2, "bigram": self.bigram, "pair": self.pair}
        return {role: size for role, size in sizes.items() if size}

    def __str__(self) -> str:
        """Return the differences from the default layout (``display=0 rng=True``), ``usual`` if none."""
        usual = Layout()
        different = [
            f"{one.name}={value}"
            for one in fields(self)
            if (value := getattr(self, one.name)) != getattr(usual, one.name)
        ]
        return " ".join(different) or "usual"

    def words(self) -> str:
        """Return the layout for a transcript: ``ram=0x4000000 cpus=0x2``, a word ``argument=`` for each one.

        What is 0, false or empty is left out.
        """
        pairs = [(one.name, getattr(self, one.name)) for one in fields(self) if one.name != "arguments"]
        numbers = [f"{name}={int(value):#x}" for name, value in pairs if value]
        return " ".join([*numbers, *(f"argument={one}" for one in self.arguments)])

    @classmethod
    def parse(cls, words: str) -> Layout:
        """Return the layout of words(); raise ValueError for anything else."""
        usual = cls()
        given: dict[str, int | bool] = {
            one.name: type(value)(0)
            for one in fields(cls)
            if isinstance(value := getattr(usual, one.name), int)
        }
        arguments = []
        for name, _, value in (word.partition("=") for word in words.split()):
            if name == "argument" and value:
                arguments.append(value)
            elif name in given:
                given[name] = type(given[name])(int(value, 16))
            else:
                raise ValueError(f"a layout has no {name[:80]}")
        return replace(usual, arguments=tuple(arguments), **given)  # type: ignore[arg-type]

    def slots(self, memory: Mapping[str, Path]) -> list[Slot]:
        """Return the devices in slot order, with the files in ``memory`` (by role) behind the RAM BARs."""
        contents: dict[str, Contents] = {"edu": Edu(), "edu2": Edu()}
        contents |= {role: IvshmemDevice(size, memory[role]) for role, size in self.memories().items()}
        if self.rng:
            contents["rng"] = VirtioRng(self.ats)
        if self.display:
            contents["display"] = Display(self.display)
        second = {"pair": VirtioRng()}
        return [
            Slot(role, number, contents[role], second.get(role))
            for role, number in SLOTS.items()
            if role in contents
        ]
