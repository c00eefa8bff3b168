"""What else the kernel can be asked to do with a mapping than to load, to store and to unmap.

Each may raise Refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Mapping


def remap(mapping: Mapping, length: int, flags: str = "maymove") -> Mapping:
    """mremap() to another length; ``flags`` of ``none``, ``maymove``, ``fixed`` (to a free place)."""
    mapping.actor.say("mremap", mapping.name, length, flags=flags)
    return replace(mapping, length=length)


def duplicate(mapping: Mapping) -> Mapping:
    """mremap() of nothing of it (an old length of 0), by which a second mapping appears."""
    name = mapping.actor.say("mremap", mapping.name, mapping.length, duplicate=1)
    return replace(mapping, name=name)


def leave_behind(mapping: Mapping) -> Mapping:
    """mremap() with MREMAP_DONTUNMAP; the mapping that is new."""
    name = mapping.actor.say("mremap", mapping.name, mapping.length, flags="maymove,dontunmap")
    return replace(mapping, name=name)


def put_over(
    mapping: Mapping, buffer: Buffer, offset: int, length: int, start: int, *, replacing: bool = True
) -> None:
    """mmap() ``length`` bytes of a buffer from ``start`` on at ``offset`` of a mapping.

    MAP_FIXED, or not ``replacing`` MAP_FIXED_NOREPLACE.
    """
    part = {"offset": offset, "length": length, "from": start}
    mapping.actor.say("mapover", mapping.name, buffer.name, **part, noreplace=None if replacing else 1)


def map_at(buffer: Buffer, address: int, length: int | None = None, offset: int = 0) -> Mapping:
    """mmap() of a buffer at an address where nothing is mapped."""
    size = buffer.size - offset if length is None else length
    name = buffer.actor.say("mapat", buffer.name, address, length=size, offset=offset)
    return Mapping(buffer.actor, name, size)


def remap_file_page(mapping: Mapping, page: int, offset: int, length: int) -> None:
    """remap_file_pages(): let a part show the file from ``page`` on."""
    mapping.actor.say("remapfile", mapping.name, page, offset=offset, length=length)


def sync(mapping: Mapping, how: str) -> None:
    """msync() ``async``, ``sync`` or ``invalidate``."""
    mapping.actor.say("msync", mapping.name, how)


def lock(mapping: Mapping) -> None:
    """mlock()."""
    mapping.actor.say("mlock", mapping.name)


def lock_all(actor: Actor, what: str) -> None:
    """mlockall() ``current``, ``future`` or both; munlockall() for ``none``."""
    actor.say("mlockall", what)


def seal(mapping: Mapping) -> None:
    """mseal()."""
    mapping.actor.say("mseal", mapping.name)


def watch_faults(mapping: Mapping, mode: str) -> Buffer:
    """Register it with a userfaultfd: ``missing``, ``wp``, ``wpasync`` or ``minor``; the userfaultfd.

    With ``wpasync`` it is write-protected at once, which the kernel undoes by itself (UFFD_FEATURE_WP_ASYNC).
    """
    return Buffer(mapping.actor, mapping.actor.say("userfault", mapping.name, mode), 0, None)


def pin(mapping: Mapping, how: str, length: int) -> int:
    """Have the kernel pin the first ``length`` bytes: ``direct``, ``vmsplice``, ``uring`` or ``futex``.

    What the call returned.
    """
    return mapping.actor.read(int, "pinpages", mapping.name, how, length=length)


def open_mapped_file(mapping: Mapping) -> Buffer:
    """open() of /proc/self/map_files/... of a mapping that is one VMA."""
    return Buffer(mapping.actor, mapping.actor.say("mapfile", mapping.name), 0, None)


@dataclass(frozen=True)
class Memory:
    """What of a process is in memory, and what is locked there: VmRSS and VmLck in KiB."""

    resident: int
    locked: int

    @classmethod
    def of(cls, actor: Actor) -> Memory:
        """Ask an actor about itself."""

        def parse(said: str) -> Memory:
            found = dict(word.split("=") for word in said.split())
            return cls(int(found["rss"]), int(found["locked"]))

        return actor.read(parse, "memory")


@dataclass(frozen=True)
class Debugger:
    """Another process that reaches for the memory of a forked child of its own, or for its own.

    ``via`` /proc/PID/mem (``mem``), ``ptrace`` or process_vm_readv() (``vm``);
    offsets are those of the mapping that both have.
    """

    mapping: Mapping
    child: Actor | None
    via: str

    @property
    def _who(self) -> str:
        return "self" if self.child is None else self.child.name

    def peek(self, offset: int) -> int:
        """Read 32 bits."""
        words = ("peek", self._who, self.mapping.name, offset)
        return self.mapping.actor.read(_number, *words, via=self.via)

    def poke(self, offset: int, value: int) -> None:
        """Write 32 bits (64 by ptrace)."""
        self.mapping.actor.say("poke", self._who, self.mapping.name, offset, value, via=self.via)


def advise_process(mapping: Mapping, child: Actor | None, advice: int) -> int:
    """process_madvise() of a mapping in a forked child, or in the actor itself; what it returned."""
    words = ("advise", "self" if child is None else child.name, mapping.name, advice)
    return mapping.actor.read(_number, *words)


def shared_files(actor: Actor, known: Callable[[str], bool] = lambda _: False) -> dict[str, int]:
    """The files that an actor has mapped shared, and how many bytes; without those that are ``known``."""

    def parse(said: str) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for word in said.split():
            name, _, size = word.rpartition(":")
            if not known(name):
                sizes[name] = sizes.get(name, 0) + int(size, 16)
        return sizes

    return actor.read(parse, "mapped")


def _number(said: str) -> int:
    return int(said, 16)
