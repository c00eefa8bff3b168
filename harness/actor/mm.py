"""Memory-management calls on a mapping: mremap(), mlock(), userfaultfd, ptrace and others.

Each may raise Refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Mapping


def remap(mapping: Mapping, length: int, flags: str = "maymove") -> Mapping:
    """mremap() to ``length`` bytes; ``flags`` of ``none``, ``maymove``, ``fixed`` (to a free address)."""
    mapping.actor.say("mremap", mapping.name, length, flags=flags)
    return replace(mapping, length=length)


def duplicate(mapping: Mapping) -> Mapping:
    """mremap() with an old length of 0; return the second mapping that this makes."""
    name = mapping.actor.say("mremap", mapping.name, mapping.length, duplicate=1)
    return replace(mapping, name=name)


def remap_dontunmap(mapping: Mapping) -> Mapping:
    """mremap() with MREMAP_DONTUNMAP; return the new mapping."""
    name = mapping.actor.say("mremap", mapping.name, mapping.length, flags="maymove,dontunmap")
    return replace(mapping, name=name)


def map_over(
    mapping: Mapping, buffer: Buffer, offset: int, length: int, start: int, *, replacing: bool = True
) -> None:
    """mmap() ``length`` bytes of a buffer, from its byte ``start`` on, at ``offset`` of a mapping.

    The flag is MAP_FIXED if ``replacing``, otherwise MAP_FIXED_NOREPLACE.
    """
    part = {"offset": offset, "length": length, "from": start}
    mapping.actor.say("mapover", mapping.name, buffer.name, **part, noreplace=None if replacing else 1)


def map_at(buffer: Buffer, address: int, length: int | None = None, offset: int = 0) -> Mapping:
    """mmap() a buffer at ``address`` with MAP_FIXED_NOREPLACE."""
    size = buffer.size - offset if length is None else length
    name = buffer.actor.say("mapat", buffer.name, address, length=size, offset=offset)
    return Mapping(buffer.actor, name, size)


def remap_file_page(mapping: Mapping, page: int, offset: int, length: int) -> None:
    """remap_file_pages(): remap a part to the file from page number ``page`` on."""
    mapping.actor.say("remapfile", mapping.name, page, offset=offset, length=length)


def sync(mapping: Mapping, mode: str) -> None:
    """msync() with the mode ``async``, ``sync`` or ``invalidate``."""
    mapping.actor.say("msync", mapping.name, mode)


def lock(mapping: Mapping) -> None:
    """mlock()."""
    mapping.actor.say("mlock", mapping.name)


def lock_all(actor: Actor, scope: str) -> None:
    """mlockall() ``current`` or ``future`` mappings, or both; munlockall() for ``none``."""
    actor.say("mlockall", scope)


def seal(mapping: Mapping) -> None:
    """mseal()."""
    mapping.actor.say("mseal", mapping.name)


def watch_faults(mapping: Mapping, mode: str) -> Buffer:
    """Register a mapping with a new userfaultfd, for ``missing``, ``wp``, ``wpasync`` or ``minor`` faults.

    With ``wpasync`` the mapping is write-protected at once; the kernel lifts that by itself
    (UFFD_FEATURE_WP_ASYNC).  Returns the userfaultfd as a buffer of size 0.
    """
    return Buffer(mapping.actor, mapping.actor.say("userfault", mapping.name, mode), 0, None)


def pin(mapping: Mapping, how: str, length: int) -> int:
    """Have the kernel pin the first ``length`` bytes; return the result of the call.

    ``how`` is ``direct`` (O_DIRECT read()), ``vmsplice``, ``uring`` or ``futex``.
    """
    return mapping.actor.read(int, "pinpages", mapping.name, how, length=length)


def open_mapped_file(mapping: Mapping) -> Buffer:
    """open() the /proc/self/map_files entry of a mapping that is one VMA; the buffer has size 0."""
    return Buffer(mapping.actor, mapping.actor.say("mapfile", mapping.name), 0, None)


@dataclass(frozen=True)
class Memory:
    """The resident and the locked memory of a process: VmRSS and VmLck in KiB."""

    resident: int
    locked: int

    @classmethod
    def of(cls, actor: Actor) -> Memory:
        """Read both values of an actor."""

        def parse(reply: str) -> Memory:
            found = dict(word.split("=") for word in reply.split())
            return cls(int(found["rss"]), int(found["locked"]))

        return actor.read(parse, "memory")


@dataclass(frozen=True)
class Debugger:
    """The access of a mapping's actor to the memory of its forked ``child``, or to its own if None.

    ``via`` is ``mem`` (/proc/PID/mem), ``ptrace`` or ``vm`` (process_vm_readv()).
    Offsets are bytes of ``mapping``, which the child has too.
    """

    mapping: Mapping
    child: Actor | None
    via: str

    @property
    def _target(self) -> str:
        return "self" if self.child is None else self.child.name

    def peek(self, offset: int) -> int:
        """Read 32 bits."""
        words = ("peek", self._target, self.mapping.name, offset)
        return self.mapping.actor.read(_number, *words, via=self.via)

    def poke(self, offset: int, value: int) -> None:
        """Write 32 bits (64 by ptrace)."""
        self.mapping.actor.say("poke", self._target, self.mapping.name, offset, value, via=self.via)


def advise_process(mapping: Mapping, child: Actor | None, advice: int) -> int:
    """process_madvise() a mapping in a forked child, or in the actor itself; return the result."""
    words = ("advise", "self" if child is None else child.name, mapping.name, advice)
    return mapping.actor.read(_number, *words)


def shared_files(actor: Actor, known: Callable[[str], bool] = lambda _: False) -> dict[str, int]:
    """Return the files that an actor has mapped shared, with their bytes, except those that are ``known``."""

    def parse(reply: str) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for word in reply.split():
            name, _, size = word.rpartition(":")
            if not known(name):
                sizes[name] = sizes.get(name, 0) + int(size, 16)
        return sizes

    return actor.read(parse, "mapped")


def _number(reply: str) -> int:
    return int(reply, 16)
