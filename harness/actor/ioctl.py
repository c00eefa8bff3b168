"""Calls as no library would make them, and what a call has left behind.

The arguments of VFIO_DEVICE_FEATURE are put together here byte by byte
(include/uapi/linux/vfio.h), so that each of them can be wrong by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Device

VFIO_DEVICE_FEATURE = 0x3B75  # _IO(';', 100 + 17)
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
HEADER = struct.calcsize("=II")
#: No user's: the kernel's own direct map on x86-64, and no address at all in 48 bits.
BAD_POINTERS = (0, 0x1000, 0xFFFF888000000000, 0x0010000000000000)


@dataclass(frozen=True)
class Anchor:
    """A descriptor that keeps a device's IOMMU: its group (0) and container (1), or its iommufd (0)."""

    device: Device
    index: int = 0

    @property
    def name(self) -> str:
        """As the protocol has it."""
        return f"{self.device.name}/{self.index}"


Held = Buffer | Device | Anchor
Part = bytes | Held
Target = int | Held


@dataclass(frozen=True)
class Argument:
    """What an ioctl's argument points to; buffers and devices stand for their descriptors, 4 bytes each.

    Zeros follow up to 4 KiB, or with ``guard`` a page that cannot be read.
    """

    parts: Sequence[Part]
    guard: bool = False

    def cut(self, length: int) -> Argument:
        """Its first ``length`` bytes alone, with a guard after them; no descriptor is cut in two."""
        kept: list[Part] = []
        for part in self.parts:
            size = len(part) if isinstance(part, bytes) else 4
            if length < size:
                if length and isinstance(part, bytes):
                    kept.append(part[:length])
                break
            kept.append(part)
            length -= size
        return Argument(kept, guard=True)

    def text(self) -> str:
        """As the protocol has it."""
        return ",".join(part.hex() if isinstance(part, bytes) else part.name for part in self.parts)


def call(actor: Actor, target: Target, request: int, argument: Argument | int = 0) -> int:
    """ioctl() with a pointer to what ``argument`` says, or with it as a number; what it returned.

    ``target`` may be the number of a descriptor, too.
    """
    options: dict[str, object] = {"argument": argument}
    if isinstance(argument, Argument):
        options = {"data": argument.text(), "guard": 1 if argument.guard else None}
    name = target % (1 << 32) if isinstance(target, int) else target.name
    return actor.read(lambda said: int(said.split()[0], 16), "ioctl", name, request, **options)


def feature(flags: int, *data: Part, argsz: int | None = None) -> Argument:
    """struct vfio_device_feature; ``argsz`` is what it is in bytes, unless said otherwise."""
    size = HEADER + sum(len(part) if isinstance(part, bytes) else 4 for part in data)
    return Argument([struct.pack("=II", size if argsz is None else argsz, flags), *data])


def creation(
    ranges: Sequence[tuple[int, int]],
    *,
    region: int,
    open_flags: int,
    flags: int = 0,
    nr_ranges: int | None = None,
) -> bytes:
    """struct vfio_device_feature_dma_buf, with ``ranges`` as (offset, length) in bytes."""
    count = len(ranges) if nr_ranges is None else nr_ranges
    head = struct.pack("=IIII", region, open_flags, flags, count)
    return head + b"".join(struct.pack("=QQ", *one) for one in ranges)


def hold(device: Device, descriptor: int) -> Buffer:
    """Give a name to a descriptor that a raw call has returned."""

    def parse(said: str) -> Buffer:
        name, size = said.split()
        return Buffer(device.actor, name, int(size.removeprefix("size="), 16), device)

    return device.actor.read(parse, "hold", descriptor)


@dataclass(frozen=True)
class Abi:
    """The numbers of VFIO_DEVICE_FEATUREs; ``revoke`` is None where there is none.

    The C actor has them from the kernel's headers, the Python probe of its own.
    """

    export: int
    revoke: int | None

    @classmethod
    def of(cls, actor: Actor) -> Abi:
        """Ask an actor."""

        def parse(said: str) -> Abi:
            numbers = {name: int(number) for name, number in (word.split("=") for word in said.split())}
            return cls(numbers["export"], numbers.get("revoke"))

        return actor.read(parse, "abi")
