"""IMP: what importers get of a DMABUF: addresses on the bus, and mappings for the processor."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_gone, require_no_page, require_pages
from harness.actor.handles import Range
from harness.actor.importer import Entry
from harness.actor.reply import BUS_ADRERR, Sigbus, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import GIB, RAM_BAR_SIZE
from suites.support.fixtures import Importers
from suites.support.importing import GIVE_BACK, TAKE_AWAY, Shared, bar_start

RANGES = {
    "one range": [Range(5 * PAGE, 3 * PAGE)],
    "the whole BAR": [Range(0, RAM_BAR_SIZE)],
    "two in order": [Range(PAGE, PAGE), Range(8 * PAGE, 4 * PAGE)],
    "adjacent": [Range(PAGE, PAGE), Range(2 * PAGE, PAGE)],
    "descending": [Range(9 * PAGE, PAGE), Range(4 * PAGE, 2 * PAGE), Range(0, PAGE)],
    "repeated": [Range(6 * PAGE, PAGE)] * 3,
    "overlapping": [Range(0, 4 * PAGE), Range(2 * PAGE, 4 * PAGE)],
}


def pieces(entries: Sequence[Entry | Range], start: int = 0) -> list[tuple[int, int]]:
    """Return addresses and lengths, with what continues the piece before joined to it."""
    joined: list[tuple[int, int]] = []
    for one in entries:
        address = start + one.offset if isinstance(one, Range) else one.address
        if joined and sum(joined[-1]) == address:
            address, length = joined.pop()
            joined.append((address, length + one.length))
        else:
            joined.append((address, one.length))
    return joined


@requirement("IMP-07")
@pytest.mark.parametrize("ranges", RANGES.values(), ids=RANGES)
def test_importer_gets_the_addresses_of_the_ranges(
    c_owner: Actor, ram: Function, guest: Guest, importers: Importers, ranges: Sequence[Range]
) -> None:
    """An importer of scatter lists gets every range of a DMABUF, in the order of the export."""
    one = Shared.of(c_owner, ram, ranges).mapped(importers(c_owner))
    assert pieces(one.entries()) == pieces(ranges, bar_start(guest, ram))


@requirement("IMP-19")
def test_importer_gets_all_of_eight_gigabytes(
    c_owner: Actor, ram: Function, guest: Guest, importers: Importers
) -> None:
    """An importer of scatter lists gets all 128 ranges of a DMABUF of 8 GiB, each at its address."""
    ranges = [Range(0, RAM_BAR_SIZE)] * (8 * GIB // RAM_BAR_SIZE)
    one = Shared.of(c_owner, ram, ranges).mapped(importers(c_owner))
    entries = one.entries()
    assert sum(entry.length for entry in entries) == 8 * GIB, "the importer got another length"
    assert set(entries) == {Entry(bar_start(guest, ram), RAM_BAR_SIZE)}, "the importer got other addresses"


@requirement("IMP-07")
def test_kernel_mapping_for_an_importer_is_refused(
    c_owner: Actor, ram: Function, importers: Importers
) -> None:
    """An importer that wants the DMABUF in the kernel's address space (vmap) gets EINVAL."""
    one, other = Shared.of(c_owner, ram).attached(importers(c_owner)), importers(c_owner)
    assert outcome(one.vmap) == "EINVAL"
    other.attach(c_owner.make("heap", PAGE))
    other.vmap()


@requirement("IMP-12")
@pytest.mark.parametrize(
    "way",
    [
        pytest.param("revoke", marks=requirement("REV-01")),
        pytest.param("memory off", marks=requirement("STATE-01")),
        pytest.param("close", marks=requirement("LIFE-01")),
    ],
)
def test_mapping_through_an_importer_ends_as_any_other(
    c_owner: Actor, ram: Function, ram_witness: RamBar, importers: Importers, way: str
) -> None:
    """A mapping made by dma_buf_mmap() shows the DMABUF, and is SIGBUS once the DMABUF is taken away."""
    ram_witness.stamp()
    shared = Shared.of(c_owner, ram)
    one = shared.attached(importers(c_owner))
    touched, untouched = one.mmap(shared.buffer.size), one.mmap(shared.buffer.size)
    words = [3, 4]
    assert touched.pages() == words
    TAKE_AWAY[way](shared)
    require_no_page(touched)
    require_gone(touched, untouched)
    assert touched.store32(0, 0xBAD) == Sigbus(BUS_ADRERR, 0)
    assert outcome(lambda: one.mmap(shared.buffer.size)) == "ENODEV"
    assert ram_witness.pages(3 * PAGE, 2 * PAGE) == words
    if way in GIVE_BACK:
        GIVE_BACK[way](shared)
        require_pages(words, touched, untouched)
