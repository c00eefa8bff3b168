"""Pages that a system call is the first to touch, and that it may get late, by a userfaultfd."""

from __future__ import annotations

from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Device, Mapping
from harness.actor.ioctl import Argument, Held
from harness.actor.mm import watch_faults
from harness.vm.hardware import PAGE

HELD_IN = "handle_userfault"  # fs/userfaultfd.c


@dataclass(frozen=True)
class LatePage:
    """Two pages of a child actor; the kernel gets the second one once the parent lets it.

    A memfd holds the content of the pages, so release() alone completes the fault.  The
    end of the parent releases the child, too.
    """

    file: Buffer
    mapping: Mapping
    faults: Buffer  # the parent's descriptor of the userfaultfd

    @classmethod
    def of(cls, parent: Actor, child: Actor) -> LatePage:
        """Make the pages in ``child``; the first one is mapped already."""
        parent.require("USERFAULTFD")
        file = child.make("memfd", 2 * PAGE)
        mapping = child.map(file)
        mapping.store32(0, 0)
        faults = watch_faults(mapping, "minor")
        taken = Buffer(parent, parent.fetch(child, faults.name), 0, None)
        faults.close()
        return cls(file, mapping, taken)

    def call(self, target: Held, request: int, argument: Argument, present: int) -> None:
        """Call ioctl() with an argument of which only the first ``present`` bytes are there in time."""
        self.file.actor.say(
            *("ioctl", target.name, request),
            **{"data": argument.text(), "in": self.mapping.name, "file": self.file.name},
            offset=PAGE - present,
        )

    def release(self) -> None:
        """Let the kernel have the second page."""
        self.faults.close()


@dataclass(frozen=True)
class FreshPages:
    """Pages of an actor, of which the kernel is always the first to touch the next one."""

    mapping: Mapping

    @classmethod
    def of(cls, actor: Actor, count: int) -> FreshPages:
        """Make ``count`` pages, without a page table entry."""
        return cls(actor.map(actor.make("memfd", count * PAGE)))

    def read(self, page: int, device: Device, region: int | str, offset: int, length: int) -> int:
        """pread() ``length`` bytes of a region into a page; return the number of bytes."""
        return copy_region(self.mapping, page * PAGE, device, region, offset, length)

    def copy(self, page: int, way: str) -> int:
        """Have the kernel copy to a page while it holds a lock: that of a ``perf`` event, of a ``folder``."""
        return self.mapping.actor.read(int, "lockcopy", self.mapping.name, way, offset=page * PAGE)


def copy_region(
    mapping: Mapping,
    at: int,
    device: Device,
    region: int | str,
    offset: int,
    length: int,
    write: bool = False,
) -> int:
    """pread() a region into a mapping at ``at``, or pwrite() it from there; return the number of bytes."""
    words = ("regioncopy", device.name, region, offset, length, "write" if write else "read")
    return mapping.actor.read(int, *words, mapping.name, offset=at)
