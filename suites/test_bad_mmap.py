"""ERR: malformed mmap() calls and imports of a DMABUF are refused and leave nothing behind.

A row of the table is an mmap() that is correct but for one thing.  The C actor makes
each row in a scenario of its own, the Python probe all rows in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_data
from harness.actor.handles import Device, Range
from harness.actor.mm import open_mapped_file
from harness.actor.reply import outcome
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import requirement
from harness.vm.hardware import PAGE
from suites.support.cases import (
    LENGTH,
    PROTECTIONS,
    SPAN,
    BuffersByKind,
    Mmap,
    Wrong,
    deviations,
    nothing_left,
    require_none,
    require_refused,
)
from suites.support.constants import IOVA, NOBODY, RAM_BAR
from suites.support.fixtures import Finding, Start

# include/uapi/asm-generic/mman-common.h: MAP_SHARED_VALIDATE | MAP_SYNC
MAP_SHARED_VALIDATE_SYNC = 0x80003


# -- the table of mmap() ---------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of the table: what is wrong, and the errno with which each of these calls is refused."""

    id: str
    what: str
    errno: str
    calls: tuple[Mmap, ...]


BEYOND_THE_END = (
    (LENGTH + PAGE, 0),
    (PAGE, LENGTH),
    (LENGTH, PAGE),
    (2 * PAGE, LENGTH - PAGE),
    (PAGE, 1 << 40),
)

MMAP = (
    Row("ERR-70", "no length", "EINVAL", (Mmap(length=0), Mmap(length=0, offset=PAGE))),
    Row(
        "ERR-71",
        "an offset in a page",
        "EINVAL",
        tuple(Mmap(PAGE, offset) for offset in (1, 0x800, LENGTH + 1)),
    ),
    Row("ERR-72", "beyond the end", "EINVAL", tuple(Mmap(*part) for part in BEYOND_THE_END)),
    Row(
        "ERR-73",
        "a page number that overflows",
        "EOVERFLOW",
        (Mmap(PAGE, (1 << 64) - PAGE), Mmap(2 * PAGE, (1 << 64) - 2 * PAGE)),
    ),
    Row(
        "ERR-74",
        "a revoked DMABUF, or one whose device is closed",
        "ENODEV",
        tuple(
            Mmap(of=of, prot=prot, flags=flags)
            for of in ("revoked", "closed")
            for prot, flags in (("rw", None), ("r", None), ("r", "private"))
        ),
    ),
    Row(
        "ERR-74",
        "beyond the end of a revoked DMABUF",
        "EINVAL",
        tuple(Mmap(*part, of=of) for of in ("revoked", "closed") for part in BEYOND_THE_END),
    ),
    Row("ERR-75", "MAP_PRIVATE", "EINVAL", tuple(Mmap(prot=prot, flags="private") for prot in PROTECTIONS)),
    Row("ERR-76", "MAP_SYNC", "EOPNOTSUPP", (Mmap(flags=MAP_SHARED_VALIDATE_SYNC),)),
    Row(
        "ERR-77",
        "PROT_WRITE of an O_RDONLY descriptor",
        "EACCES",
        tuple(Mmap(prot=prot, of="rdonly") for prot in ("w", "rw")),
    ),
    Row(
        "ERR-78",
        "an O_WRONLY descriptor",
        "EACCES",
        tuple(Mmap(prot=prot, of="wronly") for prot in PROTECTIONS),
    ),
)


def mmap_deviations(kinds: BuffersByKind, owner: Actor, one: Row) -> list[Wrong]:
    """List what differs from the row."""
    buffers = {made.of: kinds[made.of] for made in one.calls}
    attempts = {
        made: partial(owner.map, buffers[made.of], made.length, made.offset, made.prot, flags=made.flags)
        for made in one.calls
    }
    return deviations(owner, attempts, [one.errno])


@requirement("ERR-00")
@pytest.mark.parametrize(
    "one", [pytest.param(one, id=f"{one.id} {one.what}", marks=requirement(one.id)) for one in MMAP]
)
def test_a_malformed_mmap_is_refused(c_owner: Actor, ram: Function, one: Row) -> None:
    """An mmap() with one wrong argument gets the errno of its row and leaves nothing behind."""
    kinds = BuffersByKind(c_owner, ram)
    require_none(mmap_deviations(kinds, c_owner, one))
    kinds.require_alive()


@requirement("ERR-00", *dict.fromkeys(one.id for one in MMAP))
def test_a_malformed_mmap_from_python_is_refused(start: Start, ram: Function) -> None:
    """Every row of the table holds for the Python probe."""
    owner = start("python")
    kinds = BuffersByKind(owner, ram)
    require_none([wrong for one in MMAP for wrong in mmap_deviations(kinds, owner, one)])
    kinds.require_alive()


# -- descriptors -----------------------------------------------------------------------


@requirement("ERR-79")
def test_a_read_only_descriptor_cannot_be_mapped(owner: Actor, ram: Function, finding: Finding) -> None:
    """mmap() with PROT_READ of an O_RDONLY descriptor is EINVAL, and of an O_RDWR one succeeds."""
    device = owner.open(ram.address)
    require_data(owner.map(owner.export(device, RAM_BAR, SPAN), prot="r"))
    buffer = owner.export(device, RAM_BAR, SPAN, open_flags="rdonly,cloexec")
    with nothing_left(owner):
        answer = outcome(lambda: owner.map(buffer, prot="r"))
    finding(f"mmap() with PROT_READ of an O_RDONLY descriptor: {answer}")
    assert answer == "EINVAL"


@requirement("ERR-52")
@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
def test_opening_a_device_fd_mapping_gives_no_dmabuf(owner: Actor, ram: Function, uid: int | None) -> None:
    """A process with a device-fd mapping cannot open a DMABUF through /proc/self/map_files."""
    device = owner.open(ram.address)
    holder = owner.spawn("holder", uid=uid)
    mapping = holder.map(owner.lend(device, holder), LENGTH, bar=RAM_BAR)
    assert mapping.stamp() is None
    before = holder.descriptors()
    with nothing_left(owner):
        assert outcome(lambda: open_mapped_file(mapping)) in ("ENXIO", "EPERM", "EACCES")
    assert holder.descriptors() == before, "the number of open descriptors has changed"


# -- import ----------------------------------------------------------------------------


@requirement("IMP-07", "ERR-00")
def test_import_of_an_unsupported_dmabuf_is_eopnotsupp(
    c_owner: Actor, ram: Function, importer: Device
) -> None:
    """An import of several ranges, or of another exporter's DMABUF, is EOPNOTSUPP; one range succeeds."""
    device = c_owner.open(ram.address)
    refused = {
        "two ranges": c_owner.export(device, RAM_BAR, [Range(4 * PAGE, PAGE), Range(0, PAGE)]),
        "neighbours": c_owner.export(device, RAM_BAR, [Range(0, PAGE), Range(PAGE, PAGE)]),
        "udmabuf": c_owner.make("udmabuf", PAGE),
        "heap": c_owner.make("heap", PAGE),
    }
    attempts = {what: partial(importer.import_buffer, buffer, IOVA) for what, buffer in refused.items()}
    require_refused(c_owner, attempts, "EOPNOTSUPP")
    importer.import_buffer(c_owner.export(device, RAM_BAR, SPAN), IOVA)
