"""Raw ioctls with arguments that a library would not pass.

The arguments of VFIO_DEVICE_FEATURE (include/uapi/linux/vfio.h) are built byte by
byte, so that a scenario can make each field wrong by itself.
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
#: Not user memory: null, the first pages, the direct map of x86-64, and a non-canonical address.
BAD_POINTERS = (0, 0x1000, 0xFFFF888000000000, 0x0010000000000000)


@dataclass(frozen=True)
class Anchor:
    """A descriptor behind a device: its group (``index`` 0) and container (1), or its iommufd (0)."""

    device: Device
    index: int = 0

    @property
    def name(self) -> str:
        """The name in the protocol (``dev1/0``)."""
        return f"{self.device.name}/{self.index}"


Held = Buffer | Device | Anchor
Part = bytes | Held
Target = int | Held


@dataclass(frozen=True)
class Argument:
    """The memory that an ioctl's argument points to: bytes, and 4-byte descriptors of buffers and devices.

    Zeros follow up to 4 KiB, or with ``guard`` a page that cannot be read.
    """

    parts: Sequence[Part]
    guard: bool = False

    def cut(self, length: int) -> Argument:
        """Return the first ``length`` bytes with a guard after them; a descriptor is never split."""
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
        """Format the argument for the protocol: hexadecimal bytes and names, separated by commas."""
        return ",".join(part.hex() if isinstance(part, bytes) else part.name for part in self.parts)


def call(actor: Actor, target: Target, request: int, argument: Argument | int = 0) -> int:
    """Call ioctl() with a pointer to an Argument, or with a number; return its result.

    ``target`` is a handle or the number of a descriptor.
    """
    options: dict[str, object] = {"argument": argument}
    if isinstance(argument, Argument):
        options = {"data": argument.text(), "guard": 1 if argument.guard else None}
    name = target % (1 << 32) if isinstance(target, int) else target.name
    return actor.read(lambda reply: int(reply.split()[0], 16), "ioctl", name, request, **options)


def call_for_data(actor: Actor, target: Held, request: int, argument: Argument) -> bytes:
    """Call ioctl() with a pointer to an Argument; return the bytes of the argument afterwards."""

    def parse(reply: str) -> bytes:
        _, data = reply.split()
        return bytes.fromhex(data.removeprefix("data="))

    return actor.read(parse, "ioctl", target.name, request, data=argument.text())


def feature(flags: int, *data: Part, argsz: int | None = None) -> Argument:
    """Build struct vfio_device_feature with ``data``; ``argsz`` defaults to its size in bytes."""
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
    """Build struct vfio_device_feature_dma_buf, with ``ranges`` as (offset, length) in bytes."""
    count = len(ranges) if nr_ranges is None else nr_ranges
    head = struct.pack("=IIII", region, open_flags, flags, count)
    return head + b"".join(struct.pack("=QQ", *one) for one in ranges)


def hold(device: Device, descriptor: int) -> Buffer:
    """Return a handle for a descriptor that a raw call has returned."""

    def parse(reply: str) -> Buffer:
        name, size = reply.split()
        return Buffer(device.actor, name, int(size.removeprefix("size="), 16), device)

    return device.actor.read(parse, "hold", descriptor)


@dataclass(frozen=True)
class Abi:
    """The numbers of VFIO_DEVICE_FEATUREs; ``revoke`` and ``memattr`` are None without such a feature.

    The C actor is compiled with the numbers in the kernel's headers.  The Python probe knows
    ``export``, and is told the others when it starts.
    """

    export: int
    revoke: int | None
    memattr: int | None

    @classmethod
    def of(cls, actor: Actor) -> Abi:
        """Read the numbers from an actor."""

        def parse(reply: str) -> Abi:
            numbers = {name: int(number) for name, number in (word.split("=") for word in reply.split())}
            return cls(numbers["export"], numbers.get("revoke"), numbers.get("memattr"))

        return actor.read(parse, "abi")
