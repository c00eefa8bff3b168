"""What actors are to one another beside parent and child: debugger, orphan, stranger; and how they end."""

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
    """Put a descriptor into the queue of a child's UNIX socket, where it stays until receive()."""
    thing.actor.say("send", thing.name, to.name)


def receive(actor: Actor, like: Buffer) -> Buffer:
    """Take what its parent has sent out of an actor's queue; it is a buffer ``like`` that one."""
    return Buffer(actor, actor.say("recv"), like.size, None)


def orphan(actor: Actor) -> None:
    """Let it go on in a child of its process, and that process end."""
    actor.say("orphan")


def leave(actor: Actor, *namespaces: str) -> None:
    """unshare() ``user``, ``mount``, ``pid`` (for those it makes later), ``net``, ``ipc``, ``uts``.

    HarnessError if this kernel has no such namespaces.
    """
    try:
        actor.say("unshare", ",".join(namespaces))
    except Refused as refused:
        raise HarnessError(f"The kernel does not let an actor leave its namespaces: {refused}") from refused


@contextmanager
def seized(parent: Actor, child: Actor) -> Iterator[None]:
    """All threads of a child are stopped as by a debugger meanwhile."""
    parent.say("seize", child.name)
    yield
    parent.say("release", child.name)


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD of a core dump: how many bytes of memory it stands for, and how many are in the file."""

    memory: int
    file: int


def dump(guest: Guest, child: Actor) -> list[Segment]:
    """End an actor by SIGABRT, with all in its core dump that may be in one; the dump's segments.

    HarnessError if there is no dump.
    """
    before = guest.read(CORE_PATTERN).strip()
    _write(guest, CORE_PATTERN, _CORE)
    try:
        child.say("abort")
    except ActorDiedError:
        content = guest.run(["cat", _CORE]).stdout
    else:
        raise HarnessError(f"The actor {child.name} was to end by SIGABRT, and did not.")
    finally:
        _write(guest, CORE_PATTERN, before)
        guest.script('rm -f "$1"', _CORE)
    return segments(content)


def segments(core: bytes) -> list[Segment]:
    """The PT_LOADs of a core dump in ELF64.  HarnessError if it is none."""
    try:
        magic, kind = core[:5], struct.unpack_from("<H", core, 16)[0]
        start, size, count = (struct.unpack_from(form, core, at)[0] for form, at in _PLACES)
        if magic != b"\x7fELF\x02" or kind != _ET_CORE:
            raise HarnessError(f"What should be a core dump begins with {core[:16]!r}.")
        headers = [struct.unpack_from("<IIQQQQQQ", core, start + index * size) for index in range(count)]
    except struct.error as error:
        raise HarnessError(f"The core dump ends in its headers, after {len(core)} bytes.") from error
    return [Segment(memory, file) for kind, _, _, _, _, file, memory, _ in headers if kind == _PT_LOAD]


# include/uapi/linux/elf.h: e_phoff, e_phentsize, e_phnum
_PLACES = (("<Q", 32), ("<H", 54), ("<H", 56))
_ET_CORE, _PT_LOAD = 4, 1


def _write(guest: Guest, path: str, text: str) -> None:
    done = guest.script('printf "%s\\n" "$1" >"$2"', text, path)
    if done.status != 0:
        raise HarnessError(
            f"The guest's file {path} cannot be written: {done.stderr.decode(errors='replace')}"
        )
