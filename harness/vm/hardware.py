"""What the virtual machine is made of: small values, each of which knows its QEMU arguments."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

PAGE = 4096

MIB = 1 << 20
GIB = 1 << 30

# Needed in every guest.  What a series under test logs decides its verdict, so
# the kernel's default log level stays; a panic restarts at once, which ends QEMU.
# iommu=nopt: a device that was not told otherwise gets a translated domain.
# no_timer_check: the kernel counts timer interrupts against its delay loop and
# panics when some are missing (arch/x86/kernel/apic/io_apic.c, timer_irq_works);
# an emulated processor on a busy host misses some.
# nohz, highres: a one-shot timer that is not set, as a write to the interrupt
# controller was lost (docs/findings.md), leaves a processor asleep for good.
KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "intel_iommu=on",
    "iommu=nopt",
    "panic=-1",
    "printk.time=1",
    "no_timer_check",
    "nohz=off",
    "highres=off",
    # With five levels the shadow of vmalloc has 1.5 million PUD entries under KASAN.  A page-table
    # dump, which walks the kernel's half too, goes through all of them: a soft lockup.
    "no5lvl",
)


class Part(Protocol):
    """Anything that adds arguments to the QEMU command line."""

    def args(self) -> list[str]:
        """The arguments, in the order in which QEMU wants them."""
        ...


@dataclass(frozen=True)
class Board:
    """The mainboard: q35 without the devices that nobody here uses.

    The split interrupt chip is what interrupt remapping needs; SATA, SMBus and
    USB off (and no default devices) leave nothing that the guest would have to
    wait for and that would stand in the way of a snapshot.
    """

    cpus: int
    memory: int  # bytes

    def args(self) -> list[str]:
        return [
            *("-machine", "q35,kernel-irqchip=split,sata=off,smbus=off,usb=off"),
            *("-cpu", "max"),
            *("-smp", str(self.cpus)),
            *("-m", f"{self.memory // MIB}M"),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            # A restart is the guest's way to say that it is over, whoever asked for it.  After a
            # panic the guest goes on until then, so that its last words reach the console.
            *("-no-reboot", "-action", "panic=none"),
        ]


@dataclass(frozen=True)
class Boot:
    """The kernel, its initramfs and its command line."""

    bzimage: Path
    initrd: Path
    arguments: Sequence[str] = KERNEL_ARGUMENTS

    def args(self) -> list[str]:
        return [
            *("-kernel", str(self.bzimage)),
            *("-initrd", str(self.initrd)),
            *("-append", " ".join(self.arguments)),
        ]


@dataclass(frozen=True)
class Iommu:
    """Intel's IOMMU.  QEMU wants it before any device that is to stand behind it.

    Caching mode makes the guest tell of every new mapping, without which vfio
    in QEMU would miss them; 48 bits of address is what present hardware has.
    """

    def args(self) -> list[str]:
        return ["-device", "intel-iommu,caching-mode=on,intremap=on,aw-bits=48"]


@dataclass(frozen=True)
class SerialConsole:
    """The first serial port, written to the pipe that QEMU inherits as ``fd``.

    A pipe, because it packs the bytes that come one by one: a socket is full after
    300 of them, and a kernel that finds its serial port busy for 10 ms drops what
    it has to say.
    """

    fd: int

    def args(self) -> list[str]:
        path = f"/proc/self/fd/{self.fd}"
        return ["-chardev", f"file,id=console,path={path},append=on", "-serial", "chardev:console"]


@dataclass(frozen=True)
class MonitorPort:
    """QMP, on a connected socket that QEMU inherits as ``fd``."""

    fd: int

    def args(self) -> list[str]:
        return ["-chardev", f"socket,id=qmp,fd={self.fd}", "-mon", "chardev=qmp,mode=control"]


@dataclass(frozen=True)
class GdbStub:
    """The kernel debugger's port, on a listening socket that QEMU inherits as ``fd``."""

    fd: int

    def args(self) -> list[str]:
        return ["-chardev", f"socket,id=gdb,fd={self.fd},server=on,wait=off", "-gdb", "chardev:gdb"]


@dataclass(frozen=True)
class RootDisk:
    """The root file system, read-only; the guest finds it as /dev/vda."""

    path: Path

    def args(self) -> list[str]:
        # A comma in a path ends an option's value unless it is doubled.
        name = str(self.path).replace(",", ",,")
        return [
            *("-drive", f"if=none,id=root,format=raw,read-only=on,file={name}"),
            *("-device", "virtio-blk-pci,drive=root"),
        ]


@dataclass(frozen=True)
class Network:
    """One network card that reaches nothing, and is reached through one loopback port.

    Port 0 lets the kernel choose, so two machines never want the same one.
    """

    ssh_port: int = 0

    def args(self) -> list[str]:
        return [
            *("-netdev", f"user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]


@dataclass(frozen=True)
class Pvpanic:
    """Through which the guest kernel tells QEMU, and QEMU us, that it panicked."""

    def args(self) -> list[str]:
        return ["-device", "pvpanic-pci"]


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


def command(qemu: str, parts: Sequence[Part]) -> list[str]:
    """The whole command line."""
    return [qemu, *(argument for part in parts for argument in part.args())]


def readable(argv: Sequence[str]) -> str:
    """A command line for people: one option per line, quoted for a shell."""
    lines = [shlex.quote(argv[0])]
    for argument in argv[1:]:
        if argument.startswith("-"):
            lines.append(f"    {argument}")
        else:
            lines[-1] += f" {shlex.quote(argument)}"
    return " \\\n".join(lines)
