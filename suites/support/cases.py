"""Malformed calls, and what a refused call leaves behind.

A malformed call is a dataclass whose defaults make a correct call; a test case
changes one of its fields.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.actor.actor import Actor
from harness.actor.expect import require_equal, require_pages
from harness.actor.footprint import FootprintChanges
from harness.actor.handles import Buffer, Device, Range
from harness.actor.ioctl import (
    GET,
    SET,
    VFIO_DEVICE_FEATURE,
    Abi,
    Argument,
    Part,
    Target,
    call,
    creation,
    feature,
)
from harness.actor.mismatch import Mismatch
from harness.actor.reply import outcome
from harness.actor.scene import Operation
from harness.actor.transcript import latest_operation
from harness.actor.words import words
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.vm.hardware import PAGE
from suites.support.constants import DMA_BUF_IOCTL_REVOKE, RAM_BAR, VFIO_DEVICE_PCI_DMABUF_REVOKE

LENGTH = 4 * PAGE
PAGES = LENGTH // PAGE
SPAN = [Range(0, LENGTH)]
EVERY = 1 << 32  # how many values 32 bits have

EXPORT = 11  # include/uapi/linux/vfio.h, VFIO_DEVICE_FEATURE_DMA_BUF
CREATION_HEADER = 24  # bytes of struct vfio_device_feature and struct vfio_device_feature_dma_buf
CREATION_RANGE = 16  # bytes of struct vfio_region_dma_range
FEATURE_SIZE = 12  # bytes of struct vfio_device_feature and the descriptor of a DMABUF to revoke
IOCTL_SIZE = 8  # bytes of the argument of VFIO_DEVICE_PCI_DMABUF_REVOKE: argsz and the descriptor
OPEN_MODES = ("rdwr", "rdonly", "wronly")
PROTECTIONS = ("none", "r", "w", "rw")


# -- what a refused call leaves behind -------------------------------------------------


class Wrong(str):
    """What is wrong with the answer to a malformed call, in words.

    ``operation`` is the call, or the one that found leftovers; ``wanted`` is the reply that
    would have conformed, empty for leftovers.
    """

    operation: Operation
    wanted: str

    @classmethod
    def of(cls, text: str, operation: Operation, errnos: Sequence[str]) -> Wrong:
        """Return the words for an operation that was to be refused with one of these errnos."""
        made = cls(text)
        made.operation, made.wanted = operation, " | ".join(f"error {errno}" for errno in errnos)
        return made


def deviations(
    owner: Actor, attempts: Mapping[Any, Callable[[], object]], errnos: Sequence[str]
) -> list[Wrong]:
    """List the attempts that are not refused with one of these errnos, or that leave something behind."""
    leftovers = FootprintChanges(owner)
    found = []
    for what, attempt in attempts.items():
        answer = outcome(attempt)
        asked = latest_operation()
        if answer not in errnos:
            text = f"{words(what)}: {answer} instead of {' or '.join(errnos)}"
            found.append(Wrong.of(text, asked, errnos))
        if left := leftovers.look():
            found.append(Wrong.of(f"{words(what)}: {left} left behind", latest_operation(), ()))
    return found


def require_none(found: Sequence[Wrong]) -> None:
    """Raise Mismatch with the deviations, if there are any."""
    if found:
        more = f", and {len(found) - 1} more" if found[1:] else ""
        raise Mismatch(
            f"a malformed call was not refused as it should be: {found[0]}{more}",
            expected="a refusal of each call that leaves nothing behind",
            seen="; ".join(found),
            wanted=found[0].wanted,
            operation=found[0].operation,
        )


def require_refused(owner: Actor, attempts: Mapping[Any, Callable[[], object]], *errnos: str) -> None:
    """Raise Mismatch unless each attempt gets one of ``errnos`` and leaves nothing behind."""
    require_none(deviations(owner, attempts, errnos))


def require_nothing_left(leftovers: FootprintChanges) -> None:
    """Raise Mismatch if something was left behind since the last look."""
    if left := leftovers.look():
        raise Mismatch(f"{left} more than before", expected="nothing left behind", seen=f"{left} more")


@contextmanager
def nothing_left(actor: Actor) -> Iterator[None]:
    """Require that the body leaves no descriptor, no DMABUF and no record in the kernel log."""
    leftovers = FootprintChanges(actor)
    yield
    require_nothing_left(leftovers)


# -- calls -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Creation:
    """VFIO_DEVICE_FEATURE with GET of DMA_BUF; by default it exports a page of the RAM BAR.

    With ``present`` the argument has that many bytes before a page that cannot be
    read; ``pointer`` replaces the argument's address.
    """

    argsz: int | None = None
    flags: int = GET | EXPORT
    region: int = RAM_BAR
    open_flags: int = os.O_RDWR | os.O_CLOEXEC
    dma_flags: int = 0
    nr_ranges: int | None = None
    ranges: tuple[tuple[int, int], ...] = ((0, PAGE),)
    present: int | None = None
    pointer: int | None = None

    def make(self, device: Device) -> int:
        """Make the call; return the descriptor, or 0 for PROBE.  Raises Refused."""
        if self.pointer is not None:
            return call(device.actor, device, VFIO_DEVICE_FEATURE, self.pointer)
        data = creation(
            self.ranges,
            region=self.region,
            open_flags=self.open_flags,
            flags=self.dma_flags,
            nr_ranges=self.nr_ranges,
        )
        argument = feature(self.flags, data, argsz=self.argsz)
        if self.present is not None:
            argument = argument.cut(self.present)
        return call(device.actor, device, VFIO_DEVICE_FEATURE, argument)


@dataclass(frozen=True)
class Mmap:
    """mmap() of a DMABUF of four pages; by default correct.

    ``of`` is the kind of the DMABUF: the mode of its descriptor (``rdwr``, ``rdonly``,
    ``wronly``), ``revoked``, or ``closed`` where its device is closed.
    """

    length: int = LENGTH
    offset: int = 0
    prot: str = "rw"
    flags: str | int | None = None
    of: str = "rdwr"


# -- what the calls are made on --------------------------------------------------------


class LiveBuffer:
    """A mapped DMABUF of an owner's device, and the calls that revoke."""

    def __init__(self, owner: Actor, device: Device) -> None:
        self.owner, self.device = owner, device
        self.buffer = owner.export(device, RAM_BAR, SPAN)
        self.mapping = owner.map(self.buffer)
        require_equal(self.mapping.stamp(seed=0x40), None)

    def require_alive(self) -> None:
        """Raise Mismatch unless the mapping, and a new one, show what was written at first."""
        with self.owner.map(self.buffer) as again:
            require_pages(range(0x40, 0x40 + PAGES), self.mapping, again)

    @cached_property
    def by_device(self) -> bool:
        """True if a call on the device revokes, not an ioctl of the DMABUF."""
        return self.owner.revoke_via != "ioctl"

    @cached_property
    def number(self) -> int:
        """The number of the feature that revokes.  HarnessError if the headers have none."""
        number = Abi.of(self.owner).revoke
        if number is None:
            raise HarnessError("The headers of this kernel do not define the feature that revokes.")
        return number

    def revoke(self, target: Target) -> int:
        """Revoke ``target``, whatever kind of descriptor it is.  Raises Refused."""
        if not self.by_device:
            return call(self.owner, target, DMA_BUF_IOCTL_REVOKE)
        if self.owner.revoke_via == "device-ioctl":
            return self.ask_ioctl(target)
        return self.ask(SET, target)

    def ask(self, way: int, target: Target, argsz: int | None = None, present: int | None = None) -> int:
        """Call VFIO_DEVICE_FEATURE of the feature that revokes, with the flags ``way``.  Raises Refused.

        With ``present`` only that many bytes of the argument can be read.
        """
        argument = feature(way | self.number, descriptor(target), argsz=argsz)
        if present is not None:
            argument = argument.cut(present)
        return call(self.owner, self.device, VFIO_DEVICE_FEATURE, argument)

    def ask_ioctl(self, target: Target, argsz: int = IOCTL_SIZE, present: int | None = None) -> int:
        """Call VFIO_DEVICE_PCI_DMABUF_REVOKE; ``present`` as for ask().  Raises Refused."""
        argument = Argument([struct.pack("=I", argsz), descriptor(target)])
        if present is not None:
            argument = argument.cut(present)
        return call(self.owner, self.device, VFIO_DEVICE_PCI_DMABUF_REVOKE, argument)


def descriptor(target: Target) -> Part:
    """Return the member of a call's argument that holds a descriptor, by its handle or its number."""
    return struct.pack("=I", target % EVERY) if isinstance(target, int) else target


def attribute_number(owner: Actor) -> int:
    """Return the number of the feature for the memory attribute.  HarnessError if the headers have none."""
    number = Abi.of(owner).memattr
    if number is None:
        raise HarnessError("The headers of this kernel do not define the feature for the memory attribute.")
    return number


class BuffersByKind:
    """A DMABUF of each kind that Mmap.of names, made at its first use."""

    def __init__(self, owner: Actor, ram: Function) -> None:
        self._owner, self._ram = owner, ram
        self._device = owner.open(ram.address)
        self._buffers: dict[str, Buffer] = {}
        self._mapping = owner.map(self["rdwr"])
        require_equal(self._mapping.stamp(seed=0x20), None)

    def __getitem__(self, kind: str) -> Buffer:
        if kind not in self._buffers:
            self._buffers[kind] = self._make(kind)
        return self._buffers[kind]

    def _make(self, kind: str) -> Buffer:
        owner = self._owner
        mode = kind if kind in OPEN_MODES else "rdwr"
        buffer = owner.export(self._device, RAM_BAR, SPAN, open_flags=f"{mode},cloexec")
        if kind == "revoked":
            owner.revoke(buffer)
        elif kind == "closed":
            self._device.close()
            self._device = owner.open(self._ram.address)
            del self._buffers["rdwr"]
            self._mapping = owner.map(self["rdwr"])
        return buffer

    def require_alive(self) -> None:
        """Raise Mismatch unless mappings of ``rdwr``, old and new, show what was written at first."""
        require_pages(range(0x20, 0x20 + PAGES), self._mapping, self._owner.map(self["rdwr"]))
