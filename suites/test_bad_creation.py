"""ERR: malformed creations of a DMABUF are refused and leave nothing behind.

A row of the table is a creation that is correct but for one thing.  The C actor
makes each row in a scenario of its own, the Python probe all rows in one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Device
from harness.actor.ioctl import BAD_POINTERS, GET, PROBE, SET, VFIO_DEVICE_FEATURE, Abi, call, feature, hold
from harness.actor.reply import outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, on_attribute, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.cases import (
    CREATION_HEADER,
    CREATION_RANGE,
    EVERY,
    EXPORT,
    LENGTH,
    PAGES,
    SPAN,
    Creation,
    Wrong,
    deviations,
    nothing_left,
    require_none,
    require_refused,
)
from suites.support.constants import RAM_BAR, RAM_BAR_SIZE, VIRTIO_IO_BAR, WC_FLAG
from suites.support.fixtures import Finding, Start

# include/uapi/linux/vfio.h, VFIO_PCI_ROM_REGION_INDEX and the following
ROM, CONFIG, VGA, BEYOND = 6, 7, 8, 9
# drivers/vfio/pci/virtio: it binds to any device whose driver_override names it
VENDOR_DRIVER = "virtio_vfio_pci"


# -- the table -------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of the table: what is wrong, and the errnos with which each of these calls may be refused."""

    id: str
    what: str
    errnos: tuple[str, ...]
    calls: tuple[Creation, ...]
    role: str = "ram"


def row(name: str, what: str, errnos: str, *calls: Iterable[Creation], role: str = "ram") -> Row:
    """Make a row; ``errnos`` is written ``ENOMEM or EINVAL``."""
    return Row(name, what, tuple(errnos.split(" or ")), tuple(itertools.chain(*calls)), role)


def each(**wrong: Iterable[Any]) -> list[Creation]:
    """Make a creation for each of these values of one field."""
    ((name, values),) = wrong.items()
    return [replace(Creation(), **{name: value}) for value in values]


def lists(*ranges: Sequence[tuple[int, int]]) -> list[Creation]:
    """Make a creation for each of these lists of ranges, (offset, length) in bytes."""
    return [Creation(ranges=tuple(listed)) for listed in ranges]


GOOD = (PAGE, PAGE)  # a correct range
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
    row("ERR-10", "no range", "EINVAL", lists([]), [Creation(ranges=(), region=BEYOND)]),
    row("ERR-11", "flags", "EINVAL", each(dma_flags=(1, 1 << 27, 2 << 28, 1 << 31, EVERY - 1))),
    row("ERR-12", "a region that is no BAR", "ENODEV", each(region=(ROM, CONFIG, VGA, BEYOND, EVERY - 1))),
    row(
        "ERR-13",
        "2^32 - 1 ranges",
        "ENOMEM or EINVAL or EFAULT",
        [Creation(nr_ranges=EVERY - 1), Creation(nr_ranges=EVERY - 1, present=CREATION_HEADER)],
    ),
    row(
        "ERR-14",
        "ranges that cannot be read",
        "EFAULT",
        each(present=(24, 39)),
        [
            Creation(nr_ranges=2, present=40),
            Creation(nr_ranges=100, ranges=(GOOD,) * 99, present=CREATION_HEADER + CREATION_RANGE * 99),
        ],
    ),
    row(
        "ERR-16",
        "an empty range",
        "EINVAL",
        lists([(0, 0)], [(0, 0), GOOD, GOOD], [GOOD, (0, 0), GOOD], [GOOD, GOOD, (0, 0)]),
    ),
    row(
        "ERR-17",
        "an offset in a page",
        "EINVAL",
        lists([(1, PAGE)], [(0x800, PAGE)], [(0xFFF, PAGE)], [GOOD, (0x800, PAGE)]),
    ),
    row(
        "ERR-18",
        "a length that is no pages",
        "EINVAL",
        lists([(0, 1)], [(0, 0x800)], [(0, PAGE + 1)], [GOOD, (0, 0x800)]),
        [Creation(region=0, ranges=((0, 256),)), Creation(region=0, ranges=((0, PAGE),))],
    ),
    row("ERR-19", "lengths beyond 2^64", "EINVAL", lists([(0, 1 << 63), (0, 1 << 63)])),
    row("ERR-20", "lengths that set bit 63", "EINVAL", lists([(0, 1 << 63)], [(0, 1 << 62), (0, 1 << 62)])),
    row("ERR-21", "a BAR that ivshmem does not have", NO_BAR, each(region=(1, 3, 4, 5))),
    # In some QEMUs BARs 1 and 2 of edu are memory.
    row("ERR-21", "a BAR that edu does not have", NO_BAR, each(region=(3, 4, 5)), role="registers"),
    row("ERR-23", "an offset that overflows", "EOVERFLOW", lists([((1 << 64) - PAGE, PAGE)])),
    row(
        "ERR-24",
        "a range after the BAR",
        "EINVAL",
        lists([(RAM_BAR_SIZE, PAGE)], [GOOD, (RAM_BAR_SIZE, PAGE)]),
    ),
    row(
        "ERR-25",
        "a range across the end",
        "EINVAL",
        lists([(RAM_BAR_SIZE - PAGE, 2 * PAGE)], [GOOD, (RAM_BAR_SIZE - PAGE, 2 * PAGE)]),
    ),
    row(
        "ERR-26",
        "a range longer than the BAR",
        "EINVAL",
        lists([(0, RAM_BAR_SIZE + PAGE)], [(0, 1 << 40)], [(0, (1 << 63) - PAGE)]),
    ),
    row("ERR-27", "the upper half of a 64-bit BAR", NO_BAR, each(region=[RAM_BAR + 1])),
)


def creation_deviations(device: Device, one: Row) -> list[Wrong]:
    """List what differs from the row."""
    return deviations(device.actor, {made: partial(made.make, device) for made in one.calls}, one.errnos)


@requirement("ERR-00")
@pytest.mark.parametrize(
    "one", [pytest.param(one, id=f"{one.id} {one.what}", marks=requirement(one.id)) for one in CREATION]
)
def test_a_malformed_creation_is_refused(c_owner: Actor, request: pytest.FixtureRequest, one: Row) -> None:
    """A creation with one wrong field gets the errno of its row and leaves nothing behind."""
    function = request.getfixturevalue(one.role)
    require_none(creation_deviations(c_owner.open(function.address), one))


@requirement("ERR-00", *(one.id for one in CREATION))
def test_a_malformed_creation_from_python_is_refused(
    start: Start, ram: Function, registers: Function
) -> None:
    """Every row of the table holds for the Python probe and the device's own file."""
    owner = start("python")
    devices = {"ram": owner.open(ram.address, "cdev"), "registers": owner.open(registers.address, "cdev")}
    require_none([wrong for one in CREATION for wrong in creation_deviations(devices[one.role], one)])


# -- single fields ---------------------------------------------------------------------


@requirement("ERR-11", "ERR-00")
@on_attribute("none", "set", "get-set")
def test_the_wc_flag_without_its_interface_is_einval(owner: Actor, ram: Function) -> None:
    """The flag 1 << 28 is EINVAL where the flags choose no memory attribute."""
    device = owner.open(ram.address)
    wc = Creation(dma_flags=WC_FLAG)
    require_refused(owner, {wc: partial(wc.make, device)}, "EINVAL")


@requirement("ERR-07", "ERR-00")
def test_a_probe_creates_nothing(owner: Actor, ram: Function) -> None:
    """PROBE with GET succeeds whatever its data, and creates nothing."""
    device = owner.open(ram.address)
    probe = Creation(flags=GET | PROBE | EXPORT)
    with nothing_left(owner):
        assert probe.make(device) == 0
        assert replace(probe, present=8, argsz=8).make(device) == 0


@requirement("ERR-15")
def test_an_argsz_without_room_for_the_ranges_is_accepted(
    owner: Actor, ram: Function, finding: Finding
) -> None:
    """A creation succeeds with an argsz that ends before its ranges, which can be read."""
    device = owner.open(ram.address)
    made = Creation(argsz=CREATION_HEADER, ranges=(GOOD, GOOD))
    with nothing_left(owner), hold(device, made.make(device)) as buffer:
        finding(f"with an argsz of 24 bytes and two ranges there is a DMABUF of {buffer.size:#x} bytes")
        assert buffer.size == 2 * PAGE, "the DMABUF has another size than its ranges"


@requirement("ERR-29")
def test_unknown_open_flags_are_ignored(owner: Actor, ram: Function, finding: Finding) -> None:
    """A creation with all bits of open_flags but the access mode makes a close-on-exec descriptor."""
    device = owner.open(ram.address)
    with nothing_left(owner), hold(device, Creation(open_flags=EVERY - 4).make(device)) as buffer:
        closes = buffer.closes_on_exec()
        finding(f"open_flags of {EVERY - 4:#x} make a descriptor; it closes on exec: {closes}")
        assert closes is True, "the descriptor of a DMABUF does not close on exec"


@requirement("ERR-30")
def test_an_access_mode_of_3_cannot_be_mapped(owner: Actor, ram: Function, finding: Finding) -> None:
    """O_ACCMODE in open_flags makes a descriptor of which mmap() is EACCES with every protection."""
    device = owner.open(ram.address)
    with nothing_left(owner), hold(device, Creation(open_flags=os.O_ACCMODE).make(device)) as buffer:
        answers = {prot: outcome(partial(owner.map, buffer, prot=prot)) for prot in ("r", "w", "rw")}
        finding(f"an access mode of 3 makes a descriptor; mmap() of it: {answers}")
        assert answers == dict.fromkeys(answers, "EACCES")


# -- devices and kernels that cannot export --------------------------------------------


@requirement("ERR-22", "ERR-00")
@machine(power=True)
def test_a_bar_of_io_ports_is_refused(owner: Actor, rng: Function) -> None:
    """A creation of a DMABUF of I/O ports is refused."""
    device = owner.open(rng.address)
    if VIRTIO_IO_BAR in rng.bars or not device.region(VIRTIO_IO_BAR).size:
        raise HarnessError("The device was to have a BAR of I/O ports, and has none.")
    io_ports = Creation(region=VIRTIO_IO_BAR)
    require_refused(owner, {io_ports: partial(io_ports.make, device)}, "EINVAL", "ENODEV")


@requirement("ERR-31", "ERR-00")
def test_export_before_the_bind_to_an_iommufd_is_einval(owner: Actor, ram: Function) -> None:
    """A creation on a device file is EINVAL until the file is bound to an iommufd."""
    node = owner.open(ram.address, "node")
    require_refused(owner, {"creation": lambda: Creation().make(node)}, "EINVAL")
    node.close()
    buffer = owner.export(owner.open(ram.address, "cdev"), RAM_BAR, SPAN)
    assert buffer.size == LENGTH, "the DMABUF has another size than its range"


@requirement("ERR-32", "ERR-00")
def test_export_by_a_driver_without_addresses_is_eopnotsupp(owner: Actor, guest: Guest) -> None:
    """Any creation is EOPNOTSUPP on a device whose vendor driver gives no physical addresses."""
    if not guest.has_driver(VENDOR_DRIVER):
        pytest.skip(f"this kernel has no driver of that kind (CONFIG_{VENDOR_DRIVER.upper()})")
    with guest.bind("ram", VENDOR_DRIVER) as function:
        device = owner.open(function.address)
        calls = (Creation(), Creation(ranges=()), Creation(region=BEYOND), Creation(argsz=8))
        require_refused(owner, {made: partial(made.make, device) for made in calls}, "EOPNOTSUPP")
        device.close()


@requirement("ERR-60", "ERR-00")
def test_export_without_vfio_pci_dmabuf_is_enotty(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """Without VFIO_PCI_DMABUF creation and revocation are ENOTTY, and device-fd mappings work."""
    device = owner.open(ram.address)
    if outcome(lambda: Creation(flags=GET | PROBE | EXPORT).make(device)) == "success":
        pytest.skip("this kernel has VFIO_PCI_DMABUF")
    attempts: dict[str, Callable[[], object]] = {"creation": lambda: Creation().make(device)}
    number = Abi.of(owner).revoke
    if number is not None:
        revoke = feature(SET | number, owner.make("udmabuf", PAGE))
        attempts["revoke"] = lambda: call(owner, device, VFIO_DEVICE_FEATURE, revoke)
    require_refused(owner, attempts, "ENOTTY")
    ram_witness.stamp()
    assert owner.map(device, LENGTH, bar=RAM_BAR).pages() == list(range(PAGES))
