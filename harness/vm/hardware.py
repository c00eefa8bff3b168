"""What the virtual machine is made of: small values, each of which knows its QEMU arguments."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
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
