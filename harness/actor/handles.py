"""Handles for the devices, buffers and mappings of an actor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from harness.actor.hammer import Hammer
from harness.actor.reply import Fault, hex_number, word_or_fault
from harness.actor.session import understand
from harness.lib.errors import HarnessError
from harness.lib.page_table import PageTable

if TYPE_CHECKING:
    from harness.actor.actor import Actor

# include/uapi/linux/pci_regs.h
PCI_COMMAND, PCI_COMMAND_MEMORY = 0x04, 0x2
PCI_CAPABILITY_LIST, PCI_CAP_ID_PM, PCI_CAP_ID_EXP = 0x34, 0x01, 0x10
PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK = 0x04, 0x3
PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR = 0x08, 0x8000


@dataclass(frozen=True)
class Range:
    """A part of a BAR: ``offset`` and ``length`` in bytes."""

    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.length:#x} bytes at {self.offset:#x}"


@dataclass(frozen=True)
class Region:
    """A region of a VFIO device: size in bytes, offset in the device fd, VFIO_REGION_INFO_FLAG_*."""

    size: int
    offset: int
    flags: int


@dataclass(frozen=True)
class Device:
    """An open VFIO device; ``bars`` maps the index of a BAR to its size in bytes."""

    actor: Actor
    name: str
    address: str
    bars: dict[int, int]

    def __str__(self) -> str:
        return self.name

    def region(self, index: int) -> Region:
        """Call VFIO_DEVICE_GET_REGION_INFO."""

        def parse(reply: str) -> Region:
            words = dict(word.split("=") for word in reply.split())
            return Region(*(int(words[key], 16) for key in ("size", "offset", "flags")))

        return self.actor.read(parse, "region", self.name, index)

    def read(self, region: int | str, offset: int, width: int) -> int:
        """pread() 1, 2, 4 or 8 bytes (``width``) of a region by index, or of the ``config`` space."""
        return self.actor.read(hex_number, "read", self.name, region, offset, width)

    def write(self, region: int | str, offset: int, width: int, value: int) -> None:
        """pwrite() 1, 2, 4 or 8 bytes (``width``) of a region, as for read()."""
        self.actor.say("write", self.name, region, offset, width, value)

    def decode_memory(self, on: bool, width: int = 2) -> None:
        """Switch memory decoding on or off by a write of PCI_COMMAND_MEMORY in 1, 2 or 4 bytes."""
        # The upper half of a 4-byte access is PCI_STATUS, where writing a 1 clears a bit.
        command = self.read("config", PCI_COMMAND, width) & 0xFFFF & ~PCI_COMMAND_MEMORY
        self.write("config", PCI_COMMAND, width, command | (PCI_COMMAND_MEMORY if on else 0))

    def power(self, state: int) -> None:
        """Set the power state from D0 (0) to D3hot (3).  HarnessError if there is no power management."""
        control = self._capability(PCI_CAP_ID_PM) + PCI_PM_CTRL
        now = self.read("config", control, 2)
        self.write("config", control, 2, now & ~PCI_PM_CTRL_STATE_MASK | state)

    def reset_function(self) -> None:
        """Start a function-level reset (PCI_EXP_DEVCTL_BCR_FLR).  HarnessError if not PCI Express."""
        control = self._capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL
        now = self.read("config", control, 2)
        self.write("config", control, 2, now | PCI_EXP_DEVCTL_BCR_FLR)

    @cached_property
    def _capabilities(self) -> dict[int, int]:
        found = {}
        offset = self.read("config", PCI_CAPABILITY_LIST, 1)
        while offset:
            entry = self.read("config", offset, 2)
            found[entry & 0xFF] = offset
            offset = entry >> 8
        return found

    def _capability(self, identity: int) -> int:
        if identity not in self._capabilities:
            raise HarnessError(f"The device {self.address} has no capability {identity:#x}.")
        return self._capabilities[identity]

    def reset(self) -> None:
        """Call VFIO_DEVICE_RESET."""
        self.actor.say("reset", self.name)

    @contextmanager
    def resetting(self, count: int) -> Iterator[None]:
        """Call VFIO_DEVICE_RESET ``count`` times in a thread of the actor, done when the block ends."""
        self.actor.say("resets", self.name, count=count)
        yield
        self.actor.say("resetsdone")

    def hot_reset(self, by: Device | None = None) -> None:
        """Call VFIO_DEVICE_PCI_HOT_RESET, with this device's group, or that of ``by``, as proof."""
        self.actor.say("hotreset", self.name, by=None if by is None else by.name)

    def enter_low_power(self, wakeup: bool = False) -> None:
        """Use VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, or ..._ENTRY_WITH_WAKEUP, see wakeups()."""
        self.actor.say("lowpower", self.name, "wakeup" if wakeup else "enter")

    def wakeups(self) -> int:
        """Return how often the wakeup eventfd was signalled since the last call."""
        return self.actor.read(int, "wakeups", self.name)

    def info(self) -> None:
        """Call VFIO_DEVICE_GET_INFO."""
        self.actor.say("info", self.name)

    def import_buffer(self, buffer: Buffer, iova: int) -> None:
        """Map a DMABUF at ``iova`` in a new IOAS of iommufd (IOMMU_IOAS_MAP_FILE), and attach the device."""
        space = self.actor.read(int, "ioas", self.name)
        self.actor.say("iomap", self.name, space, buffer.name, length=buffer.size, iova=iova)
        self.actor.say("attach", self.name, space)

    def exit_low_power(self) -> None:
        """Use VFIO_DEVICE_FEATURE_LOW_POWER_EXIT."""
        self.actor.say("lowpower", self.name, "exit")

    def close(self) -> None:
        """Close the device with its group and container, or its iommufd."""
        self.actor.say("close", self.name)


@dataclass(frozen=True)
class Buffer:
    """A DMABUF of ``size`` bytes; ``device`` is its exporter, None if this actor does not have it."""

    actor: Actor
    name: str
    size: int
    device: Device | None

    def __str__(self) -> str:
        return self.name

    def seek(self, whence: str = "end", offset: int = 0) -> int:
        """lseek() and return the new position; by default the size."""
        return self.actor.read(hex_number, "seek", self.name, whence=whence, offset=offset or None)

    def dup(self, via: str | None = None) -> Buffer:
        """Make a second descriptor ``via`` dup() or ``fcntl`` F_DUPFD_CLOEXEC."""
        return replace(self, name=self.actor.say("dup", self.name, via=via))

    def ioctl(self, request: int, argument: bytes | None = None) -> None:
        """Call any ioctl, without an argument or with a pointer to ``argument``."""
        self.actor.say("ioctl", self.name, request, data=None if argument is None else argument.hex())

    def closes_on_exec(self) -> bool:
        """Return whether FD_CLOEXEC is set."""
        answers = {"cloexec=0": False, "cloexec=1": True}
        return self.actor.read(lambda reply: answers[reply.split()[0]], "fdflags", self.name)

    def fdinfo(self) -> dict[str, str]:
        """Return the lines of /proc/self/fdinfo, without inode and mount."""
        return self.actor.read(
            lambda reply: dict(word.split("=", 1) for word in reply.split()), "fdinfo", self.name
        )

    def reopen(self, open_flags: str | None = None) -> Buffer:
        """Open the file again through /proc/self/fd; ``path`` (O_PATH), ``rdonly``, ``wronly``, ``rdwr``."""
        return replace(self, name=self.actor.say("reopen", self.name, open_flags=open_flags))

    def close(self) -> None:
        """Close the descriptor."""
        self.actor.say("close", self.name)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Mapping:
    """A mapping of ``length`` bytes, whole pages; offsets are bytes from its start."""

    actor: Actor
    name: str
    length: int

    def __str__(self) -> str:
        return self.name

    def load(self, bits: int, offset: int) -> int | Fault:
        """Load 8, 16, 32 or 64 bits; return the value, or the fault."""
        answer = self.actor.do(f"load{bits}", self.name, offset)
        if isinstance(answer, Fault):
            return answer
        try:
            return hex_number(answer)
        except ValueError as error:
            raise HarnessError(f"The answer to `load{bits}` is no number: {answer[:200]!r}") from error

    def store(self, bits: int, offset: int, value: int) -> Fault | None:
        """Store 8, 16, 32 or 64 bits; return the fault, None if there was none."""
        answer = self.actor.do(f"store{bits}", self.name, offset, value)
        return answer if isinstance(answer, Fault) else None

    def load32(self, offset: int) -> int | Fault:
        """Load 32 bits."""
        return self.load(32, offset)

    def store32(self, offset: int, value: int) -> Fault | None:
        """Store 32 bits."""
        return self.store(32, offset, value)

    def pages(self, offset: int | None = None, length: int | None = None) -> list[int | Fault]:
        """Load the first 32-bit word of every page; return each word, or its fault."""
        options = {"offset": offset, "length": length}
        return self.actor.read(
            lambda reply: [word_or_fault(word) for word in reply.split()], "loadpages", self.name, **options
        )

    def at(self, offsets: Iterable[int]) -> list[int | Fault]:
        """Load the 32-bit words at these offsets, in this order; return each word, or its fault."""
        listed = ",".join(map(hex, offsets))
        return self.actor.read(
            lambda reply: list(map(word_or_fault, reply.split())), "loadlist", self.name, listed
        )

    def touch(
        self, value: int | None = None, offset: int | None = None, length: int | None = None
    ) -> int | Fault:
        """Load from every page, or store ``value`` there; return the number of page faults, or the fault."""
        answer = self.actor.do("touch", self.name, value=value, offset=offset, length=length)
        if isinstance(answer, Fault):
            return answer
        return understand(lambda reply: int(reply.partition("faults=")[2]), answer, "touch")

    def stamp(self, seed: int = 0) -> Fault | None:
        """Store page number + ``seed`` in the first 32-bit word of every page; stop at the first fault."""
        answer = self.actor.do("stamp", self.name, seed=seed or None)
        return answer if isinstance(answer, Fault) else None

    def fill(self, value: int, offset: int | None = None, length: int | None = None) -> Fault | None:
        """Store ``value`` in every 32-bit word; stop at the first fault."""
        answer = self.actor.do("fill", self.name, value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else None

    def differs(self, value: int, offset: int | None = None, length: int | None = None) -> str | Fault:
        """Return the first 32-bit word that is not ``value`` (``offset=0x4 value=0x...``), empty if none."""
        answer = self.actor.do("compare", self.name, value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else answer.removeprefix("differs ").replace("equal", "")

    def page_table(self) -> PageTable:
        """Return the entries of the actor's page table for this mapping."""
        return self.actor.page_table(self)

    def copy_out(self, offset: int, length: int = 4) -> bytes:
        """write() up to a page to a pipe; return the bytes.  Refused (EFAULT) where a load faults."""
        return self.actor.read(
            lambda reply: bytes.fromhex(reply.partition(" data=")[2]),
            *("syscopy", self.name, "out"),
            offset=offset,
            bytes=length,
        )

    def copy_in(self, offset: int, value: int, length: int = 4) -> int:
        """read() a repeated 32-bit value from a pipe into the mapping; return the number of bytes copied."""
        return self.actor.read(int, "syscopy", self.name, "in", offset=offset, bytes=length, value=value)

    def hammer(
        self,
        value: int = 0,
        *,
        access: str | None = None,
        threads: int = 1,
        cpus: Sequence[int] | None = None,
        offset: int | None = None,
        length: int | None = None,
        stride: int | None = None,
        held: bool = False,
        inside: str | None = None,
    ) -> Hammer:
        """Start threads that keep accessing the mapping, even after it was revoked.

        ``access`` is ``store`` of the 32-bit ``value``, ``load``, or ``both``.  The threads
        are pinned to ``cpus`` in turn.  Places are ``stride`` bytes apart.  With ``held``
        the threads wait for the reclaim() that releases them.  ``inside`` is ``handler``
        for accesses from within a signal handler, ``clone`` for processes that share the
        actor's memory (CLONE_VM).
        """
        listed = None if cpus is None else ",".join(map(str, cpus))
        part = {"offset": offset, "length": length, "stride": stride}
        options = {"access": access, "cpus": listed, **part, "held": 1 if held else None, "in": inside}
        name = self.actor.say("hammer", self.name, value=value, threads=threads, **options)
        size = self.length - (offset or 0) if length is None else length
        places = size // math.gcd(size, stride or 4)
        return Hammer(self.actor, name, threads, 2 * places if access == "both" else places)

    def protect(self, protection: str, offset: int | None = None, length: int | None = None) -> None:
        """mprotect() all or a part to ``none``, ``r``, ``rw``, ..."""
        self.actor.say("mprotect", self.name, protection, offset=offset, length=length)

    def advise(self, advice: str, offset: int | None = None, length: int | None = None) -> None:
        """madvise() all or a part with ``hugepage``, ``dontneed``, ..."""
        self.actor.say("madvise", self.name, advice, offset=offset, length=length)

    def watch(self, offset: int | None = None, length: int | None = None) -> None:
        """Start a thread that loads the first 32-bit word of every page repeatedly; one per actor.

        Every page has been loaded once when this returns.  Actor.watched() ends the thread.
        """
        self.actor.say("watch", self.name, offset=offset, length=length)

    def unmap(self, offset: int | None = None, length: int | None = None) -> None:
        """munmap() all or a part."""
        self.actor.say("unmap", self.name, offset=offset, length=length)

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmap()
