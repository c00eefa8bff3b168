"""Actors: processes in the guest that carry out one operation for each line and report the result.

The C actor and the Python probe speak one protocol (probes/PROTOCOL.md), so one
class serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from harness.actor.hammer import Hammer
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.reply import (
    Fault,
    Vma,
    Watched,
    hex_number,
    word_or_fault,
)
from harness.actor.session import Session
from harness.lib.errors import HarnessError, PatchproofError
from harness.lib.page_table import PageTable
from harness.vm.hardware import PAGE


@dataclass(frozen=True)
class Survivors:
    """The state after an exec(): the number of VMAs of DMABUFs, and the DMABUFs still open."""

    vmas: int
    buffers: tuple[Buffer, ...]


# Seconds to start a process.  On a busy host an interpreter starts slowly, and no scenario judges that.
START_DEADLINE = 60
# The kernel options behind the ways to open a device, and behind the makers of buffers.
_OPTIONS = {
    "group": "VFIO_GROUP",
    "compat": "VFIO_GROUP",
    "cdev": "VFIO_DEVICE_CDEV",
    "node": "VFIO_DEVICE_CDEV",
    "udmabuf": "UDMABUF",
    "heap": "DMABUF_HEAPS_SYSTEM",
}


class NotOfferedError(PatchproofError):
    """This kernel lacks the call for an operation, or the option that it needs."""


class Actor(Session):
    """A process in the guest: one method for each operation of the protocol, over a Session."""

    def open(self, address: str, via: str = "group") -> Device:
        """Open a device bound to vfio-pci ``via`` the legacy ``group`` or, with iommufd, the ``cdev``.

        ``compat`` is a group whose container is an iommufd.
        """
        self.require(_OPTIONS.get(via))
        return self.read(lambda reply: _device(self, address, reply), "open", "vfio", address, via=via)

    def join(self, device: Device, address: str) -> Device:
        """Open another device of the same IOMMU group, through the group or iommufd of ``device``."""
        return self.read(lambda reply: _device(self, address, reply), "join", device.name, address)

    def resource(self, address: str, bar: int, write_combining: bool = False) -> Buffer:
        """Open the sysfs file of a BAR, not VFIO's; ``write_combining`` needs a prefetchable BAR."""
        return self.read(
            lambda reply: _buffer(self, reply, None),
            *("resource", address, bar),
            wc=1 if write_combining else None,
        )

    def export(
        self,
        device: Device,
        bar: int,
        ranges: Sequence[Range] | None = None,
        *,
        flags: int | None = None,
        open_flags: str | None = None,
    ) -> Buffer:
        """Export ``ranges`` of a BAR, in this order, as a DMABUF; by default the whole BAR.

        ``flags`` and ``open_flags`` are those of struct vfio_device_feature_dma_buf.
        """
        self.require("VFIO_PCI_DMABUF")
        listed = _ranges([Range(0, device.bars[bar])] if ranges is None else ranges)
        options = {"bar": bar, "ranges": listed, "flags": flags, "open_flags": open_flags}
        return self.read(lambda reply: _buffer(self, reply, device), "export", device.name, **options)

    def map(
        self,
        source: Buffer | Device,
        length: int | None = None,
        offset: int = 0,
        prot: str = "rw",
        *,
        bar: int | None = None,
        flags: str | int | None = None,
        align: int | None = None,
        congruent: int | None = None,
    ) -> Mapping:
        """mmap() ``length`` bytes of a buffer, or of a BAR of a device; by default all from ``offset`` on.

        With ``align`` the address is ``congruent`` modulo ``align`` (bytes).
        """
        if length is None:
            whole = source.size if isinstance(source, Buffer) else source.bars[bar or 0]
            length = whole - offset
        name = self.say(
            "map",
            source.name,
            bar=bar,
            length=length,
            offset=offset or None,
            prot=prot,
            flags=flags,
            align=align,
            congruent=congruent,
        )
        return Mapping(self, name, -(-length // PAGE) * PAGE)

    def revoke(self, buffer: Buffer, via: str | None = None, device: Device | None = None) -> None:
        """Revoke a DMABUF through ``device``, by default the one that it was exported from."""
        owner = device or buffer.device
        if owner is None:
            raise HarnessError(f"The buffer {buffer.name} was received; say which device is to revoke it.")
        self._need_revoke()
        self.say("revoke", owner.name, buffer.name, via=via or self.revoke_via)

    def reclaim(
        self,
        buffer: Buffer,
        view: Mapping,
        value: int,
        *,
        offset: int | None = None,
        stride: int | None = None,
        release: Hammer | None = None,
        tries: int | None = None,
        deadline: int | None = None,
    ) -> Fault | None:
        """Revoke a DMABUF and at once store ``value`` in every word of ``view``, in one operation.

        The words begin at ``offset`` and are ``stride`` bytes apart, by default 4.  Before the
        revoke, ``release`` a held hammer and wait until its threads have tried ``tries`` accesses
        in total.  ``deadline`` as for do().  Returns the fault of a store, None without one.
        """
        if buffer.device is None:
            raise HarnessError(f"The buffer {buffer.name} was received; its device is not known.")
        self._need_revoke()
        words = (buffer.device.name, buffer.name, view.name, value)
        hammer = None if release is None else release.name
        part = {"offset": offset, "stride": stride}
        options = {**part, "release": hammer, "tries": tries, "via": self.revoke_via, "deadline": deadline}
        answer = self.do("reclaim", *words, **options)
        return answer if isinstance(answer, Fault) else None

    def make(self, kind: str, length: int) -> Buffer:
        """Make a buffer of ``length`` bytes that is not VFIO's: ``udmabuf``, ``heap``, or ``memfd``."""
        self.require(_OPTIONS.get(kind))
        return self.read(lambda reply: _buffer(self, reply, None), "make", kind, length=length)

    def set_attribute(self, buffer: Buffer, attribute: str | int, device: Device | None = None) -> None:
        """Set the memory attribute of later mappings of a DMABUF: ``nc``, ``wc``, or a number.

        Uses VFIO_DEVICE_FEATURE on ``device``, by default the one that the buffer was exported from.
        """
        owner = device or buffer.device
        if owner is None:
            raise HarnessError(f"The buffer {buffer.name} was received; say which device is to set it.")
        self.say("memattr", owner.name, buffer.name, attribute)

    def fence(self) -> None:
        """Execute a barrier that drains write-combining buffers."""
        self.say("fence")

    def count(self, function: str) -> None:
        """Start to count this actor's calls of a kernel function; Refused (ENOENT) if it is absent."""
        self.say("count", function)

    def end_count(self) -> int:
        """End the count of count(); return the number of calls."""
        return self.read(int, "counted")

    def cpus(self) -> tuple[int, ...]:
        """Return the CPUs that the actor may run on."""
        return self.read(lambda reply: tuple(map(int, reply.split(","))), "pin")

    def pin(self, *cpus: int) -> None:
        """Run on these CPUs only; hammers are not affected."""
        self.say("pin", ",".join(map(str, cpus)))

    def unbind(self, address: str) -> None:
        """Detach a device from its driver, and wait until the driver has let it go."""
        self.say("unbind", address)

    def confine(self, cpu: int) -> None:
        """Move every process and thread of the system to ``cpu``; pin() brings an actor elsewhere."""
        self.say("confine", cpu)

    def page_table(self, mapping: Mapping) -> PageTable:
        """Return the entries of this actor's page table for its mapping."""
        self.require("PTDUMP_DEBUGFS")
        return self.read(PageTable.parse, "pagetable", mapping.name)

    def vmas(self, mapping: Mapping) -> tuple[Vma, ...]:
        """Return the VMAs of a mapping, from /proc/self/smaps."""
        return self.read(lambda reply: tuple(map(Vma.parse, reply.split())), "vmas", mapping.name)

    def minor_faults(self) -> int:
        """Return the number of minor page faults of the process so far."""
        return self.read(lambda reply: int(reply.split()[0].removeprefix("minor=")), "faults")

    def load_each(self, places: Sequence[tuple[Mapping, int]]) -> list[int | Fault]:
        """Load the 32-bit word at each (mapping, offset) in order; return each word or fault."""
        listed = ",".join(f"{mapping.name}:{offset:#x}" for mapping, offset in places)
        return self.read(lambda reply: list(map(word_or_fault, reply.split())), "loadeach", listed)

    def spawn(self, name: str, uid: int | None = None) -> Actor:
        """Start a new actor that inherits no descriptor, as user ``uid`` if given."""
        self.say("spawn", name, uid=uid, deadline=START_DEADLINE)
        return self.child(name)

    def fork(self, name: str) -> Actor:
        """Fork; adopt() returns the child's handle of a mapping of this actor."""
        self.say("fork", name, deadline=START_DEADLINE)
        return self.child(name)

    def give(self, buffer: Buffer, child: Actor) -> Buffer:
        """Send a buffer's descriptor to a child over a UNIX socket; return the child's handle."""
        self.say("send", buffer.name, child.name)
        return replace(buffer, actor=child, name=child.say("recv"), device=None)

    def take(self, buffer: Buffer, device: Device | None = None) -> Buffer:
        """Receive a buffer's descriptor from a child over a UNIX socket; ``device`` is its exporter here."""
        return replace(buffer, actor=self, name=self.fetch(buffer.actor, buffer.name), device=device)

    def lend(self, device: Device, child: Actor) -> Device:
        """Send a device's descriptor, without its group or iommufd, to a child; return the child's handle."""
        self.say("send", device.name, child.name)
        return replace(device, actor=child, name=child.say("recv"))

    def borrow(self, device: Device) -> Device:
        """Receive a device's descriptor, without its group or iommufd, from a child."""
        return replace(device, actor=self, name=self.fetch(device.actor, device.name))

    def fetch(self, child: Actor, name: str) -> str:
        """Receive the descriptor that a child knows by ``name``; return its name here."""
        child.say("send", name, "parent")
        return self.say("recv", child.name)

    def cycle(
        self, device: Device, bar: int, length: int, count: int, *, revoke: bool = False, keep: bool = False
    ) -> Fault | None:
        """Export, map, load, unmap and close ``count`` DMABUFs in turn; return the fault of a load, if any.

        ``revoke`` half of them; with ``keep`` only export them, and close none.  The deadline
        allows 50 ms for each, which a kernel with KASAN on a busy host needs.
        """
        if revoke:
            self._need_revoke()
        options = {"bar": bar, "length": length, "count": count, "revoke": int(revoke), "keep": int(keep)}
        answer = self.do("cycle", device.name, deadline=10 + count // 20, **options)
        return answer if isinstance(answer, Fault) else None

    def close_device_first(self, device: Device, bar: int, ranges: int, count: int) -> int:
        """Map ``count`` DMABUFs of ``ranges`` pages, revoke half, close the device, then load from each.

        Returns how many of these loads ended in SIGBUS.
        """
        self._need_revoke()
        options = {"bar": bar, "length": ranges * PAGE, "ranges": ranges, "count": count, "revoke": 1}
        return self.read(
            lambda reply: int(reply.removeprefix("sigbus=")),
            *("outlive", device.name),
            deadline=10 + count // 20,
            **options,
        )

    def attempts(self, device: Device, bar: int, length: int, count: int) -> dict[str, int]:
        """Export ``count`` times and close each at once; return the number ``done``, and refused by errno."""
        options = {"bar": bar, "length": length, "count": count}
        return self.read(Actor._tally, "attempts", device.name, deadline=10 + count // 20, **options)

    def race(self, device: Device, call: str, bar: int, length: int, count: int) -> dict[str, int]:
        """``export``, or ``revoke`` one DMABUF, in two threads at once; results as of attempts()."""
        if call == "revoke":
            self._need_revoke()
        options = {"bar": bar, "length": length, "count": count, "threads": 2}
        return self.read(Actor._tally, "together", device.name, call, deadline=10 + count // 20, **options)

    @staticmethod
    def _tally(reply: str) -> dict[str, int]:
        return {result: int(times) for result, times in (word.split("=") for word in reply.split())}

    def watched(self) -> Watched:
        """End the watch; return what it saw until then, and in one more round after this call."""
        return self.read(Watched.parse, "watched")

    def descriptors(self) -> int:
        """Return the number of open descriptors of the actor."""
        return self.read(int, "fds")

    def limit_descriptors(self, limit: int) -> None:
        """Set RLIMIT_NOFILE: descriptors of this number and above cannot be opened any more."""
        self.say("setrlimit", nofile=limit)

    def require(self, option: str | None) -> None:
        """Raise NotOfferedError if the kernel is known to lack ``option``."""
        if option is not None and (reason := self.absent(option)):
            raise NotOfferedError(f"The scenario {reason}.")

    def _need_revoke(self) -> None:
        if self.revoke_via == "none":
            raise NotOfferedError(
                "The scenario revokes, for which the headers of this kernel offer no call that is known "
                "(feature, device-ioctl, ioctl)."
            )

    def child(self, name: str) -> Actor:
        """Return the handle of a child, such as one that a fork() in flight has made."""
        child = Actor(self._wire, name, f"{self._prefix}@{name} ")
        child.revoke_via = self.revoke_via
        child.attribute_via = self.attribute_via
        child.slowdown = self.slowdown
        child.absent = self.absent
        return child

    def adopt(self, mapping: Mapping) -> Mapping:
        """Return the handle of a parent's mapping in this forked child."""
        return replace(mapping, actor=self)

    def exec(self) -> Survivors:
        """Call exec(), only in a child; all names of the actor are gone.  Return the survivors."""

        def parse(reply: str) -> tuple[int, list[str]]:
            vmas, *names = reply.split()
            return int(vmas.removeprefix("vmas=")), names

        vmas, names = self.read(parse, "exec")
        sizes = (self.read(hex_number, "seek", name, whence="end") for name in names)
        buffers = tuple(Buffer(self, name, size, None) for name, size in zip(names, sizes, strict=True))
        return Survivors(vmas, buffers)

    def signal(self, child: Actor, name: str) -> None:
        """Send a child a signal: ``stop``, ``cont``, ``term`` or ``kill``."""
        self.say("signal", child.name, name)

    def reap(self, child: Actor) -> str:
        """Wait for the end of a child; return its status, such as ``exit=0`` or ``signal=9``."""
        return self.say("reap", child.name)

    def exit(self) -> None:
        """Ask the actor to end."""
        self.say("exit")


def _device(actor: Actor, address: str, reply: str) -> Device:
    name, bars = reply.split()
    sizes = (entry.split(":") for entry in bars.removeprefix("bars=").split(",") if entry)
    return Device(actor, name, address, {int(bar): int(size, 16) for bar, size in sizes})


def _buffer(actor: Actor, reply: str, device: Device | None) -> Buffer:
    name, size = reply.split()
    return Buffer(actor, name, int(size.removeprefix("size="), 16), device)


def _ranges(ranges: Sequence[Range]) -> str:
    """Format ranges for the protocol, with equal neighbours joined (``0x0:0x1000*4``)."""
    counted = [(one, len(list(group))) for one, group in groupby(ranges)]
    return ",".join(
        f"{one.offset:#x}:{one.length:#x}{f'*{times}' if times > 1 else ''}" for one, times in counted
    )
