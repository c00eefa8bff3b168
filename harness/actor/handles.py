"""Handles for what an actor holds: devices, buffers, mappings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from harness.actor.hammer import Hammer
from harness.actor.page_table import PageTable
from harness.actor.reply import Fault, hex_number, word_or_fault
from harness.lib.errors import HarnessError

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


@dataclass(frozen=True)
class Region:
    """A region of a VFIO device: bytes, position in the device fd, VFIO_REGION_INFO_FLAG_*."""

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

    def region(self, index: int) -> Region:
        """VFIO_DEVICE_GET_REGION_INFO."""

        def parse(said: str) -> Region:
            words = dict(word.split("=") for word in said.split())
            return Region(*(int(words[key], 16) for key in ("size", "offset", "flags")))

        return self.actor.read(parse, "region", self.name, index)

    def read(self, region: int | str, offset: int, width: int) -> int:
        """pread() of 1, 2, 4 or 8 bytes of a region; ``config`` is the configuration space."""
        return self.actor.read(hex_number, "read", self.name, region, offset, width)

    def write(self, region: int | str, offset: int, width: int, value: int) -> None:
        """pwrite() of 1, 2, 4 or 8 bytes of a region."""
        self.actor.say("write", self.name, region, offset, width, value)

    def decode_memory(self, on: bool, width: int = 2) -> None:
        """Have it answer at its memory addresses or not: PCI_COMMAND_MEMORY, in 1, 2 or 4 bytes."""
        # The upper half of four bytes is the status, where a 1 clears.
        command = self.read("config", PCI_COMMAND, width) & 0xFFFF & ~PCI_COMMAND_MEMORY
        self.write("config", PCI_COMMAND, width, command | (PCI_COMMAND_MEMORY if on else 0))

    def power(self, state: int) -> None:
        """Put it into D0 (0) to D3hot (3).  HarnessError if it has no power management."""
        control = self._capability(PCI_CAP_ID_PM) + PCI_PM_CTRL
        now = self.read("config", control, 2)
        self.write("config", control, 2, now & ~PCI_PM_CTRL_STATE_MASK | state)

    def reset_function(self) -> None:
        """Function-level reset by PCI Express' device control.  HarnessError if it is no such device."""
        control = self._capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL
        now = self.read("config", control, 2)
        self.write("config", control, 2, now | PCI_EXP_DEVCTL_BCR_FLR)

    @cached_property
    def _capabilities(self) -> dict[int, int]:
        found = {}
        place = self.read("config", PCI_CAPABILITY_LIST, 1)
        while place:
            entry = self.read("config", place, 2)
            found[entry & 0xFF] = place
            place = entry >> 8
        return found

    def _capability(self, identity: int) -> int:
        if identity not in self._capabilities:
            raise HarnessError(f"The device {self.address} has no capability {identity:#x}.")
        return self._capabilities[identity]

    def reset(self) -> None:
        """VFIO_DEVICE_RESET."""
        self.actor.say("reset", self.name)

    @contextmanager
    def resetting(self, count: int) -> Iterator[None]:
        """VFIO_DEVICE_RESET ``count`` times by a thread of the actor's; when this ends they are done."""
        self.actor.say("resets", self.name, count=count)
        yield
        self.actor.say("resetsdone")

    def hot_reset(self, by: Device | None = None) -> None:
        """VFIO_DEVICE_PCI_HOT_RESET of all on its bus; its group proves the right to, or that of ``by``."""
        self.actor.say("hotreset", self.name, by=None if by is None else by.name)

    def enter_low_power(self, wakeup: bool = False) -> None:
        """VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, or with ``wakeup`` ..._ENTRY_WITH_WAKEUP, see wakeups()."""
        self.actor.say("lowpower", self.name, "wakeup" if wakeup else "enter")

    def wakeups(self) -> int:
        """How often it has told that it was woken up, since this was last asked."""
        return self.actor.read(int, "wakeups", self.name)

    def info(self) -> None:
        """VFIO_DEVICE_GET_INFO."""
        self.actor.say("info", self.name)

    def import_buffer(self, buffer: Buffer, iova: int) -> None:
        """Have iommufd import a DMABUF at ``iova``, alone in an address space that becomes the device's."""
        self.actor.say("import", self.name, buffer.name, length=buffer.size, iova=iova)

    def exit_low_power(self) -> None:
        """VFIO_DEVICE_FEATURE_LOW_POWER_EXIT."""
        self.actor.say("lowpower", self.name, "exit")

    def close(self) -> None:
        """Close it and what kept its IOMMU."""
        self.actor.say("close", self.name)


@dataclass(frozen=True)
class Buffer:
    """A DMABUF of ``size`` bytes; ``device`` is the one it was exported from, if this actor has it."""

    actor: Actor
    name: str
    size: int
    device: Device | None

    def seek(self, whence: str = "end", offset: int = 0) -> int:
        """lseek()."""
        return self.actor.read(hex_number, "seek", self.name, whence=whence, offset=offset or None)

    def dup(self, via: str | None = None) -> Buffer:
        """A second descriptor; ``via`` dup() or ``fcntl`` F_DUPFD_CLOEXEC."""
        return replace(self, name=self.actor.say("dup", self.name, via=via))

    def ioctl(self, request: int, argument: bytes | None = None) -> None:
        """Any ioctl, without an argument or with a pointer to ``argument``."""
        self.actor.say("ioctl", self.name, request, data=None if argument is None else argument.hex())

    def closes_on_exec(self) -> bool:
        """FD_CLOEXEC."""
        answers = {"cloexec=0": False, "cloexec=1": True}
        return self.actor.read(lambda said: answers[said.split()[0]], "fdflags", self.name)

    def fdinfo(self) -> dict[str, str]:
        """The lines of /proc/self/fdinfo, without inode and mount."""
        return self.actor.read(
            lambda said: dict(word.split("=", 1) for word in said.split()), "fdinfo", self.name
        )

    def reopen(self, open_flags: str | None = None) -> Buffer:
        """Open it again through /proc/self/fd; ``path`` (O_PATH), ``rdonly``, ``wronly``, ``rdwr``."""
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

    def load(self, bits: int, offset: int) -> int | Fault:
        """One load of 8, 16, 32 or 64 bits."""
        answer = self.actor.do(f"load{bits}", self.name, offset)
        if isinstance(answer, Fault):
            return answer
        try:
            return hex_number(answer)
        except ValueError as error:
            raise HarnessError(f"The answer to `load{bits}` is no number: {answer[:200]!r}") from error

    def store(self, bits: int, offset: int, value: int) -> Fault | None:
        """One store of 8, 16, 32 or 64 bits; None if it went through."""
        answer = self.actor.do(f"store{bits}", self.name, offset, value)
        return answer if isinstance(answer, Fault) else None

    def load32(self, offset: int) -> int | Fault:
        """One load of 32 bits."""
        return self.load(32, offset)

    def store32(self, offset: int, value: int) -> Fault | None:
        """One store of 32 bits."""
        return self.store(32, offset, value)

    def pages(self, offset: int | None = None, length: int | None = None) -> list[int | Fault]:
        """The first 32-bit word of every page, or how its load faulted."""
        options = {"offset": offset, "length": length}
        return self.actor.read(
            lambda said: [word_or_fault(word) for word in said.split()], "loadpages", self.name, **options
        )

    def at(self, offsets: Iterable[int]) -> list[int | Fault]:
        """The 32-bit words at these offsets, loaded in this order, or how each load faulted."""
        listed = ",".join(map(hex, offsets))
        return self.actor.read(
            lambda said: list(map(word_or_fault, said.split())), "loadlist", self.name, listed
        )

    def touch(
        self, value: int | None = None, offset: int | None = None, length: int | None = None
    ) -> int | Fault:
        """Load from every page in turn, or store ``value`` there; the minor page faults that it took."""
        answer = self.actor.do("touch", self.name, value=value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else int(answer.partition("faults=")[2])

    def stamp(self, seed: int = 0) -> Fault | None:
        """Write page number + ``seed`` in the first 32-bit word of every page; the first fault ends it."""
        answer = self.actor.do("stamp", self.name, seed=seed or None)
        return answer if isinstance(answer, Fault) else None

    def fill(self, value: int, offset: int | None = None, length: int | None = None) -> Fault | None:
        """Store ``value`` in every 32-bit word."""
        answer = self.actor.do("fill", self.name, value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else None

    def differs(self, value: int, offset: int | None = None, length: int | None = None) -> str | Fault:
        """Where a 32-bit word is not ``value`` (``offset=0x4 value=0x...``), empty if nowhere."""
        answer = self.actor.do("compare", self.name, value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else answer.removeprefix("differs ").replace("equal", "")

    def page_table(self) -> PageTable:
        """What the actor's page table holds of it."""
        return self.actor.page_table(self)

    def copy_out(self, offset: int, length: int = 4) -> bytes:
        """write() of up to a page from it to a pipe; what arrived.  Refused (EFAULT) where a load faults."""
        return self.actor.read(
            lambda said: bytes.fromhex(said.partition(" data=")[2]),
            *("syscopy", self.name, "out"),
            offset=offset,
            bytes=length,
        )

    def copy_in(self, offset: int, value: int, length: int = 4) -> int:
        """read() from a pipe into it of a 32-bit value again and again; the bytes copied."""
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
        """Start threads that keep storing the 32-bit ``value`` whatever becomes of the mapping.

        ``access`` is ``store``, ``load``, or ``both``; ``cpus`` are where the threads
        are pinned, in turn; ``stride`` is how many bytes each goes on.  ``held`` has
        them wait for the reclaim() that releases them; ``inside`` a signal ``handler``
        they stay in it, ``clone`` makes them processes that share the actor's memory.
        """
        listed = None if cpus is None else ",".join(map(str, cpus))
        part = {"offset": offset, "length": length, "stride": stride}
        options = {"access": access, "cpus": listed, **part, "held": 1 if held else None, "in": inside}
        name = self.actor.say("hammer", self.name, value=value, threads=threads, **options)
        size = self.length - (offset or 0) if length is None else length
        places = size // math.gcd(size, stride or 4)
        return Hammer(self.actor, name, threads, 2 * places if access == "both" else places)

    def protect(self, protection: str, offset: int | None = None, length: int | None = None) -> None:
        """mprotect() all or a part: ``none``, ``r``, ``rw``."""
        self.actor.say("mprotect", self.name, protection, offset=offset, length=length)

    def advise(self, advice: str, offset: int | None = None, length: int | None = None) -> None:
        """madvise() all or a part: ``hugepage``, ``dontneed``."""
        self.actor.say("madvise", self.name, advice, offset=offset, length=length)

    def watch(self, offset: int | None = None, length: int | None = None) -> None:
        """Start a thread that loads the first 32-bit word of every page over and over; one per actor.

        Each has been loaded once when this returns.  Actor.watched() ends it.
        """
        self.actor.say("watch", self.name, offset=offset, length=length)

    def unmap(self, offset: int | None = None, length: int | None = None) -> None:
        """munmap() all or a part."""
        self.actor.say("unmap", self.name, offset=offset, length=length)

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmap()
