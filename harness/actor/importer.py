"""Handles for the test importer (probes/importer/): an importer of DMABUFs that does as it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Device, Mapping
from harness.vm.hardware import PAGE

MODULE = "patchproof_importer"
NEVER = "never"  # until release(), at the latest after a minute
USAGES = ("kernel", "write", "read", "bookkeep")  # of a fence, enum dma_resv_usage
CLASSES = ("dynamic", "static", "nop2p", "nocallback")


@dataclass(frozen=True)
class Event:
    """An event of an importer; ``sequence`` is over all importers of the machine.

    ``time`` is CLOCK_MONOTONIC in ns; of ``unmapped`` and ``signaled`` it is the time before the
    call.  ``errno`` is the number of an errno, 0 for success.  ``process`` and ``name`` are
    those of the caller, in a callback of the owner of the device.  ``power`` is the power
    state of the exporter, 0 for D0, -1 if the importer was not told which device that is.
    ``reservation`` is true while the reservation lock of the buffer is held by anyone,
    ``mmap_lock`` while the caller's mmap_lock is.  ``locks`` are the caller's locks, each
    with ``:r`` or ``:w``, oldest first; None if the kernel has no lockdep.
    """

    sequence: int
    time: int
    what: str
    errno: int
    process: int
    name: str
    power: int
    reservation: bool
    mmap_lock: bool
    locks: tuple[str, ...] | None

    def __str__(self) -> str:
        return f"{self.what} with errno {self.errno}" if self.errno else self.what

    @classmethod
    def parse(cls, word: str) -> Event:
        """Parse a word of an ``imprecords`` reply.  Raises ValueError."""
        sequence, time, what, errno, process, name, power, flags, locks = word.split(",")
        return cls(
            sequence=int(sequence),
            time=int(time),
            what=what,
            errno=int(errno),
            process=int(process),
            name=name,
            power=int(power),
            reservation="R" in flags or ("r" in flags and locks == "?"),
            mmap_lock="m" in flags,
            locks=None if locks == "?" else tuple(filter(None, locks.split("+"))),
        )


@dataclass(frozen=True)
class Entry:
    """An entry of a scatter list; the address is that on the bus if exporter and importer are one device."""

    address: int
    length: int

    def __str__(self) -> str:
        return f"{self.length:#x} bytes at {self.address:#x}"

    @classmethod
    def parse(cls, word: str) -> Entry:
        """Parse a word of an ``impentries`` reply.  Raises ValueError."""
        address, length = word.split(":")
        return cls(int(address, 16), int(length, 16))


@dataclass(frozen=True)
class Counts:
    """The state of an importer: ``pins``, unsignalled ``fences``, ``lost`` events; and counts of events."""

    attached: bool
    mapped: bool
    pins: int
    fences: int
    lost: int
    events: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, reply: str) -> Counts:
        """Parse an ``impcounts`` reply.  Raises ValueError, LookupError."""
        words = {key: int(value) for key, value in (word.split("=") for word in reply.split())}
        attached, mapped, pins, fences, lost = (
            words.pop(key) for key in ("is_attached", "is_mapped", "pins", "fences", "lost")
        )
        return cls(attached != 0, mapped != 0, pins, fences, lost, words)


@dataclass(frozen=True)
class Span:
    """The begin and the end of an operation in ns of CLOCK_MONOTONIC, the clock of Event.time."""

    began: int
    ended: int

    @classmethod
    def of_last(cls, actor: Actor) -> Span:
        """Return the span of the operation that ``actor`` did last."""
        return actor.read(cls.parse, "clock")

    @classmethod
    def parse(cls, reply: str) -> Span:
        """Parse a ``clock`` reply.  Raises ValueError."""
        began, ended = (int(word.partition("=")[2]) for word in reply.split())
        return cls(began, ended)


@dataclass(frozen=True)
class Importer:
    """An importer of an actor, by name; it has one attachment at a time."""

    actor: Actor
    name: str

    @classmethod
    def open(cls, actor: Actor) -> Importer:
        """Open a new importer, which ends with the actor.  The module must be loaded (fixture importers)."""
        return cls(actor, actor.say("importer"))

    def attach(
        self, buffer: Buffer, kind: str = "dynamic", *, device: str | None = None, exporter: str | None = None
    ) -> None:
        """Attach to a DMABUF as an importer of this ``kind``, one of CLASSES.

        ``device`` is the address of the PCI function that the importer is a driver of; a map
        of a VFIO DMABUF works with the exporter's own.  ``exporter`` is the function whose
        power state events record.
        """
        self.actor.say(
            *("impattach", self.name, buffer.name), **{"as": kind}, device=device, exporter=exporter
        )

    def detach(self) -> None:
        """Release, unmap, unpin and detach."""
        self.actor.say("impdetach", self.name)

    def plan(
        self,
        *,
        stall: int | str | None = None,
        remap: bool = False,
        fence: str | None = None,
        signal: int | str | None = None,
        unmap: int | str | None = None,
        unpin: bool = False,
    ) -> None:
        """Plan what later callbacks do, in this order.

        ``stall`` is how long a callback sleeps, in ms, ``remap`` has it try to map.
        ``fence`` is the usage, one of USAGES, of a fence that it adds and that is
        signalled ``signal`` ms later.  ``unmap`` is in ms from the callback to the unmap; 0,
        the default, is within it.  ``unpin`` has it unpin.  Each of the times may be NEVER.
        """
        times = {"stall": stall, "signal": signal, "unmap": unmap}
        flags = {"remap": 1 if remap else None, "unpin": 1 if unpin else None}
        self.actor.say("implan", self.name, fence=fence, **times, **flags)

    def pin(self) -> None:
        """Call dma_buf_pin() with the reservation lock held."""
        self.actor.say("imppin", self.name)

    def unpin(self) -> None:
        """Call dma_buf_unpin() as often as it was pinned."""
        self.actor.say("impunpin", self.name)

    def map(self, direction: str | None = None) -> None:
        """Call dma_buf_map_attachment(); ``direction`` is ``both``, ``to`` or ``from`` the device."""
        self.actor.say("impmap", self.name, direction=direction)

    def unmap(self) -> None:
        """Call dma_buf_unmap_attachment().  Refused (EINVAL) if it is not mapped."""
        self.actor.say("impunmap", self.name)

    def entries(self) -> list[Entry]:
        """Return the scatter list of the map.  Refused (EINVAL) if it is not mapped."""
        return self.actor.read(
            lambda reply: [Entry.parse(word) for word in reply.split()], "impentries", self.name
        )

    def vmap(self) -> None:
        """Call dma_buf_vmap(), and undo it."""
        self.actor.say("impvmap", self.name)

    def mmap(self, length: int, offset: int = 0, prot: str = "rw") -> Mapping:
        """mmap() the importer, which maps the DMABUF by dma_buf_mmap()."""
        name = self.actor.say("map", self.name, length=length, offset=offset or None, prot=prot)
        return Mapping(self.actor, name, -(-length // PAGE) * PAGE)

    def release(self) -> None:
        """End its stalls, signal its fences, and start its planned unmaps now."""
        self.actor.say("imprelease", self.name)

    def wait(self, event: str, count: int = 1, deadline: int | None = None) -> None:
        """Wait until ``event`` (``notified``, ``stalled``, ...) has happened ``count`` times.

        Another actor's operation may cause it meanwhile.
        """
        self.actor.say("impwait", self.name, event, count=count, deadline=deadline)

    def counts(self) -> Counts:
        """Return its state, and how often each event has happened successfully."""
        return self.actor.read(Counts.parse, "impcounts", self.name)

    def events(self, *what: str) -> list[Event]:
        """Return its events in order, of these kinds only if any are given; at most the first 512."""
        events = self.actor.read(
            lambda reply: [Event.parse(word) for word in reply.split()], "imprecords", self.name
        )
        return [event for event in events if not what or event.what in what]

    def suspend_repeatedly(self, device: Device, count: int) -> None:
        """``count`` times, map, and turn the memory of ``device``, the exporter, off and on.

        The deadline allows 50 ms for each, which a kernel with KASAN on a busy host needs.
        """
        self.actor.say("impcycle", self.name, device.name, count=count, deadline=10 + count // 20)

    def give(self, child: Actor) -> Importer:
        """Send the importer's descriptor to a child; return the child's handle.  Both may use it."""
        self.actor.say("send", self.name, child.name)
        return Importer(child, child.say("recv"))

    def close(self) -> None:
        """Close the importer: it releases, unmaps, unpins and detaches."""
        self.actor.say("close", self.name)


def unload(actor: Actor) -> None:
    """Unload the module of the importers.  Refused (EAGAIN) while one is open, or a buffer has its fence."""
    actor.say("unloadmodule", MODULE)


def prime(buffer: Buffer) -> None:
    """Import a DMABUF into vgem (DRM_IOCTL_PRIME_FD_TO_HANDLE), and close the node again.

    NotOfferedError if the kernel lacks vgem.
    """
    buffer.actor.require("DRM_VGEM")
    buffer.actor.say("prime", buffer.name)
