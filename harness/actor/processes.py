"""Relations of actors as processes: queued descriptors, orphans, namespaces, debugging, core dumps."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Device
from harness.actor.reply import ActorDiedError, Refused
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

CORE_PATTERN = "/proc/sys/kernel/core_pattern"
_CORE = "/run/core-of-an-actor"


def send(thing: Buffer | Device, to: Actor) -> None:
    """Send a descriptor to a child's UNIX socket, where it stays queued until receive()."""
    thing.actor.say("send", thing.name, to.name)


def receive(actor: Actor, like: Buffer) -> Buffer:
    """Receive the descriptor that an actor's parent has sent, as a buffer of the size of ``like``."""
    return Buffer(actor, actor.say("recv"), like.size, None)


def orphan(actor: Actor) -> None:
    """Continue an actor in a child of its process, and end that process."""
    actor.say("orphan")


def leave(actor: Actor, *namespaces: str) -> None:
    """unshare() namespaces: ``user``, ``mount``, ``pid`` (of later children), ``net``, ``ipc``, ``uts``.

    Raises HarnessError if the kernel refuses.
    """
    try:
        actor.say("unshare", ",".join(namespaces))
    except Refused as refused:
        raise HarnessError(f"The kernel does not let an actor leave its namespaces: {refused}") from refused


@contextmanager
def seized(parent: Actor, child: Actor) -> Iterator[None]:
    """Stop all threads of a child during the block, by PTRACE_SEIZE and PTRACE_INTERRUPT."""
    parent.say("seize", child.name)
    yield
    parent.say("release", child.name)


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD of a core dump: its bytes of ``memory`` (p_memsz) and in the ``file`` (p_filesz)."""

    memory: int
    file: int

    def __str__(self) -> str:
        return f"{self.memory:#x} bytes of memory with {self.file:#x} in the file"


def dump(guest: Guest, child: Actor) -> list[Segment]:
    """End an actor by SIGABRT with a coredump_filter of 0x7f; return the segments of its core dump.

    Raises HarnessError if the actor does not end, or there is no dump.
    """
    before = guest.read(CORE_PATTERN).strip()
    guest.write(CORE_PATTERN, _CORE)
    try:
        child.say("abort")
    except ActorDiedError:
        content = guest.run(["cat", _CORE]).stdout
    else:
        raise HarnessError(f"The actor {child.name} was to end by SIGABRT, and did not.")
    finally:
        guest.write(CORE_PATTERN, before)
        guest.script('rm -f "$1"', _CORE)
    return segments(content)


def segments(core: bytes) -> list[Segment]:
    """Parse the PT_LOADs of a core dump in ELF64.  Raises HarnessError for other bytes."""
    try:
        magic, kind = core[:5], struct.unpack_from("<H", core, 16)[0]
        start, size, count = (struct.unpack_from(form, core, offset)[0] for form, offset in _FIELDS)
        if magic != b"\x7fELF\x02" or kind != _ET_CORE:
            raise HarnessError(f"What should be a core dump begins with {core[:16]!r}.")
        headers = [struct.unpack_from("<IIQQQQQQ", core, start + index * size) for index in range(count)]
    except struct.error as error:
        raise HarnessError(f"The core dump ends in its headers, after {len(core)} bytes.") from error
    return [Segment(memory, file) for kind, _, _, _, _, file, memory, _ in headers if kind == _PT_LOAD]


# include/uapi/linux/elf.h: e_phoff, e_phentsize, e_phnum
_FIELDS = (("<Q", 32), ("<H", 54), ("<H", 56))
_ET_CORE, _PT_LOAD = 4, 1
