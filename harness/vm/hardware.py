"""The fixed parts of a virtual machine, each with its QEMU arguments; see pci_devices.py for the devices."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PAGE = 4096

MIB = 1 << 20
GIB = 1 << 30

MEMORY = 1024 * MIB  # of every guest

# Needed in every guest.  The kernel's default log level stays, as the log decides
# verdicts.
# panic=-1: a panic restarts at once, which ends QEMU.
# iommu=nopt: a device gets a translated domain by default.
# no_timer_check: the kernel counts timer interrupts against its delay loop and
# panics when some are missing (arch/x86/kernel/apic/io_apic.c, timer_irq_works);
# an emulated processor on a busy host misses some.
# nohz, highres: with a one-shot timer, one lost write to the interrupt controller
# (docs/findings.md) means that a processor sleeps for ever.
# tsc: on a busy host two clocks are read too far apart.  The kernel then takes the TSC for unstable, and
# sends an interrupt to each processor, also to one that a debugger holds (kernel/time/clocksource.c,
# clocksource_verify_percpu).
KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "intel_iommu=on",
    "iommu=nopt",
    "panic=-1",
    "printk.time=1",
    "no_timer_check",
    "nohz=off",
    "highres=off",
    "tsc=nowatchdog",
    # With five levels and KASAN the shadow of vmalloc has 1.5 million PUD entries.  A page-table
    # dump walks the kernel's half too, and so long a walk is a soft lockup.
    "no5lvl",
)


class Part(Protocol):
    """A part of the machine that adds arguments to the QEMU command line."""

    def args(self) -> list[str]:
        """Return the arguments, in the order that QEMU requires."""
        ...


@dataclass(frozen=True)
class Board:
    """The mainboard: q35 without the devices that no scenario uses.

    Interrupt remapping needs the split interrupt chip.  Without SATA, SMBus, USB and
    the default devices the guest boots faster, and a snapshot is possible.
    """

    cpus: int
    memory: int  # bytes

    def args(self) -> list[str]:
        return [
            *("-machine", "q35,kernel-irqchip=split,sata=off,smbus=off,usb=off"),
            *("-smp", str(self.cpus)),
            *("-m", f"{self.memory // MIB}M"),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            # A restart of the guest ends QEMU, whoever asked for it.  After a panic the guest runs
            # on until its restart, so that all of the panic's text reaches the console.
            *("-no-reboot", "-action", "panic=none"),
        ]


@dataclass(frozen=True)
class GuestMemory:
    """The guest's memory, in the host's file ``path``.

    With ``private`` what the guest writes stays with this QEMU, and the file as it is.
    """

    path: Path
    private: bool = False

    def args(self) -> list[str]:
        share = "off" if self.private else "on"
        return [
            "-object",
            f"memory-backend-file,id=memory,size={MEMORY},share={share},mem-path={self.path}",
            *("-machine", "memory-backend=memory"),
        ]


@dataclass(frozen=True)
class Incoming:
    """A machine that waits to be loaded, by commands to its monitor (harness.vm.snapshot)."""

    def args(self) -> list[str]:
        return ["-incoming", "defer"]


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
    """Intel's IOMMU.  On the command line it precedes every device behind it.

    In caching mode the guest reports every new mapping, which vfio in QEMU needs.
    48 bits of address is the width of present hardware.  With ``device_iotlb`` it also
    serves devices that cache translations (ATS).
    """

    device_iotlb: bool = False

    def args(self) -> list[str]:
        cache = ",device-iotlb=on" if self.device_iotlb else ""
        return ["-device", f"intel-iommu,caching-mode=on,intremap=on,aw-bits=48{cache}"]


@dataclass(frozen=True)
class SerialConsole:
    """The first serial port, written to the pipe that QEMU inherits as ``fd``.

    QEMU writes byte by byte.  A pipe packs these bytes, but a socket is full after 300
    of them, and a kernel drops output if its serial port is busy for 10 ms.
    """

    fd: int

    def args(self) -> list[str]:
        path = f"/proc/self/fd/{self.fd}"
        return ["-chardev", f"file,id=console,path={path},append=on", "-serial", "chardev:console"]


@dataclass(frozen=True)
class MonitorPort:
    """The QMP monitor, on a connected socket that QEMU inherits as ``fd``."""

    fd: int

    def args(self) -> list[str]:
        return ["-chardev", f"socket,id=qmp,fd={self.fd}", "-mon", "chardev=qmp,mode=control"]


@dataclass(frozen=True)
class SystemCallFilter:
    """QEMU's own filter of system calls: it cannot start a program, or change its user or its limits."""

    def args(self) -> list[str]:
        return ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]


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


SSH_PORT, AGENT_PORT = 22, 23  # of the guest (vmimage/init.c, vmimage/agent.c)


@dataclass(frozen=True)
class Network:
    """One network card without access to any network; loopback ports of the host lead to it.

    One leads to sshd, another to the guest's agent (harness/vm/agent.py).  With ``ssh_port`` 0 the
    host's kernel chooses a free port, as it does for the agent, so that machines never collide.
    """

    ssh_port: int = 0

    def args(self) -> list[str]:
        ports = {SSH_PORT: self.ssh_port, AGENT_PORT: 0}
        forwards = ",".join(f"hostfwd=tcp:127.0.0.1:{own}-:{port}" for port, own in ports.items())
        return [
            *("-netdev", f"user,id=net,restrict=on,ipv6=off,{forwards}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]


@dataclass(frozen=True)
class Pvpanic:
    """The device that reports a panic of the guest's kernel to QEMU, which sends GUEST_PANICKED."""

    def args(self) -> list[str]:
        return ["-device", "pvpanic-pci"]


def command(qemu: str, parts: Sequence[Part]) -> list[str]:
    """Return the whole command line: the path of QEMU and the arguments of all parts, in order."""
    return [qemu, *(argument for part in parts for argument in part.args())]


def readable(argv: Sequence[str]) -> str:
    """Format a command line for a reader: one option per line, quoted for a shell."""
    lines = [shlex.quote(argv[0])]
    for argument in argv[1:]:
        if argument.startswith("-"):
            lines.append(f"    {argument}")
        else:
            lines[-1] += f" {shlex.quote(argument)}"
    return " \\\n".join(lines)
