"""ERR: random arguments of each call, most of them malformed, do what is asked or nothing.

A case is a correct call with at most two fields changed.  A call with every field
changed would only ever reach the kernel's first check.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import or_
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import strategies as st

from harness.actor.actor import Actor
from harness.actor.expect import require, require_equal
from harness.actor.footprint import FootprintChanges
from harness.actor.handles import Buffer, Device
from harness.actor.handles import Mapping as Live
from harness.actor.ioctl import BAD_POINTERS, GET, PROBE, SET, VFIO_DEVICE_FEATURE, call, feature, hold
from harness.actor.reply import BUS_ADRERR, Refused, Sigbus, outcome
from harness.actor.words import words
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import on_attribute, on_dialect, requirement
from harness.plugin.search import Search
from harness.vm.hardware import PAGE
from suites.support.cases import (
    CREATION_HEADER,
    CREATION_RANGE,
    EVERY,
    EXPORT,
    FEATURE_SIZE,
    IOCTL_SIZE,
    LENGTH,
    OPEN_MODES,
    PAGES,
    PROTECTIONS,
    SPAN,
    BuffersByKind,
    Creation,
    LiveBuffer,
    Mmap,
    attribute_number,
    descriptor,
    require_nothing_left,
)
from suites.support.constants import NC, RAM_BAR, RAM_BAR_SIZE, WC, WC_FLAG

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ATTRIBUTES = (NC, WC)

# include/uapi/asm-generic/mman-common.h, without the flags that choose the place or need no file
MAP_FLAGS = (0, 0x2000, 0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x40, 0x800, 0x1000)
TYPE_BITS, MAP_PRIVATE = 0x3, 0x2  # bits that hold MAP_SHARED, MAP_PRIVATE or MAP_SHARED_VALIDATE

Strategies = Mapping[str, st.SearchStrategy[Any]]
Case = TypeVar("Case", bound="DataclassInstance")


def sizes(*usual: int) -> st.SearchStrategy[int]:
    """Draw a usual size, its neighbours, or any 32-bit number."""
    near = sorted({max(0, one + step) for one in usual for step in (-1, 0, 1)})
    return st.sampled_from(near) | st.integers(0, EVERY - 1)


@st.composite
def nearly_right(
    draw: st.DrawFn, rights: st.SearchStrategy[Case], others: Callable[[Case], Strategies]
) -> Case:
    """Draw a correct call with up to two fields changed, each to one of ``others``."""
    case = draw(rights)
    for field in draw(st.lists(st.sampled_from(sorted(others(case))), max_size=2, unique=True)):
        case = replace(case, **{field: draw(others(case)[field])})
    return case


OFFSETS = st.sampled_from(
    [0, PAGE, RAM_BAR_SIZE - PAGE, RAM_BAR_SIZE, 1, 0x800, (1 << 64) - PAGE, 1 << 63]
) | st.integers(0, (1 << 64) - 1)
LENGTHS = st.sampled_from(
    [PAGE, 2 * PAGE, 0, RAM_BAR_SIZE, RAM_BAR_SIZE + PAGE, 1, 1 << 62, 1 << 63]
) | st.integers(0, (1 << 64) - 1)
OPEN_FLAGS = st.sampled_from([os.O_RDWR, os.O_RDWR | os.O_CLOEXEC, 0, os.O_ACCMODE]) | st.integers(
    0, EVERY - 1
)
WAYS = st.sampled_from([GET, SET, GET | SET, GET | PROBE, SET | PROBE, GET | SET | PROBE, 0]) | st.integers(
    0, 0xFFFF
).map(lambda high: high << 16)
DESCRIPTORS = st.sampled_from([0, 1, 2, 3]) | st.integers(-(1 << 31), (1 << 31) - 1)


# -- creation --------------------------------------------------------------------------


@st.composite
def ranges_of_the_bar(draw: st.DrawFn) -> tuple[int, int]:
    """Draw a range of the RAM BAR, (offset, length) in bytes."""
    first = draw(st.integers(0, RAM_BAR_SIZE // PAGE - 1))
    return first * PAGE, draw(st.integers(1, RAM_BAR_SIZE // PAGE - first)) * PAGE


def require_malformed(may: bool, case: object) -> None:
    """Raise Mismatch for a call that has succeeded unless it ``may``."""
    require(may, f"a malformed call succeeded: {words(case)}", expected="a refusal", seen="success")


def require_revoked(mapping: Live, done: bool) -> None:
    """Raise Mismatch unless a mapping is without access if its revoke is ``done``, and else has it."""
    word = mapping.load32(0)
    gone = Sigbus(BUS_ADRERR, 0)
    if done:
        require_equal(word, gone)
    else:
        require(word != gone, "a revoke that was refused ended the access", expected="data", seen=words(word))


def creations() -> st.SearchStrategy[Creation]:
    """Draw nearly right creations."""
    rights = st.builds(
        lambda ranges, flags: Creation(ranges=tuple(ranges), open_flags=flags),
        st.lists(ranges_of_the_bar(), min_size=1, max_size=4),
        OPEN_FLAGS,
    )

    def others(case: Creation) -> Strategies:
        count = len(case.ranges)
        whole = CREATION_HEADER + CREATION_RANGE * count
        return {
            "argsz": sizes(0, 8, CREATION_HEADER, whole),
            "flags": WAYS.map(lambda way: way | EXPORT) | st.integers(0, EVERY - 1),
            "region": sizes(0, 6, 9),
            "dma_flags": sizes(0, WC_FLAG),
            "nr_ranges": sizes(0, count, 1 << 16),
            "ranges": st.lists(ranges_of_the_bar() | st.tuples(OFFSETS, LENGTHS), max_size=4).map(tuple),
            "present": st.integers(0, whole),
            "pointer": st.sampled_from(BAD_POINTERS),
        }

    return nearly_right(rights, others)


def may_succeed(case: Creation, dma_flags: Sequence[int]) -> bool:
    """Tell whether the creation may make a DMABUF; ``dma_flags`` are the values that its flags may have.

    An argsz needs room for the fixed part alone, as the kernel requires no more.
    """
    if case.pointer is not None:
        return False
    count = len(case.ranges) if case.nr_ranges is None else case.nr_ranges
    there = CREATION_HEADER + CREATION_RANGE * len(case.ranges) if case.present is None else case.present
    if case.present is None and count > len(case.ranges):
        return False  # zeros follow the ranges, and an empty range is refused
    listed = case.ranges[:count]
    return (
        case.flags == GET | EXPORT
        and (case.argsz is None or case.argsz >= CREATION_HEADER)
        and there >= CREATION_HEADER + CREATION_RANGE * count
        and count > 0
        and case.region == RAM_BAR
        and case.dma_flags in dma_flags
        and all(length and not (offset | length) % PAGE for offset, length in listed)
        and all(offset + length <= RAM_BAR_SIZE for offset, length in listed)
    )


@requirement("ERR-00", "ERR-13", "ERR-19", "ERR-20", "ERR-23", "ERR-24", "ERR-25", "ERR-26")
def test_any_creation_makes_what_was_asked_or_nothing(ram: Function, search: Search) -> None:
    """Whatever its arguments, a creation makes a DMABUF of pages of the BAR or leaves nothing behind."""
    made = 0

    def prepare(owner: Actor) -> tuple[Device, FootprintChanges]:
        return owner.open(ram.address), FootprintChanges(owner)

    def check(subject: tuple[Device, FootprintChanges], case: Creation) -> None:
        nonlocal made
        device, leftovers = subject
        try:
            result = case.make(device)
        except Refused:
            result = 0
        size = None
        if result and case.flags == GET | EXPORT:
            with hold(device, result) as buffer:
                size = buffer.size
        require_nothing_left(leftovers)
        if size is not None:
            flags = (0, WC_FLAG) if device.actor.attribute_via == "flags" else (0,)
            require_malformed(may_succeed(case, flags), case)
            count = len(case.ranges) if case.nr_ranges is None else case.nr_ranges
            asked = sum(length for _, length in case.ranges[:count])
            assert size == asked, "the DMABUF has another size than its ranges"
            made += 1

    search(creations(), prepare, check, examples=120)
    if not made:
        raise HarnessError("No call of the search made a DMABUF: all were malformed.")


# -- revocation ------------------------------------------------------------------------


@dataclass(frozen=True)
class RevokeCall:
    """A call of the feature that revokes; ``target`` is a descriptor's number, or None for a live DMABUF."""

    way: int
    argsz: int | None
    present: int | None
    target: int | None

    def may_succeed(self) -> bool:
        """Tell whether all fields are correct."""
        return (
            self.way == SET
            and self.target is None
            and (self.argsz is None or self.argsz >= FEATURE_SIZE)
            and (self.present is None or self.present >= FEATURE_SIZE)
        )


def revocations() -> st.SearchStrategy[RevokeCall]:
    """Draw nearly right revokes."""
    others: Strategies = {
        "way": WAYS,
        "argsz": sizes(0, 8, 12),
        "present": st.integers(0, 12),
        "target": DESCRIPTORS,
    }
    return nearly_right(st.just(RevokeCall(SET, None, None, None)), lambda _: others)


@requirement("ERR-00", "ERR-40", "ERR-42", "ERR-43", "ERR-48")
@on_dialect("feature")
def test_any_revoke_takes_the_named_dmabuf_or_none(ram: Function, search: Search) -> None:
    """Whatever its arguments, a revoke takes the DMABUF that it names or leaves all as it was."""
    gone = 0

    def check(subject: tuple[LiveBuffer, FootprintChanges], case: RevokeCall) -> None:
        nonlocal gone
        live, leftovers = subject
        owner = live.owner
        with owner.export(live.device, RAM_BAR, SPAN) as buffer, owner.map(buffer) as mapping:
            target = buffer if case.target is None else case.target
            answer = outcome(lambda: live.ask(case.way, target, case.argsz, case.present))
            done = answer == "success" and not case.way & PROBE
            if done:
                require_malformed(case.may_succeed(), case)
                gone += 1
            require_revoked(mapping, done)
        assert live.mapping.load32(0) == 0x40
        require_nothing_left(leftovers)

    def prepare(owner: Actor) -> tuple[LiveBuffer, FootprintChanges]:
        return LiveBuffer(owner, owner.open(ram.address)), FootprintChanges(owner)

    search(revocations(), prepare, check, examples=100)
    if not gone:
        raise HarnessError("No call of the search revoked a DMABUF: all were malformed.")


@dataclass(frozen=True)
class RevokeIoctl:
    """A call of the device's ioctl that revokes; ``target`` as in RevokeCall."""

    argsz: int
    present: int | None
    target: int | None

    def may_succeed(self) -> bool:
        """Tell whether all fields are correct."""
        return (
            self.target is None
            and self.argsz >= IOCTL_SIZE
            and (self.present is None or self.present >= IOCTL_SIZE)
        )


def ioctl_revocations() -> st.SearchStrategy[RevokeIoctl]:
    """Draw nearly right revokes by the device's ioctl."""
    others: Strategies = {
        "argsz": sizes(0, IOCTL_SIZE),
        "present": st.integers(0, IOCTL_SIZE),
        "target": DESCRIPTORS,
    }
    return nearly_right(st.just(RevokeIoctl(IOCTL_SIZE, None, None)), lambda _: others)


@requirement("ERR-00", "ERR-42", "ERR-43", "ERR-48")
@on_dialect("device-ioctl")
def test_any_revoke_ioctl_takes_the_named_dmabuf_or_none(ram: Function, search: Search) -> None:
    """Whatever its arguments, the device's ioctl revokes the DMABUF that it names or changes nothing."""
    gone = 0

    def check(subject: tuple[LiveBuffer, FootprintChanges], case: RevokeIoctl) -> None:
        nonlocal gone
        live, leftovers = subject
        owner = live.owner
        with owner.export(live.device, RAM_BAR, SPAN) as buffer, owner.map(buffer) as mapping:
            target = buffer if case.target is None else case.target
            done = outcome(lambda: live.ask_ioctl(target, case.argsz, case.present)) == "success"
            if done:
                require_malformed(case.may_succeed(), case)
                gone += 1
            require_revoked(mapping, done)
        assert live.mapping.load32(0) == 0x40
        require_nothing_left(leftovers)

    def prepare(owner: Actor) -> tuple[LiveBuffer, FootprintChanges]:
        return LiveBuffer(owner, owner.open(ram.address)), FootprintChanges(owner)

    search(ioctl_revocations(), prepare, check, examples=80)
    if not gone:
        raise HarnessError("No call of the search revoked a DMABUF: all were malformed.")


# -- the memory attribute --------------------------------------------------------------


@dataclass(frozen=True)
class AttributeCall:
    """A call of the feature that sets the memory attribute; ``target`` as in RevokeCall."""

    way: int
    argsz: int | None
    present: int | None
    target: int | None
    attribute: int

    def make(self, number: int, device: Device, buffer: Buffer) -> int:
        """Call feature ``number`` with ``buffer`` unless ``target`` names a descriptor.  Raises Refused."""
        part = descriptor(buffer if self.target is None else self.target)
        argument = feature(self.way | number, part, struct.pack("=I", self.attribute), argsz=self.argsz)
        if self.present is not None:
            argument = argument.cut(self.present)
        return call(device.actor, device, VFIO_DEVICE_FEATURE, argument)

    def may_succeed(self, via: str) -> bool:
        """Tell whether all fields are correct where the interface for the attribute is ``via``."""
        return (
            ((self.way == SET and self.attribute in ATTRIBUTES) or (self.way == GET and via == "get-set"))
            and self.target is None
            and (self.argsz is None or self.argsz >= 16)
            and (self.present is None or self.present >= 16)
        )


def attributions() -> st.SearchStrategy[AttributeCall]:
    """Draw nearly right calls that set the attribute."""
    rights = st.sampled_from([AttributeCall(SET, None, None, None, attribute) for attribute in ATTRIBUTES])
    others: Strategies = {
        "way": WAYS,
        "argsz": sizes(0, 8, 12, 16),
        "present": st.integers(0, 16),
        "target": DESCRIPTORS,
        "attribute": sizes(0, WC_FLAG),
    }
    return nearly_right(rights, lambda _: others)


@requirement("ERR-00", "ATTR-05", "ATTR-06")
@on_attribute("set", "get-set")
def test_any_attribute_call_is_correct_or_refused(ram: Function, search: Search) -> None:
    """Whatever its arguments, the memory-attribute feature takes a correct call only, and revokes nothing."""
    taken = 0

    def check(subject: tuple[LiveBuffer, FootprintChanges, int], case: AttributeCall) -> None:
        nonlocal taken
        live, leftovers, number = subject
        done = outcome(lambda: case.make(number, live.device, live.buffer)) == "success"
        if done and not case.way & PROBE:
            require_malformed(case.may_succeed(live.owner.attribute_via), case)
            taken += 1
        live.require_alive()
        require_nothing_left(leftovers)

    def prepare(owner: Actor) -> tuple[LiveBuffer, FootprintChanges, int]:
        return LiveBuffer(owner, owner.open(ram.address)), FootprintChanges(owner), attribute_number(owner)

    search(attributions(), prepare, check, examples=80)
    if not taken:
        raise HarnessError("No call of the search set an attribute: all were malformed.")


# -- mmap() ----------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn) -> Mmap:
    """Draw a mapping of some of the pages."""
    first = draw(st.integers(0, PAGES - 1))
    length = draw(st.integers(1, PAGES - first))
    return Mmap(length * PAGE, first * PAGE, draw(st.sampled_from(PROTECTIONS)), 1)


def may_map(case: Mmap) -> bool:
    """Tell whether an mmap() may succeed."""
    return (
        case.of == "rdwr"
        and isinstance(case.flags, int)
        and case.flags & TYPE_BITS != MAP_PRIVATE
        and not case.offset % PAGE
        and 0 < case.length <= LENGTH - case.offset
    )


def mmaps() -> st.SearchStrategy[Mmap]:
    """Draw nearly right mmap() calls."""
    numbers = st.integers(0, (1 << 64) - 1)
    others: Strategies = {
        "length": st.sampled_from([PAGE, LENGTH, 0, 1, LENGTH + 1]) | numbers,
        "offset": st.sampled_from([0, PAGE, LENGTH - PAGE, LENGTH, 1]) | numbers,
        "flags": st.builds(or_, st.sampled_from([1, 2, 3]), st.sampled_from(MAP_FLAGS)),
        "of": st.sampled_from(OPEN_MODES),
    }
    return nearly_right(windows(), lambda _: others)


@requirement("ERR-00", "ERR-70", "ERR-71", "ERR-72", "ERR-73", "ERR-75", "ERR-76", "ERR-77", "ERR-78")
def test_any_mmap_shows_the_dmabufs_pages_or_fails(ram: Function, search: Search) -> None:
    """Whatever its arguments, an mmap() that succeeds maps pages of the DMABUF only."""
    mapped = 0

    def prepare(owner: Actor) -> tuple[BuffersByKind, FootprintChanges]:
        kinds = BuffersByKind(owner, ram)
        for kind in OPEN_MODES:
            assert kinds[kind].size == LENGTH, "the DMABUF has another size than its range"
        return kinds, FootprintChanges(owner)

    def check(subject: tuple[BuffersByKind, FootprintChanges], case: Mmap) -> None:
        nonlocal mapped
        kinds, leftovers = subject
        buffer = kinds[case.of]
        try:
            mapping = buffer.actor.map(buffer, case.length, case.offset, case.prot, flags=case.flags)
        except Refused:
            require_nothing_left(leftovers)
            return
        with mapping:
            require_malformed(may_map(case), case)
            if "r" in case.prot:
                first = 0x20 + case.offset // PAGE
                assert mapping.pages() == list(range(first, first + mapping.length // PAGE))
        mapped += 1

    search(mmaps(), prepare, check, examples=120)
    if not mapped:
        raise HarnessError("No call of the search mapped a DMABUF: all were malformed.")
