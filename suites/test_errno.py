"""ERR: what malformed calls get, and that they leave nothing behind.

The tables read as those of the matrix do: a call that is right in all but what
its row says.  Each row of a table is a scenario with the C actor, and the Python
probe goes through the table in one; what is no table both do, imports aside.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as Table
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from operator import or_
from typing import TypeVar

import pytest
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.guest import Device as Function
from harness.guest import Guest
from harness.mm import open_mapped_file
from harness.plugin import machine, on_dialect, requirement
from harness.probe import BUS_ADRERR, PAGE, Actor, Buffer, Device, Mapping, Range, Refused, Sigbus, outcome
from harness.raw import (
    BAD_POINTERS,
    GET,
    PROBE,
    SET,
    VFIO_DEVICE_FEATURE,
    Abi,
    Anchor,
    Argument,
    Leftovers,
    Target,
    call,
    creation,
    feature,
    hold,
)
from harness.search import Search
from harness.witness import RamBar
from suites.support.constants import (
    D0,
    D3HOT,
    DMA_BUF_IOCTL_REVOKE,
    IOVA,
    MEMATTR,
    NOBODY,
    RAM_BAR,
    RAM_BAR_SIZE,
    VIRTIO_BAR,
    VIRTIO_IO_BAR,
    WC_FLAG,
)

LENGTH = 4 * PAGE
SPAN = [Range(0, LENGTH)]
EVERY = 1 << 32
VENDORS_DRIVER = "virtio_vfio_pci"  # drivers/vfio/pci/virtio: one that takes any device it is told to

# include/uapi/linux/vfio.h
EXPORT = 11
ROM, CONFIG, VGA, BEYOND = 6, 7, 8, 9
VFIO_DEVICE_PCI_DMABUF_REVOKE = 0x3B7A  # of some revisions: _IO(';', 100 + 22)
# include/uapi/asm-generic/mman-common.h
MAP_SHARED_VALIDATE_SYNC = 0x80003
ATTRIBUTES = (0, 1)  # not cached, write combining


# -- what a refused call leaves behind -------------------------------------------------


def deviations(
    owner: Actor, attempts: Table[object, Callable[[], object]], errnos: Sequence[str]
) -> list[str]:
    """How attempts differ from being refused with one of these errnos, and from leaving nothing behind."""
    leftovers = Leftovers(owner)
    found = []
    for what, attempt in attempts.items():
        answer = outcome(attempt)
        if answer not in errnos:
            found.append(f"{what}: {answer} instead of {' or '.join(errnos)}")
        if left := leftovers.look():
            found.append(f"{what}: {left} left behind")
    return found


def require_none(found: Sequence[str]) -> None:
    """Fail with what was found."""
    assert not found, "; ".join(found)


@contextmanager
def nothing_left(actor: Actor) -> Iterator[None]:
    """What it does meanwhile leaves no descriptor, no DMABUF and no record in the kernel log."""
    leftovers = Leftovers(actor)
    yield
    assert leftovers.look() == ""


# -- creation --------------------------------------------------------------------------


@dataclass(frozen=True)
class Creation:
    """VFIO_DEVICE_FEATURE with GET of DMA_BUF, right in all but what is said: it exports a page.

    ``present`` is how many of its bytes there are before a page that cannot be
    read; ``pointer`` takes the place of all of it.
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
        """Call it; the descriptor, or 0 for a probe.  Raises Refused."""
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
class Row:
    """A row of the table of creation: what is wrong, with these errnos, with each of these calls."""

    id: str
    what: str
    errnos: str | tuple[str, ...]
    calls: tuple[Creation, ...]
    role: str = "ram"


def row(name: str, what: str, errnos: str, *calls: Iterable[Creation], role: str = "ram") -> Row:
    """With the errnos as one reads them: ``ENOMEM or EINVAL``."""
    return Row(name, what, tuple(errnos.split(" or ")), tuple(itertools.chain(*calls)), role)


def each(**wrong: Iterable[object]) -> list[Creation]:
    """A creation for each of these values of a field."""
    ((name, values),) = wrong.items()
    return [replace(Creation(), **{name: value}) for value in values]


def parts(*lists: Sequence[tuple[int, int]]) -> list[Creation]:
    """A creation for each of these lists of ranges, (offset, length) in bytes."""
    return [Creation(ranges=tuple(ranges)) for ranges in lists]


GOOD = (PAGE, PAGE)  # a range that nothing is wrong with
WAYS_OF_SET = (SET, SET | PROBE, GET | SET | PROBE)
NO_BAR = "EINVAL or ENOMEM or ENODEV"

CREATION = (
    row(
        "ERR-01",
        "a header that cannot be read",
        "EFAULT",
        each(pointer=BAD_POINTERS),
        each(present=(0, 4, 7)),
    ),
    row("ERR-02", "argsz below the header", "EINVAL", each(argsz=(0, 4, 7))),
    row("ERR-03", "an unknown flag", "EINVAL", each(flags=[GET | EXPORT | 1 << bit for bit in (19, 20, 31)])),
    row("ERR-04", "GET and SET", "EINVAL", each(flags=[GET | SET | EXPORT])),
    row("ERR-05", "SET", "EINVAL", each(flags=[way | EXPORT for way in WAYS_OF_SET])),
    row("ERR-06", "neither GET nor SET nor PROBE", "EINVAL", each(flags=[EXPORT])),
    row("ERR-08", "argsz below the fixed part", "EINVAL", each(argsz=(8, 9, 23))),
    row("ERR-09", "a fixed part that cannot be read", "EFAULT", each(present=(8, 12, 23))),
    row("ERR-10", "no range", "EINVAL", parts([]), [Creation(ranges=(), region=BEYOND)]),
    row("ERR-11", "flags", "EINVAL", each(dma_flags=(1, 1 << 27, 2 << 28, 1 << 31, EVERY - 1))),
    row("ERR-12", "a region that is no BAR", "ENODEV", each(region=(ROM, CONFIG, VGA, BEYOND, EVERY - 1))),
    row(
        "ERR-13",
        "2^32 - 1 ranges",
        "ENOMEM or EINVAL or EFAULT",
        [Creation(nr_ranges=EVERY - 1), Creation(nr_ranges=EVERY - 1, present=24)],
    ),
    row(
        "ERR-14",
        "ranges that cannot be read",
        "EFAULT",
        each(present=(24, 39)),
        [
            Creation(nr_ranges=2, present=40),
            Creation(nr_ranges=100, ranges=(GOOD,) * 99, present=24 + 16 * 99),
        ],
    ),
    row(
        "ERR-16",
        "an empty range",
        "EINVAL",
        parts([(0, 0)], [(0, 0), GOOD, GOOD], [GOOD, (0, 0), GOOD], [GOOD, GOOD, (0, 0)]),
    ),
    row(
        "ERR-17",
        "an offset in a page",
        "EINVAL",
        parts([(1, PAGE)], [(0x800, PAGE)], [(0xFFF, PAGE)], [GOOD, (0x800, PAGE)]),
    ),
    row(
        "ERR-18",
        "a length that is no pages",
        "EINVAL",
        parts([(0, 1)], [(0, 0x800)], [(0, PAGE + 1)], [GOOD, (0, 0x800)]),
        [Creation(region=0, ranges=((0, 256),)), Creation(region=0, ranges=((0, PAGE),))],
    ),
    row("ERR-19", "lengths beyond 2^64", "EINVAL", parts([(0, 1 << 63), (0, 1 << 63)])),
    row("ERR-20", "lengths that set bit 63", "EINVAL", parts([(0, 1 << 63)], [(0, 1 << 62), (0, 1 << 62)])),
    row("ERR-21", "a BAR that ivshmem does not have", NO_BAR, each(region=(1, 3, 4, 5))),
    # In some QEMUs 1 and 2 are memory.
    row("ERR-21", "a BAR that edu does not have", NO_BAR, each(region=(3, 4, 5)), role="registers"),
    row("ERR-23", "an offset that overflows", "EOVERFLOW", parts([((1 << 64) - PAGE, PAGE)])),
    row(
        "ERR-24",
        "a range after the BAR",
        "EINVAL",
        parts([(RAM_BAR_SIZE, PAGE)], [GOOD, (RAM_BAR_SIZE, PAGE)]),
    ),
    row(
        "ERR-25",
        "a range across the end",
        "EINVAL",
        parts([(RAM_BAR_SIZE - PAGE, 2 * PAGE)], [GOOD, (RAM_BAR_SIZE - PAGE, 2 * PAGE)]),
    ),
    row(
        "ERR-26",
        "a range longer than the BAR",
        "EINVAL",
        parts([(0, RAM_BAR_SIZE + PAGE)], [(0, 1 << 40)], [(0, (1 << 63) - PAGE)]),
    ),
    row("ERR-27", "the upper half of a 64-bit BAR", NO_BAR, each(region=[RAM_BAR + 1])),
)


def creation_deviations(device: Device, one: Row) -> list[str]:
    """What is not as the row says."""
    attempts = {made: lambda made=made: made.make(device) for made in one.calls}
    return deviations(device.actor, attempts, one.errnos)


def per_row(rows: Iterable[Row]) -> pytest.MarkDecorator:
    """A scenario for each row, which names the row's requirement."""
    return pytest.mark.parametrize(
        "one", [pytest.param(one, id=f"{one.id} {one.what}", marks=requirement(one.id)) for one in rows]
    )


@requirement("ERR-00")
@per_row(CREATION)
def test_a_malformed_creation_is_refused(c_owner: Actor, request: pytest.FixtureRequest, one: Row) -> None:
    """A creation that is wrong in one thing gets the errno for that, and leaves nothing behind."""
    function = request.getfixturevalue(one.role)
    require_none(creation_deviations(c_owner.open(function.address), one))


@requirement("ERR-00", *(one.id for one in CREATION))
def test_python_is_refused_the_same_creations(start, ram: Function, registers: Function) -> None:
    """Every row of that table holds for a tool in Python, by the device's own node."""
    owner = start("python")
    devices = {"ram": owner.open(ram.address, "cdev"), "registers": owner.open(registers.address, "cdev")}
    require_none([wrong for one in CREATION for wrong in creation_deviations(devices[one.role], one)])


@requirement("ERR-11", "ERR-00")
@on_dialect("base", "map", "feature")
def test_wc_is_no_flag_of_a_creation(owner: Actor, ram: Function) -> None:
    """Where memory attributes are not chosen by flags, 1 << 28 is EINVAL as any other flag."""
    device = owner.open(ram.address)
    wc = Creation(dma_flags=WC_FLAG)
    require_none(deviations(owner, {wc: lambda: wc.make(device)}, ["EINVAL"]))


@requirement("ERR-07", "ERR-00")
def test_a_probe_creates_nothing(owner: Actor, ram: Function) -> None:
    """PROBE with GET succeeds, whatever its data, and creates nothing."""
    device = owner.open(ram.address)
    probe = Creation(flags=GET | PROBE | EXPORT)
    with nothing_left(owner):
        assert probe.make(device) == 0
        assert replace(probe, present=8, argsz=8).make(device) == 0


@requirement("ERR-15")
def test_argsz_is_not_held_against_the_ranges(owner: Actor, ram: Function, finding) -> None:
    """An argsz without room for the ranges does not matter when they are there."""
    device = owner.open(ram.address)
    with nothing_left(owner), hold(device, Creation(argsz=24, ranges=(GOOD, GOOD)).make(device)) as buffer:
        finding(f"with an argsz of 24 bytes and two ranges there is a DMABUF of {buffer.size:#x} bytes")
        assert buffer.size == 2 * PAGE


@requirement("ERR-29")
def test_unknown_open_flags_do_not_matter(owner: Actor, ram: Function, finding) -> None:
    """Every bit set in open_flags but those of the access mode makes a descriptor that closes on exec."""
    device = owner.open(ram.address)
    with nothing_left(owner), hold(device, Creation(open_flags=EVERY - 4).make(device)) as buffer:
        closes = buffer.closes_on_exec()
        finding(f"open_flags of {EVERY - 4:#x} make a descriptor; it closes on exec: {closes}")
        assert closes


@requirement("ERR-30")
def test_an_access_mode_of_3_is_no_access(owner: Actor, ram: Function, finding) -> None:
    """O_ACCMODE in open_flags makes a descriptor that can neither be read nor written, nor mapped."""
    device = owner.open(ram.address)
    with nothing_left(owner), hold(device, Creation(open_flags=os.O_ACCMODE).make(device)) as buffer:
        answers = {prot: outcome(lambda prot=prot: owner.map(buffer, prot=prot)) for prot in ("r", "w", "rw")}
        finding(f"an access mode of 3 makes a descriptor; mmap() of it: {answers}")
        assert set(answers.values()) == {"EACCES"}


@requirement("ERR-22", "ERR-00")
@machine(power=True)
def test_a_bar_of_io_ports_is_refused(owner: Actor, rng: Function) -> None:
    """A creation for a BAR of I/O ports is refused."""
    device = owner.open(rng.address)
    if VIRTIO_IO_BAR in rng.bars or not device.region(VIRTIO_IO_BAR).size:
        raise HarnessError("The device was to have a BAR of I/O ports, and has none.")
    io_ports = Creation(region=VIRTIO_IO_BAR)
    require_none(deviations(owner, {io_ports: lambda: io_ports.make(device)}, ["EINVAL", "ENODEV"]))


@requirement("ERR-31", "ERR-00")
def test_a_device_that_is_bound_to_nothing_exports_nothing(owner: Actor, ram: Function) -> None:
    """On a device's node that is not yet bound to an iommufd a creation is EINVAL; afterwards it works."""
    node = owner.open(ram.address, "node")
    require_none(deviations(owner, {"creation": lambda: Creation().make(node)}, ["EINVAL"]))
    node.close()
    assert owner.export(owner.open(ram.address, "cdev"), RAM_BAR, SPAN).size == LENGTH


@requirement("ERR-32", "ERR-00")
def test_a_driver_that_gives_no_addresses_exports_nothing(owner: Actor, guest: Guest) -> None:
    """On a device of a vendor's driver without physical addresses any creation is EOPNOTSUPP."""
    if not guest.has_driver(VENDORS_DRIVER):
        pytest.skip(f"this kernel has no driver of that kind (CONFIG_{VENDORS_DRIVER.upper()})")
    with guest.bind("ram", VENDORS_DRIVER) as function:
        device = owner.open(function.address)
        calls = (Creation(), Creation(ranges=()), Creation(region=BEYOND), Creation(argsz=8))
        attempts = {made: lambda made=made: made.make(device) for made in calls}
        require_none(deviations(owner, attempts, ["EOPNOTSUPP"]))
        device.close()


@requirement("ERR-60", "ERR-00")
def test_a_kernel_without_the_option_maps_bars_alone(
    owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """Without VFIO_PCI_DMABUF creation and revocation are ENOTTY, and device-fd mappings work."""
    device = owner.open(ram.address)
    if outcome(lambda: Creation(flags=GET | PROBE | EXPORT).make(device)) == "success":
        pytest.skip("this kernel has VFIO_PCI_DMABUF")
    attempts: dict[object, Callable[[], object]] = {"creation": lambda: Creation().make(device)}
    number = Abi.of(owner).revoke
    if number is not None:
        revoke = feature(SET | number, owner.make("udmabuf", PAGE))
        attempts["revoke"] = lambda: call(owner, device, VFIO_DEVICE_FEATURE, revoke)
    require_none(deviations(owner, attempts, ["ENOTTY"]))
    ram_witness.stamp()
    assert owner.map(device, LENGTH, bar=RAM_BAR).pages() == list(range(LENGTH // PAGE))


# -- revocation ------------------------------------------------------------------------


class Stage:
    """An owner with a device, and a DMABUF of it that is mapped."""

    def __init__(self, owner: Actor, device: Device) -> None:
        self.owner, self.device = owner, device
        self.buffer = owner.export(device, RAM_BAR, SPAN)
        self.mapping = owner.map(self.buffer)
        assert self.mapping.stamp(seed=0x40) is None

    def alive(self) -> bool:
        """Whether the buffer and its mapping are as they were."""
        with self.owner.map(self.buffer) as again:
            return self.mapping.pages() == again.pages() == list(range(0x40, 0x40 + LENGTH // PAGE))

    @cached_property
    def by_feature(self) -> bool:
        """Whether the device revokes, and not the DMABUF itself."""
        return self.owner.revoke_via != "ioctl"

    @cached_property
    def number(self) -> int:
        """That of the feature which revokes."""
        number = Abi.of(self.owner).revoke
        if number is None:
            raise HarnessError("The headers of this kernel do not say by which feature it revokes.")
        return number

    def revoke(self, target: Target) -> int:
        """A revoke of whatever has this descriptor.  Raises Refused."""
        if not self.by_feature:
            return call(self.owner, target, DMA_BUF_IOCTL_REVOKE)
        return self.ask(SET, target)

    def ask(self, way: int, target: Target, argsz: int | None = None, present: int | None = None) -> int:
        """VFIO_DEVICE_FEATURE of the feature that revokes; ``present`` bytes of it can be read."""
        part = target.to_bytes(4, "little", signed=target < 0) if isinstance(target, int) else target
        argument = feature(way | self.number, part, argsz=argsz)
        if present is not None:
            argument = argument.cut(present)
        return call(self.owner, self.device, VFIO_DEVICE_FEATURE, argument)


@pytest.fixture
def stage(owner: Actor, ram: Function) -> Stage:
    """With a device by its own node: its iommufd is one of its descriptors."""
    return Stage(owner, owner.open(ram.address, "cdev"))


@pytest.fixture
def c_stage(c_owner: Actor, ram: Function) -> Stage:
    """The C actor's."""
    return Stage(c_owner, c_owner.open(ram.address, "cdev"))


def closed(stage: Stage) -> int:
    """The number of a descriptor that was a DMABUF until it was closed."""
    number = Creation().make(stage.device)
    hold(stage.device, number).close()
    return number


def revoked(stage: Stage) -> Buffer:
    """A DMABUF that is revoked for good."""
    buffer = stage.owner.export(stage.device, RAM_BAR, SPAN)
    stage.revoke(buffer)
    return buffer


def of_another_device(stage: Stage, second_ram: Function) -> Buffer:
    """A DMABUF of another VFIO device of the same owner."""
    return stage.owner.export(stage.owner.open(second_ram.address, "cdev"), RAM_BAR, SPAN)


@dataclass(frozen=True)
class Unfit:
    """A row of the table of revocation: what is revoked, and the errno by the device and by the DMABUF."""

    id: str
    what: str
    by_device: str
    by_dmabuf: str
    make: Callable[[Stage], Target]


NOT_A_DMABUF = ("EINVAL", "ENOTTY")
NOT_OPEN = ("EBADF", "EBADF")
NOT_OF_VFIO = ("ENODEV", "EINVAL")

TARGETS = (
    Unfit("ERR-42", "standard output", *NOT_A_DMABUF, lambda stage: 1),
    Unfit("ERR-42", "a memfd", *NOT_A_DMABUF, lambda stage: stage.owner.make("memfd", LENGTH)),
    Unfit("ERR-42", "an eventfd", *NOT_A_DMABUF, lambda stage: stage.owner.make("eventfd", 0)),
    Unfit("ERR-42", "the device itself", *NOT_A_DMABUF, lambda stage: stage.device),
    Unfit("ERR-42", "its iommufd", *NOT_A_DMABUF, lambda stage: Anchor(stage.device)),
    Unfit("ERR-43", "-1", *NOT_OPEN, lambda stage: -1),
    Unfit("ERR-43", "1 << 30", *NOT_OPEN, lambda stage: 1 << 30),
    Unfit("ERR-43", "2^31 - 1", *NOT_OPEN, lambda stage: (1 << 31) - 1),
    Unfit("ERR-43", "a closed descriptor", *NOT_OPEN, closed),
    Unfit("ERR-43", "an O_PATH descriptor", *NOT_OPEN, lambda stage: stage.buffer.reopen("path")),
    Unfit("ERR-44", "a udmabuf", *NOT_OF_VFIO, lambda stage: stage.owner.make("udmabuf", LENGTH)),
    Unfit("ERR-44", "a DMABUF of a heap", *NOT_OF_VFIO, lambda stage: stage.owner.make("heap", LENGTH)),
    Unfit("ERR-45", "a revoked DMABUF", "EBADFD", "EBADFD", revoked),
)
KINDS = {
    name: [one for one in TARGETS if one.id == name] for name in dict.fromkeys(one.id for one in TARGETS)
}


def revocation_deviations(stage: Stage, targets: Iterable[Unfit]) -> list[str]:
    """What is not as the rows say; a refused revoke has to leave the stage's own buffer alive, too."""
    wrong = []
    for one in targets:
        target = one.make(stage)
        errno = one.by_device if stage.by_feature else one.by_dmabuf
        wrong += deviations(stage.owner, {one.what: lambda target=target: stage.revoke(target)}, [errno])
    return [*wrong, *([] if stage.alive() else ["the buffer is not what it was"])]


@requirement("ERR-00")
@on_dialect("base", "feature", "ioctl")
@pytest.mark.parametrize("name", [pytest.param(name, marks=requirement(name)) for name in KINDS])
def test_what_cannot_be_revoked_is_refused(c_stage: Stage, name: str) -> None:
    """A revoke of what is no live DMABUF of the device gets the errno for that, and leaves nothing behind."""
    require_none(revocation_deviations(c_stage, KINDS[name]))


@requirement("ERR-00", *KINDS)
@on_dialect("base", "feature", "ioctl")
def test_python_is_refused_the_same_revokes(start, ram: Function) -> None:
    """Every row of that table holds for a tool in Python."""
    owner = start("python")
    stage = Stage(owner, owner.open(ram.address, "cdev"))
    require_none(revocation_deviations(stage, TARGETS))


@requirement("ERR-46", "ERR-00")
@on_dialect("base", "feature")
def test_another_devices_buffer_is_refused(stage: Stage, second_ram: Function) -> None:
    """A revoke of another VFIO device's DMABUF is ENODEV and leaves it alone; its own device revokes it."""
    victim = of_another_device(stage, second_ram)
    mapping = stage.owner.map(victim)
    assert mapping.stamp(seed=0x60) is None
    require_none(deviations(stage.owner, {"revoke": lambda: stage.revoke(victim)}, ["ENODEV"]))
    assert mapping.pages() == stage.owner.map(victim).pages() == list(range(0x60, 0x60 + LENGTH // PAGE))
    assert stage.alive()


@requirement("ERR-46")
@on_dialect("ioctl")
def test_there_is_no_device_to_compare_with(stage: Stage, second_ram: Function, finding) -> None:
    """A revoke by the DMABUF itself takes that of any device."""
    victim = of_another_device(stage, second_ram)
    mapping = stage.owner.map(victim)
    assert mapping.stamp() is None
    with nothing_left(stage.owner):
        stage.revoke(victim)
    finding("the call is on the DMABUF and succeeds, whatever device it is of")
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)
    assert stage.alive()


@requirement("ERR-47", "ERR-00")
@on_dialect("base", "feature", "ioctl")
@pytest.mark.parametrize("before", ["alive", "revoked"])
def test_a_closed_and_reopened_device_does_not_know_its_buffers(
    owner: Actor, ram: Function, before: str
) -> None:
    """A revoke of a DMABUF from before its device was closed is ENODEV, also if it was revoked before."""
    device = owner.open(ram.address, "cdev")
    buffer = owner.export(device, RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    if before == "revoked":
        owner.revoke(buffer)
    device.close()
    again = owner.open(ram.address, "cdev")
    fresh = owner.map(owner.export(again, RAM_BAR, SPAN))
    assert fresh.stamp(seed=9) is None
    require_none(deviations(owner, {"revoke": lambda: owner.revoke(buffer, device=again)}, ["ENODEV"]))
    assert fresh.pages() == list(range(9, 9 + LENGTH // PAGE))
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-51")
@on_dialect("base", "feature", "ioctl")
def test_a_suspended_buffer_can_be_revoked(owner: Actor, ram: Function) -> None:
    """A revoke while memory decoding is off succeeds, and is for good."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    assert mapping.stamp() is None
    with nothing_left(owner):
        device.decode_memory(False)
        owner.revoke(buffer)
        device.decode_memory(True)
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-56")
@on_dialect("base", "feature", "ioctl")
def test_a_buffer_of_a_device_in_low_power_can_be_revoked(owner: Actor, ram: Function) -> None:
    """A revoke while the device is in low power succeeds, and is for good."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    assert mapping.stamp() is None
    with nothing_left(owner):
        device.enter_low_power()
        owner.revoke(buffer)
        device.exit_low_power()
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-56")
@on_dialect("base", "feature", "ioctl")
@machine(power=True)
def test_a_buffer_of_a_device_in_d3hot_can_be_revoked(owner: Actor, rng: Function) -> None:
    """A revoke while the device is in D3hot succeeds, and is for good."""
    device = owner.open(rng.address)
    buffer = owner.export(device, VIRTIO_BAR, [Range(0, PAGE)])
    mapping = owner.map(buffer)
    assert isinstance(mapping.load32(0), int)
    with nothing_left(owner):
        device.power(D3HOT)
        owner.revoke(buffer)
        device.power(D0)
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


# -- the feature that revokes ----------------------------------------------------------


@requirement("ERR-40", "ERR-00")
@on_dialect("feature")
def test_a_revoke_can_only_be_set(stage: Stage) -> None:
    """GET, PROBE with GET, SET with GET, and none of them, of the feature that revokes are EINVAL."""
    ways = (GET, GET | PROBE, GET | SET, GET | SET | PROBE, 0, SET | 1 << 19, SET | 1 << 31)
    attempts = {hex(way): lambda way=way: stage.ask(way, stage.buffer) for way in ways}
    require_none(deviations(stage.owner, attempts, ["EINVAL"]))
    assert stage.alive()


@requirement("ERR-41", "ERR-00")
@on_dialect("feature")
def test_a_probe_revokes_nothing(owner: Actor, ram: Function) -> None:
    """PROBE with SET of the feature that revokes succeeds, whatever follows, and revokes nothing."""
    stage = Stage(owner, owner.open(ram.address))
    with nothing_left(owner):
        for target in (stage.buffer, -1):
            assert stage.ask(SET | PROBE, target) == 0
        assert stage.ask(SET | PROBE, stage.buffer, argsz=8, present=8) == 0
    assert stage.alive()


@requirement("ERR-48", "ERR-00")
@on_dialect("feature")
def test_a_revoke_needs_room_for_its_descriptor(stage: Stage) -> None:
    """A revoke with an argsz below 12 is EINVAL, and revokes nothing."""
    attempts = {argsz: lambda argsz=argsz: stage.ask(SET, stage.buffer, argsz) for argsz in (0, 7, 8, 9, 11)}
    require_none(deviations(stage.owner, attempts, ["EINVAL"]))
    assert stage.alive()


@requirement("ERR-49")
@on_dialect("feature")
@pytest.mark.parametrize("argsz", [13, 16, 64, EVERY - 1])
def test_a_revoke_may_have_room_for_more(stage: Stage, argsz: int) -> None:
    """A revoke with an argsz larger than it needs succeeds, though there is nothing after what it needs."""
    with nothing_left(stage.owner):
        assert stage.ask(SET, stage.buffer, argsz, present=12) == 0
    assert stage.mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-50", "ERR-00")
@on_dialect("feature")
def test_a_revoke_that_cannot_be_read_is_refused(stage: Stage) -> None:
    """A revoke with a pointer to nowhere, or of which a part is missing, is EFAULT, and revokes nothing."""
    pointers = {
        hex(pointer): lambda pointer=pointer: call(stage.owner, stage.device, VFIO_DEVICE_FEATURE, pointer)
        for pointer in BAD_POINTERS
    }
    pieces = {
        present: lambda present=present: stage.ask(SET, stage.buffer, present=present)
        for present in (0, 7, 8, 11)
    }
    require_none(deviations(stage.owner, pointers | pieces, ["EFAULT"]))
    assert stage.alive()


@requirement("ERR-53")
@on_dialect("feature", "ioctl")
def test_an_earlier_revisions_interface_is_gone(stage: Stage, finding) -> None:
    """What revoked in another revision is ENOTTY, and revokes nothing."""
    owner, request = stage.owner, Argument([b"\x08\0\0\0", stage.buffer])
    attempts = {
        "VFIO_DEVICE_PCI_DMABUF_REVOKE": lambda: call(
            owner, stage.device, VFIO_DEVICE_PCI_DMABUF_REVOKE, request
        )
    }
    if stage.by_feature:
        attempts["DMA_BUF_IOCTL_REVOKE"] = lambda: call(owner, stage.buffer, DMA_BUF_IOCTL_REVOKE)
    with nothing_left(owner):
        answers = {what: outcome(attempt) for what, attempt in attempts.items()}
    finding(f"interfaces of other revisions: {answers}")
    assert set(answers.values()) == {"ENOTTY"}
    assert stage.alive()


@requirement("ERR-52")
@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
def test_a_device_fd_mapping_leads_to_no_dmabuf(owner: Actor, ram: Function, uid: int | None) -> None:
    """Whoever has a device-fd mapping cannot open a DMABUF by way of /proc/self/map_files."""
    device = owner.open(ram.address)
    holder = owner.spawn("holder", uid=uid)
    mapping = holder.map(owner.lend(device, holder), LENGTH, bar=RAM_BAR)
    assert mapping.stamp() is None
    before = holder.descriptors()
    with nothing_left(owner):
        assert outcome(lambda: open_mapped_file(mapping)) in ("ENXIO", "EPERM", "EACCES")
    assert holder.descriptors() == before


# -- the ioctl that revokes ------------------------------------------------------------


@requirement("ERR-54")
@on_dialect("ioctl")
@pytest.mark.parametrize("argument", [1, *BAD_POINTERS[1:], EVERY * EVERY - 1], ids=hex)
def test_the_ioctl_has_no_argument(stage: Stage, argument: int) -> None:
    """DMA_BUF_IOCTL_REVOKE succeeds whatever its third argument is."""
    with nothing_left(stage.owner):
        assert call(stage.owner, stage.buffer, DMA_BUF_IOCTL_REVOKE, argument) == 0
    assert stage.mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-55", "ERR-00")
@on_dialect("ioctl")
@pytest.mark.parametrize("before", ["alive", "revoked"])
def test_the_ioctl_needs_the_device_open(owner: Actor, ram: Function, before: str) -> None:
    """DMA_BUF_IOCTL_REVOKE of a DMABUF whose device is closed is ENODEV, also if it was revoked before."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    if before == "revoked":
        owner.revoke(buffer)
    device.close()
    attempts = {time: lambda: call(owner, buffer, DMA_BUF_IOCTL_REVOKE) for time in ("first", "second")}
    require_none(deviations(owner, attempts, ["ENODEV"]))


# -- import ----------------------------------------------------------------------------


@requirement("IMP-07", "ERR-00")
def test_what_iommufd_cannot_import_is_refused(c_owner: Actor, ram: Function, importer: Device) -> None:
    """An import of several ranges, or of what VFIO did not export, is EOPNOTSUPP; of one range it is done."""
    device = c_owner.open(ram.address)
    refused = {
        "two ranges": c_owner.export(device, RAM_BAR, [Range(4 * PAGE, PAGE), Range(0, PAGE)]),
        "neighbours": c_owner.export(device, RAM_BAR, [Range(0, PAGE), Range(PAGE, PAGE)]),
        "udmabuf": c_owner.make("udmabuf", PAGE),
        "heap": c_owner.make("heap", PAGE),
    }
    attempts = {
        what: lambda buffer=buffer: importer.import_buffer(buffer, IOVA) for what, buffer in refused.items()
    }
    require_none(deviations(c_owner, attempts, ["EOPNOTSUPP"]))
    importer.import_buffer(c_owner.export(device, RAM_BAR, SPAN), IOVA)


# -- mmap() ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Mmap:
    """mmap() of a DMABUF of four pages, right in all but what is said.

    ``of`` is how it was opened or what became of it: ``rdwr``, ``rdonly``,
    ``wronly``, ``revoked``, ``closed`` (its device).
    """

    length: int = LENGTH
    offset: int = 0
    prot: str = "rw"
    flags: str | int | None = None
    of: str = "rdwr"


@dataclass(frozen=True)
class MmapRow:
    """A row of the table of mmap()."""

    id: str
    what: str
    errno: str
    calls: tuple[Mmap, ...]


OPEN_MODES = ("rdwr", "rdonly", "wronly")
PROTECTIONS = ("none", "r", "w", "rw")
BEYOND_THE_END = (
    (LENGTH + PAGE, 0),
    (PAGE, LENGTH),
    (LENGTH, PAGE),
    (2 * PAGE, LENGTH - PAGE),
    (PAGE, 1 << 40),
)

MMAP = (
    MmapRow("ERR-70", "no length", "EINVAL", (Mmap(length=0), Mmap(length=0, offset=PAGE))),
    MmapRow(
        "ERR-71",
        "an offset in a page",
        "EINVAL",
        tuple(Mmap(PAGE, offset) for offset in (1, 0x800, LENGTH + 1)),
    ),
    MmapRow("ERR-72", "beyond the end", "EINVAL", tuple(Mmap(*part) for part in BEYOND_THE_END)),
    MmapRow(
        "ERR-73",
        "a page number that overflows",
        "EOVERFLOW",
        (Mmap(PAGE, (1 << 64) - PAGE), Mmap(2 * PAGE, (1 << 64) - 2 * PAGE)),
    ),
    MmapRow(
        "ERR-74",
        "a revoked DMABUF, or one whose device is closed",
        "ENODEV",
        tuple(
            Mmap(of=of, prot=prot, flags=flags)
            for of in ("revoked", "closed")
            for prot, flags in (("rw", None), ("r", None), ("r", "private"))
        ),
    ),
    MmapRow(
        "ERR-74",
        "beyond the end of a revoked DMABUF",
        "EINVAL",
        tuple(Mmap(*part, of=of) for of in ("revoked", "closed") for part in BEYOND_THE_END),
    ),
    MmapRow(
        "ERR-75", "MAP_PRIVATE", "EINVAL", tuple(Mmap(prot=prot, flags="private") for prot in PROTECTIONS)
    ),
    MmapRow("ERR-76", "MAP_SYNC", "EOPNOTSUPP", (Mmap(flags=MAP_SHARED_VALIDATE_SYNC),)),
    MmapRow(
        "ERR-77",
        "PROT_WRITE of an O_RDONLY descriptor",
        "EACCES",
        tuple(Mmap(prot=prot, of="rdonly") for prot in ("w", "rw")),
    ),
    MmapRow(
        "ERR-78",
        "an O_WRONLY descriptor",
        "EACCES",
        tuple(Mmap(prot=prot, of="wronly") for prot in PROTECTIONS),
    ),
)


class Lenders:
    """DMABUFs of the kinds that the table names, made when they are first asked for."""

    def __init__(self, owner: Actor, ram: Function) -> None:
        self._owner, self._ram = owner, ram
        self._device = owner.open(ram.address)
        self._buffers: dict[str, Buffer] = {}
        self._mapping = owner.map(self["rdwr"])
        assert self._mapping.stamp(seed=0x20) is None

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

    def alive(self) -> bool:
        """Whether what may be mapped still can be, and shows what it did."""
        owner = self._owner
        return (
            self._mapping.pages()
            == owner.map(self["rdwr"]).pages()
            == list(range(0x20, 0x20 + LENGTH // PAGE))
        )


def mmap_deviations(lenders: Lenders, owner: Actor, one: MmapRow) -> list[str]:
    """What is not as the row says."""
    buffers = {asked.of: lenders[asked.of] for asked in one.calls}

    def attempt(asked: Mmap) -> Mapping:
        return owner.map(buffers[asked.of], asked.length, asked.offset, asked.prot, flags=asked.flags)

    return deviations(owner, {asked: lambda asked=asked: attempt(asked) for asked in one.calls}, [one.errno])


@requirement("ERR-00")
@pytest.mark.parametrize(
    "one", [pytest.param(one, id=f"{one.id} {one.what}", marks=requirement(one.id)) for one in MMAP]
)
def test_a_malformed_mmap_is_refused(c_owner: Actor, ram: Function, one: MmapRow) -> None:
    """An mmap() of a DMABUF that is wrong in one thing gets the errno for that, and leaves nothing behind."""
    lenders = Lenders(c_owner, ram)
    require_none(mmap_deviations(lenders, c_owner, one))
    assert lenders.alive()


@requirement("ERR-00", *dict.fromkeys(one.id for one in MMAP))
def test_python_is_refused_the_same_mmaps(start, ram: Function) -> None:
    """Every row of that table holds for a tool in Python."""
    owner = start("python")
    lenders = Lenders(owner, ram)
    require_none([wrong for one in MMAP for wrong in mmap_deviations(lenders, owner, one)])
    assert lenders.alive()


@requirement("ERR-79")
def test_a_dmabuf_cannot_be_lent_for_reading_alone(owner: Actor, ram: Function, finding) -> None:
    """mmap() with PROT_READ of an O_RDONLY descriptor is EINVAL, and of an O_RDWR one works."""
    device = owner.open(ram.address)
    assert owner.map(owner.export(device, RAM_BAR, SPAN), prot="r").load32(0) is not None
    buffer = owner.export(device, RAM_BAR, SPAN, open_flags="rdonly,cloexec")
    with nothing_left(owner):
        answer = outcome(lambda: owner.map(buffer, prot="r"))
    finding(f"mmap() with PROT_READ of an O_RDONLY descriptor: {answer}")
    assert answer == "EINVAL"


# -- anything at all -------------------------------------------------------------------


def sizes(*usual: int) -> st.SearchStrategy[int]:
    """What is right, what is next to it, and anything of 32 bits."""
    near = sorted({max(0, one + step) for one in usual for step in (-1, 0, 1)})
    return st.sampled_from(near) | st.integers(0, EVERY - 1)


Case = TypeVar("Case")


@st.composite
def nearly(
    draw: st.DrawFn, rights: st.SearchStrategy[Case], others: Callable[[Case], Table[str, st.SearchStrategy]]
) -> Case:
    """What is right but for two of its fields at most, or for one, or none; ``others`` says what they may be.

    Who gets all fields wrong at once sees only the first check of each call.
    """
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


@st.composite
def inside(draw: st.DrawFn) -> tuple[int, int]:
    """A range of the BAR."""
    first = draw(st.integers(0, RAM_BAR_SIZE // PAGE - 1))
    return first * PAGE, draw(st.integers(1, RAM_BAR_SIZE // PAGE - first)) * PAGE


def creations() -> st.SearchStrategy[Creation]:
    """Nearly right ones."""
    rights = st.builds(
        lambda ranges, flags: Creation(ranges=tuple(ranges), open_flags=flags),
        st.lists(inside(), min_size=1, max_size=4),
        OPEN_FLAGS,
    )

    def others(case: Creation) -> dict[str, st.SearchStrategy]:
        count = len(case.ranges)
        whole = 24 + 16 * count
        return {
            "argsz": sizes(0, 8, 24, whole),
            "flags": WAYS.map(lambda way: way | EXPORT) | st.integers(0, EVERY - 1),
            "region": sizes(0, 6, 9),
            "dma_flags": sizes(0, WC_FLAG),
            "nr_ranges": sizes(0, count, 1 << 16),
            "ranges": st.lists(inside() | st.tuples(OFFSETS, LENGTHS), max_size=4).map(tuple),
            "present": st.integers(0, whole),
            "pointer": st.sampled_from(BAD_POINTERS),
        }

    return nearly(rights, others)


def may_succeed(case: Creation, dma_flags: Sequence[int]) -> bool:
    """Whether it may make a DMABUF, where there are these ``dma_flags``.

    Of argsz no more is asked than the kernel asks: room for the fixed part.
    """
    if case.pointer is not None:
        return False
    count = len(case.ranges) if case.nr_ranges is None else case.nr_ranges
    there = 24 + 16 * len(case.ranges) if case.present is None else case.present
    if case.present is None and count > len(case.ranges):
        return False  # zeros follow, and a range of no length is none
    listed = case.ranges[:count]
    return (
        case.flags == GET | EXPORT
        and (case.argsz is None or case.argsz >= 24)
        and there >= 24 + 16 * count
        and count > 0
        and case.region == RAM_BAR
        and case.dma_flags in dma_flags
        and all(length and not (offset | length) % PAGE for offset, length in listed)
        and all(offset + length <= RAM_BAR_SIZE for offset, length in listed)
    )


@requirement("ERR-00", "ERR-13", "ERR-19", "ERR-20", "ERR-23", "ERR-24", "ERR-25", "ERR-26")
def test_no_creation_succeeds_that_should_not(ram: Function, search: Search) -> None:
    """Whatever the arguments of a creation, it makes a DMABUF only of pages of the BAR, or leaves nothing."""
    made = 0

    def prepare(owner: Actor) -> tuple[Device, Leftovers]:
        return owner.open(ram.address), Leftovers(owner)

    def check(subject: tuple[Device, Leftovers], case: Creation) -> None:
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
        assert leftovers.look() == ""
        if size is not None:
            flags = (0, WC_FLAG) if device.actor.revoke_via == "ioctl" else (0,)
            assert may_succeed(case, flags), f"{case} makes a DMABUF"
            count = len(case.ranges) if case.nr_ranges is None else case.nr_ranges
            assert size == sum(length for _, length in case.ranges[:count])
            made += 1

    search(creations(), prepare, check, examples=120)
    if not made:
        raise HarnessError("Of the calls that were tried none made a DMABUF: they were all malformed.")


@dataclass(frozen=True)
class Asked:
    """A call of the feature that revokes; ``target`` is a number, or None for a live DMABUF."""

    way: int
    argsz: int | None
    present: int | None
    target: int | None


NAMED = st.sampled_from([0, 1, 2, 3]) | st.integers(-(1 << 31), (1 << 31) - 1)


def revocations() -> st.SearchStrategy[Asked]:
    """Nearly right ones."""
    others = {"way": WAYS, "argsz": sizes(0, 8, 12), "present": st.integers(0, 12), "target": NAMED}
    return nearly(st.just(Asked(SET, None, None, None)), lambda _: others)


@requirement("ERR-00", "ERR-40", "ERR-42", "ERR-43", "ERR-48")
@on_dialect("feature")
def test_no_revoke_succeeds_that_should_not(ram: Function, search: Search) -> None:
    """Whatever the arguments of a revoke, it takes away the DMABUF that it names, or nothing."""
    gone = 0

    def check(subject: tuple[Stage, Leftovers], case: Asked) -> None:
        nonlocal gone
        stage, leftovers = subject
        owner = stage.owner
        with owner.export(stage.device, RAM_BAR, SPAN) as buffer, owner.map(buffer) as mapping:
            target = buffer if case.target is None else case.target
            answer = outcome(lambda: stage.ask(case.way, target, case.argsz, case.present))
            done = answer == "success" and not case.way & PROBE
            if done:
                assert case.way == SET
                assert case.target is None
                assert case.argsz is None or case.argsz >= 12
                assert case.present is None or case.present >= 12
                gone += 1
            assert (mapping.load32(0) == Sigbus(BUS_ADRERR, 0)) == done
        assert stage.mapping.load32(0) == 0x40
        assert leftovers.look() == ""

    def prepare(owner: Actor) -> tuple[Stage, Leftovers]:
        return Stage(owner, owner.open(ram.address)), Leftovers(owner)

    search(revocations(), prepare, check, examples=100)
    if not gone:
        raise HarnessError("Of the calls that were tried none revoked anything: they were all malformed.")


@dataclass(frozen=True)
class Attributed:
    """A call of the feature that sets the memory attribute; ``target`` as that of a revoke."""

    way: int
    argsz: int | None
    present: int | None
    target: int | None
    attribute: int

    def make(self, device: Device, buffer: Buffer) -> int:
        """Call it of ``buffer``, or of the descriptor that it names instead.  Raises Refused."""
        part = buffer if self.target is None else struct.pack("=i", self.target)
        argument = feature(self.way | MEMATTR, part, struct.pack("=I", self.attribute), argsz=self.argsz)
        if self.present is not None:
            argument = argument.cut(self.present)
        return call(device.actor, device, VFIO_DEVICE_FEATURE, argument)

    def may_succeed(self) -> bool:
        """Whether it is right in all that it says."""
        return (
            self.way == SET
            and self.target is None
            and self.attribute in ATTRIBUTES
            and (self.argsz is None or self.argsz >= 16)
            and (self.present is None or self.present >= 16)
        )


def attributions() -> st.SearchStrategy[Attributed]:
    """Nearly right ones."""
    rights = st.sampled_from([Attributed(SET, None, None, None, attribute) for attribute in ATTRIBUTES])
    others = {
        "way": WAYS,
        "argsz": sizes(0, 8, 12, 16),
        "present": st.integers(0, 16),
        "target": NAMED,
        "attribute": sizes(0, WC_FLAG),
    }
    return nearly(rights, lambda _: others)


@requirement("ERR-00", "ATTR-05", "ATTR-06")
@on_dialect("feature")
def test_no_attribute_is_set_that_should_not(ram: Function, search: Search) -> None:
    """Whatever the arguments, the feature for the memory attribute takes what it has, and nothing away."""
    taken = 0

    def check(subject: tuple[Stage, Leftovers], case: Attributed) -> None:
        nonlocal taken
        stage, leftovers = subject
        done = outcome(lambda: case.make(stage.device, stage.buffer)) == "success"
        if done and not case.way & PROBE:
            assert case.may_succeed(), f"{case} is taken"
            taken += 1
        assert stage.alive()
        assert leftovers.look() == ""

    def prepare(owner: Actor) -> tuple[Stage, Leftovers]:
        if owner.offers()["memattr"] != "feature":
            pytest.skip("this kernel offers no memory attribute by a device feature")
        return Stage(owner, owner.open(ram.address)), Leftovers(owner)

    search(attributions(), prepare, check, examples=80)
    if not taken:
        raise HarnessError("Of the calls that were tried none set an attribute: they were all malformed.")


@st.composite
def windows(draw: st.DrawFn) -> Mmap:
    """A mapping of some of the pages."""
    first = draw(st.integers(0, LENGTH // PAGE - 1))
    length = draw(st.integers(1, LENGTH // PAGE - first))
    return Mmap(length * PAGE, first * PAGE, draw(st.sampled_from(PROTECTIONS)), 1)


def mmaps() -> st.SearchStrategy[Mmap]:
    """Nearly right ones."""
    numbers = st.integers(0, (1 << 64) - 1)
    # None of those that choose the place, or that need no file.
    more = (0, 0x2000, 0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x40, 0x800, 0x1000)
    others = {
        "length": st.sampled_from([PAGE, LENGTH, 0, 1, LENGTH + 1]) | numbers,
        "offset": st.sampled_from([0, PAGE, LENGTH - PAGE, LENGTH, 1]) | numbers,
        "flags": st.builds(or_, st.sampled_from([1, 2, 3]), st.sampled_from(more)),
        "of": st.sampled_from(OPEN_MODES),
    }
    return nearly(windows(), lambda _: others)


@requirement("ERR-00", "ERR-70", "ERR-71", "ERR-72", "ERR-73", "ERR-75", "ERR-76", "ERR-77", "ERR-78")
def test_no_mmap_succeeds_that_should_not(ram: Function, search: Search) -> None:
    """Whatever the arguments of mmap(), a mapping that comes of it shows pages of the DMABUF alone."""
    mapped = 0

    def prepare(owner: Actor) -> tuple[Lenders, Leftovers]:
        lenders = Lenders(owner, ram)
        for kind in OPEN_MODES:
            assert lenders[kind].size == LENGTH
        return lenders, Leftovers(owner)

    def check(subject: tuple[Lenders, Leftovers], case: Mmap) -> None:
        nonlocal mapped
        lenders, leftovers = subject
        buffer = lenders[case.of]
        try:
            mapping = buffer.actor.map(buffer, case.length, case.offset, case.prot, flags=case.flags)
        except Refused:
            assert leftovers.look() == ""
            return
        with mapping:
            assert case.of == "rdwr"
            assert isinstance(case.flags, int)
            assert case.flags & 3 != 2
            assert not case.offset % PAGE
            assert 0 < case.length <= LENGTH - case.offset
            if "r" in case.prot:
                first = 0x20 + case.offset // PAGE
                assert mapping.pages() == list(range(first, first + mapping.length // PAGE))
        mapped += 1

    search(mmaps(), prepare, check, examples=120)
    if not mapped:
        raise HarnessError("Of the calls that were tried none mapped anything: they were all malformed.")
