"""HUGE: a DMABUF is mapped by huge pages where they fit, and only there.

The page table shows how a range is mapped, and so does the number of page faults for
all of it.  The control is a device-fd mapping on the same kernel: unless that is mapped
by huge pages, a scenario is a harness error.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import strategies as st

from harness.actor.actor import Actor
from harness.actor.expect import require_mapped, require_no_page
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.reply import BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, Sigbus, Sigsegv, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, requirement
from harness.plugin.search import Search
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import GIB, MIB, PMD_SIZE, RAM_BAR
from suites.support.fixtures import MemoryDevice

PMD_PAGES = PMD_SIZE // PAGE


def placed(
    source: Buffer | Device, length: int, offset: int = 0, congruent: int = 0, bar: int | None = None
) -> Mapping:
    """Make a mapping that asks for huge pages, at an address ``congruent`` modulo 2 MiB."""
    mapping = source.actor.map(
        source, length, offset, align=PMD_SIZE, congruent=congruent % PMD_SIZE, bar=bar
    )
    mapping.advise("hugepage")
    return mapping


def huge_control(device: Device, bar: int, length: int = 2 * PMD_SIZE) -> int:
    """Return the page faults for ``length`` bytes of a device-fd mapping.  HarnessError if it is not huge."""
    view = placed(device, length, bar=bar)
    faults = view.touch()
    if view.page_table().where("pmd") != ((0, length),) or faults != length // PMD_SIZE:
        raise HarnessError(
            "The control, a device-fd mapping of a BAR, is not mapped by huge pages on this kernel and "
            f"machine ({faults} faults for {length:#x} bytes). A DMABUF cannot be compared with it."
        )
    return faults


def stamps(*parts: tuple[int, int]) -> list[int]:
    """Return the stamps of these (offset in the BAR, bytes)."""
    return [page for start, length in parts for page in range(start // PAGE, (start + length) // PAGE)]


@pytest.fixture
def device(c_owner: Actor, ram: Function, ram_witness: RamBar) -> Device:
    """The device with the RAM BAR, stamped, on a machine whose control is mapped by huge pages."""
    ram_witness.stamp()
    opened = c_owner.open(ram.address)
    huge_control(opened, RAM_BAR)
    return opened


def export(device: Device, *parts: tuple[int, int]) -> Buffer:
    """Export a DMABUF of these (offset in the BAR, bytes)."""
    return device.actor.export(device, RAM_BAR, [Range(*part) for part in parts])


@requirement("HUGE-01")
def test_a_whole_bar_is_mapped_by_pmds(c_owner: Actor, memory: MemoryDevice) -> None:
    """A DMABUF of a whole BAR is mapped by PMDs only, with as many faults as a device-fd mapping."""
    opened, bar = c_owner.open(memory.function.address), memory.bar
    size = memory.function.bars[bar]
    assert c_owner.map(opened, bar=bar).stamp() is None
    control = huge_control(opened, bar, size)
    mapping = placed(c_owner.export(opened, bar), size)
    assert mapping.touch() == control
    assert mapping.page_table().where("pmd") == ((0, size),)
    assert mapping.page_table().caching() == {"uncached-minus"}
    assert mapping.pages() == list(range(size // PAGE))


@requirement("HUGE-02")
def test_an_incongruent_address_is_mapped_by_ptes(device: Device) -> None:
    """PTEs map the right pages where virtual and physical address differ modulo 2 MiB."""
    buffer = export(device, (4 * MIB, 6 * MIB))
    for shift in (PAGE, MIB, PMD_SIZE - PAGE):
        mapping = placed(buffer, 6 * MIB, congruent=shift)
        assert mapping.touch() == 6 * MIB // PAGE
        assert mapping.page_table().where("pte") == ((0, 6 * MIB),)
        assert mapping.pages() == stamps((4 * MIB, 6 * MIB))
        mapping.unmap()


# Ranges, and the huge part of their DMABUF: all but the 2 MiB in which one range ends and the next begins.
BOUNDARIES = (
    (((8 * MIB, MIB), (17 * MIB, 3 * MIB)), ((PMD_SIZE, 2 * PMD_SIZE),)),
    (
        ((8 * MIB, PMD_SIZE + PAGE), (16 * MIB + PAGE, 2 * PMD_SIZE - PAGE)),
        ((0, PMD_SIZE), (2 * PMD_SIZE, 3 * PMD_SIZE)),
    ),
    (((8 * MIB, PMD_SIZE - PAGE), (24 * MIB - PAGE, PMD_SIZE + PAGE)), ((PMD_SIZE, 2 * PMD_SIZE),)),
    (((8 * MIB, PMD_SIZE), (4 * MIB, PMD_SIZE)), ((0, 2 * PMD_SIZE),)),
)


@requirement("HUGE-03")
def test_no_huge_page_straddles_two_ranges(device: Device) -> None:
    """PTEs map 2 MiB with a boundary of ranges in them, to the right pages, wherever touched first."""
    for parts, huge in BOUNDARIES:
        buffer, boundary, shown = export(device, *parts), parts[0][1], stamps(*parts)
        for first in (0, boundary - PAGE, boundary, buffer.size - PAGE):
            mapping = placed(buffer, buffer.size)
            assert mapping.load32(first) == shown[first // PAGE]
            assert mapping.pages() == shown
            assert mapping.page_table().where("pmd") == huge
            assert mapping.page_table().mapped() == buffer.size
            mapping.unmap()


@requirement("HUGE-04")
def test_no_huge_page_reaches_beyond_its_vma(device: Device) -> None:
    """A VMA of 2 MiB and 4 KiB gets one PMD and one PTE; the adjacent VMAs stay unmapped."""
    buffer = export(device, (4 * MIB, 4 * MIB))
    mapping = placed(buffer, 4 * MIB)
    end = PMD_SIZE + PAGE
    mapping.protect("r", end)
    assert mapping.touch(length=end) == 2
    assert mapping.page_table().where("pmd") == ((0, PMD_SIZE),)
    assert mapping.page_table().where("pte") == ((PMD_SIZE, end),)
    assert mapping.store32(end, 0) == Sigsegv(SEGV_ACCERR, end)
    assert mapping.pages() == stamps((4 * MIB, 4 * MIB))
    # At the beginning of a VMA: its first 2 MiB start before it does.
    mapping = placed(buffer, 4 * MIB)
    mapping.unmap(0, PAGE)
    assert mapping.touch(offset=PAGE) == PMD_PAGES - 1 + 1
    assert mapping.page_table().where("pmd") == ((PMD_SIZE, 2 * PMD_SIZE),)
    assert mapping.page_table().where("pte") == ((PAGE, PMD_SIZE),)
    assert mapping.load32(0) == Sigsegv(SEGV_MAPERR, 0)


@requirement("HUGE-05", "RNG-09")
def test_no_huge_page_reaches_beyond_the_buffer(device: Device) -> None:
    """PTEs map the last MiB of a DMABUF of 3 MiB, and the MiB of the BAR after it cannot be mapped."""
    buffer = export(device, (4 * MIB, 3 * MIB))
    mapping = placed(buffer, 3 * MIB)
    assert mapping.touch() == 1 + MIB // PAGE
    assert mapping.page_table().where("pmd") == ((0, PMD_SIZE),)
    assert mapping.page_table().where("pte") == ((PMD_SIZE, 3 * MIB),)
    assert mapping.pages() == stamps((4 * MIB, 3 * MIB))
    assert outcome(lambda: placed(buffer, 4 * MIB)) == "EINVAL"


@requirement("HUGE-06")
def test_a_range_that_begins_inside_2_mib_is_not_rounded_down(device: Device) -> None:
    """PTEs map a range that begins inside 2 MiB of the BAR up to the next 2 MiB, to the right pages."""
    start, length = 4 * MIB + PAGE, 4 * MIB
    buffer = export(device, (start, length))
    small = placed(buffer, length)
    assert small.touch() == length // PAGE
    assert small.page_table().where("pmd") == ()
    assert small.pages() == stamps((start, length))
    fitting = placed(buffer, length, congruent=start)
    assert fitting.touch() == (PMD_PAGES - 1) + 1 + 1
    assert fitting.page_table().where("pmd") == ((PMD_SIZE - PAGE, 2 * PMD_SIZE - PAGE),)
    assert fitting.pages() == stamps((start, length))


@requirement("HUGE-07")
def test_a_revoke_zaps_huge_pages(device: Device) -> None:
    """After a revoke the page table has nothing of a huge mapping, and each of its pages is SIGBUS."""
    buffer = export(device, (4 * MIB, 2 * PMD_SIZE))
    mapping = placed(buffer, 2 * PMD_SIZE)
    mapping.touch()
    assert mapping.page_table().where("pmd") == ((0, 2 * PMD_SIZE),)
    device.actor.revoke(buffer)
    require_no_page(mapping)
    assert mapping.pages() == [Sigbus(BUS_ADRERR, page * PAGE) for page in range(2 * PMD_PAGES)]


@requirement("HUGE-08", "RNG-05")
def test_a_split_huge_page_keeps_its_other_pages(device: Device) -> None:
    """munmap() or mprotect() of a page leaves all others in place, and PMDs outside its 2 MiB."""
    buffer = export(device, (4 * MIB, 3 * PMD_SIZE))
    shown = stamps((4 * MIB, 3 * PMD_SIZE))
    for how in ("unmap", "r", "none"):
        mapping = placed(buffer, 3 * PMD_SIZE)
        assert mapping.touch() == 3
        cut = PMD_SIZE + 5 * PAGE
        if how == "unmap":
            mapping.unmap(cut, PAGE)
        else:
            mapping.protect(how, cut, PAGE)
        before, behind = mapping.pages(0, cut), mapping.pages(cut + PAGE)
        assert before == shown[: cut // PAGE]
        assert behind == shown[cut // PAGE + 1 :]
        if how == "r":
            assert mapping.load32(cut) == shown[cut // PAGE]
            assert mapping.store32(cut, 0) == Sigsegv(SEGV_ACCERR, cut)
        else:
            code = SEGV_MAPERR if how == "unmap" else SEGV_ACCERR
            assert mapping.load32(cut) == Sigsegv(code, cut)
        assert mapping.page_table().where("pmd") == ((0, PMD_SIZE), (2 * PMD_SIZE, 3 * PMD_SIZE))
        mapping.unmap()


HALF = GIB // 2
PLACES = (0, PAGE, HALF - PAGE, HALF, HALF + PAGE, GIB - PAGE)  # in the BAR of 1 GiB, each with its stamp


def stamps_at(places: Iterable[int]) -> list[int]:
    """Return the stamps of these PLACES."""
    return [place // PAGE + 1 for place in places]


def placed_for_pud(source: Buffer | Device, length: int = GIB, bar: int | None = None) -> Mapping:
    """Make a mapping that asks for huge pages, at a multiple of 1 GiB."""
    mapping = source.actor.map(source, length, align=GIB, bar=bar)
    mapping.advise("hugepage")
    return mapping


@pytest.fixture
def gibibyte(c_owner: Actor, guest: Guest, bigram: Function) -> Device:
    """The device with a BAR of 1 GiB, stamped at PLACES, on a machine whose control is one PUD."""
    if "pdpe1gb" not in guest.read("/proc/cpuinfo").split():
        pytest.skip("this processor has no pages of 1 GiB")
    opened = c_owner.open(bigram.address)
    view = placed_for_pud(opened, bar=RAM_BAR)
    faults = [view.touch(stamp, place, PAGE) for stamp, place in zip(stamps_at(PLACES), PLACES, strict=True)]
    if (faults.count(1), faults.count(0)) != (1, len(faults) - 1) or view.page_table().where("pud") != (
        (0, GIB),
    ):
        raise HarnessError("The control, a device-fd mapping of a BAR of 1 GiB, is not mapped by a PUD.")
    return opened


@requirement("HUGE-09")
@machine(big_ram=True)
def test_a_bar_of_1_gib_is_mapped_by_one_pud(gibibyte: Device, bigram: Function) -> None:
    """A DMABUF of a BAR of 1 GiB is mapped by one PUD, like a device-fd mapping, and shows its pages."""
    buffer = gibibyte.actor.export(gibibyte, RAM_BAR)
    for first in PLACES[2], 0:
        mapping = placed_for_pud(buffer)
        assert [mapping.touch(None, place, PAGE) for place in (first, PLACES[-1], HALF)] == [1, 0, 0]
        assert mapping.page_table().where("pud") == ((0, GIB),)
        assert mapping.at(PLACES) == stamps_at(PLACES)


@requirement("HUGE-03", "HUGE-09")
@machine(big_ram=True)
@pytest.mark.parametrize("starts", [(HALF, 0), (0, 0)], ids=["halves swapped", "one half twice"])
def test_no_pud_straddles_two_ranges(gibibyte: Device, bigram: Function, starts: tuple[int, int]) -> None:
    """Two ranges of 512 MiB are mapped by PMDs, not by one PUD, and show their pages."""
    ranges = [Range(start, HALF) for start in starts]
    buffer = gibibyte.actor.export(gibibyte, RAM_BAR, ranges)
    blocks = tuple((start, start + PMD_SIZE) for start in (0, HALF - PMD_SIZE, HALF, GIB - PMD_SIZE))
    shown = stamps_at(starts[place // HALF] + place % HALF for place in PLACES)
    for order in 1, -1:
        mapping = placed_for_pud(buffer)
        assert mapping.at(PLACES[::order]) == shown[::order]
        table = mapping.page_table()
        assert table.where("pud") == ()
        assert table.where("pmd") == (blocks[0], (blocks[1][0], blocks[2][1]), blocks[3])


@requirement("HUGE-04", "HUGE-09")
@machine(big_ram=True)
def test_no_pud_reaches_beyond_its_vma(gibibyte: Device, bigram: Function) -> None:
    """PMDs map the half of a DMABUF of 1 GiB that its VMA covers, and nothing after it."""
    mapping = placed_for_pud(gibibyte.actor.export(gibibyte, RAM_BAR), GIB)
    mapping.unmap(HALF, HALF)
    assert mapping.at(PLACES[:3]) == stamps_at(PLACES[:3])
    assert mapping.page_table().where("pud") == ()
    assert mapping.page_table().where("pmd") == ((0, PMD_SIZE), (HALF - PMD_SIZE, HALF))
    assert mapping.load32(HALF) == Sigsegv(SEGV_MAPERR, HALF)


@requirement("HUGE-07", "HUGE-09")
@machine(big_ram=True)
def test_a_revoke_zaps_a_pud(gibibyte: Device, bigram: Function) -> None:
    """After a revoke the page table has nothing of a mapping by a PUD, and all of it is SIGBUS."""
    buffer = gibibyte.actor.export(gibibyte, RAM_BAR)
    mapping = placed_for_pud(buffer)
    assert mapping.at(PLACES) == stamps_at(PLACES)
    assert mapping.page_table().where("pud") == ((0, GIB),)
    gibibyte.actor.revoke(buffer)
    require_no_page(mapping)
    assert mapping.at(PLACES) == [Sigbus(BUS_ADRERR, place) for place in PLACES]
    assert mapping.store32(HALF, 0) == Sigbus(BUS_ADRERR, HALF)


@requirement("HUGE-08", "HUGE-09")
@machine(big_ram=True)
@pytest.mark.parametrize("how", ["unmap", "none"])
def test_a_split_pud_keeps_its_other_pages(
    gibibyte: Device, bigram: Function, guest: Guest, how: str
) -> None:
    """munmap() or mprotect() of 2 MiB of a mapping by a PUD leaves the rest in place.

    The base has an oops for a PUD that is split inside 2 MiB (docs/findings.md).
    """
    # mm/debug.c has dump_vma() only with CONFIG_DEBUG_VM.
    if guest.symbols.has("dump_vma"):
        pytest.skip("with CONFIG_DEBUG_VM a split of a PUD is a BUG of the base (docs/findings.md)")
    mapping = placed_for_pud(gibibyte.actor.export(gibibyte, RAM_BAR))
    assert mapping.touch(None, 0, PAGE) == 1
    assert mapping.page_table().where("pud") == ((0, GIB),)
    if how == "unmap":
        mapping.unmap(HALF, PMD_SIZE)
    else:
        mapping.protect(how, HALF, PMD_SIZE)
    left = [place for place in PLACES if not HALF <= place < HALF + PMD_SIZE]
    assert mapping.at(left) == stamps_at(left)
    assert mapping.load32(HALF) == Sigsegv(SEGV_MAPERR if how == "unmap" else SEGV_ACCERR, HALF)
    assert mapping.page_table().where("pud") == ()


@requirement("HUGE-10")
def test_the_offset_of_mmap_does_not_decide_the_page_size(device: Device) -> None:
    """PMDs map where address and BAR are congruent modulo 2 MiB, whatever the offset in the DMABUF."""
    whole = device.actor.export(device, RAM_BAR)
    mapping = placed(whole, 5 * MIB, MIB, congruent=MIB)
    assert mapping.touch() == MIB // PAGE + 2
    assert mapping.page_table().where("pmd") == ((MIB, 5 * MIB),)
    assert mapping.pages() == stamps((MIB, 5 * MIB))
    shifted = export(device, (MIB, 6 * MIB))
    mapping = placed(shifted, 4 * MIB, MIB)
    assert mapping.touch() == 2
    assert mapping.page_table().where("pmd") == ((0, 4 * MIB),)
    assert mapping.pages() == stamps((2 * MIB, 4 * MIB))


@requirement("HUGE-11")
def test_adjacent_ranges_show_their_pages(device: Device) -> None:
    """Ranges that are adjacent in the BAR show their pages, with PMDs or without."""
    for parts in (((8 * MIB, MIB), (9 * MIB, 3 * MIB)), ((8 * MIB, PMD_SIZE), (10 * MIB, PMD_SIZE))):
        buffer = export(device, *parts)
        mapping = placed(buffer, 4 * MIB)
        assert mapping.load32(MIB) == (9 * MIB) // PAGE
        assert mapping.pages() == stamps((8 * MIB, 4 * MIB))
        assert mapping.page_table().where("pmd")[-1:] in (((0, 4 * MIB),), ((2 * MIB, 4 * MIB),))


@requirement("HUGE-12")
def test_a_first_store_maps_a_writable_huge_page(device: Device, ram_witness: RamBar) -> None:
    """A first access that is a store takes one or two faults for 2 MiB, and the stores arrive."""
    mapping = placed(export(device, (4 * MIB, 2 * PMD_SIZE)), 2 * PMD_SIZE)
    assert mapping.touch(value=0x12120000, offset=PMD_SIZE + 7 * PAGE, length=PAGE) in (1, 2)
    assert mapping.page_table().where("pmd") == ((PMD_SIZE, 2 * PMD_SIZE),)
    assert mapping.touch(value=0x12120000) in (1, 2)
    assert mapping.page_table().where("pmd") == ((0, 2 * PMD_SIZE),)
    assert ram_witness.pages(4 * MIB, 2 * PMD_SIZE) == [0x12120000] * (2 * PMD_PAGES)


@dataclass(frozen=True)
class Placement:
    """Ranges as (first page of the BAR, pages), and a window of ``pages`` pages from page ``first`` on.

    ``congruent`` is the page of the window's address modulo 512; ``touched`` are the
    pages of the window that are touched first.
    """

    ranges: tuple[tuple[int, int], ...]
    first: int
    pages: int
    congruent: int
    touched: tuple[int, ...]

    @property
    def shown(self) -> list[tuple[int, int]]:
        """The page of the BAR and the index of the range, for each page of the window."""
        every = [
            (page, index)
            for index, (first, pages) in enumerate(self.ranges)
            for page in range(first, first + pages)
        ]
        return every[self.first : self.first + self.pages]

    def blocks(self) -> tuple[set[int], set[int]]:
        """Return offsets of 2 MiB that must be huge, and that may be: adjacent ranges may share a PMD."""
        must, may = set(), set()
        for start in range(-self.congruent % PMD_PAGES, self.pages - PMD_PAGES + 1, PMD_PAGES):
            block = self.shown[start : start + PMD_PAGES]
            if block[0][0] % PMD_PAGES or any(after[0] != page[0] + 1 for page, after in pairwise(block)):
                continue
            may.add(start * PAGE)
            if len({index for _, index in block}) == 1:
                must.add(start * PAGE)
        return must, may


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Draw ranges near the ends of 2 MiB, and a window whose address is often congruent to the BAR."""
    starts = st.builds(
        lambda block, shift: block * PMD_PAGES + shift, st.integers(1, 4), st.sampled_from((0, -1, 1, 256))
    )
    lengths = st.sampled_from((1, 256, 511, 512, 513, 768, 1024, 1536))
    ranges = draw(st.lists(st.tuples(starts, lengths), min_size=1, max_size=3))
    whole = sum(pages for _, pages in ranges)
    first = draw(st.sampled_from([place for place in (0, 1, 256, 512) if place < whole]))
    pages = whole - first - draw(st.sampled_from([rest for rest in (0, 1, 256) if rest < whole - first]))
    shown = Placement(tuple(ranges), first, pages, 0, ()).shown
    anchor = draw(st.integers(0, pages - 1))
    fitting = (shown[anchor][0] - anchor) % PMD_PAGES
    congruent = draw(st.sampled_from((fitting, fitting, fitting, (fitting + 1) % PMD_PAGES)))
    touched = draw(st.lists(st.integers(0, pages - 1), max_size=4))
    return Placement(tuple(ranges), first, pages, congruent, tuple(touched))


def check_placement(device: Device, case: Placement) -> None:
    """Check that the window shows its pages, and is mapped by PMDs where they fit and nowhere else."""
    with ExitStack() as made:
        parts = [(first * PAGE, pages * PAGE) for first, pages in case.ranges]
        buffer = made.enter_context(export(device, *parts))
        length, offset = case.pages * PAGE, case.first * PAGE
        mapping = made.enter_context(placed(buffer, length, offset, case.congruent * PAGE))
        pages = [page for page, _ in case.shown]
        if case.touched:
            assert mapping.at(page * PAGE for page in case.touched) == [pages[page] for page in case.touched]
        assert mapping.pages() == pages
        table = require_mapped(mapping)
        huge = {block for start, end in table.where("pmd") for block in range(start, end, PMD_SIZE)}
        must, may = case.blocks()
        assert huge >= must, "a part that fits is not mapped by a huge page"
        assert huge <= may, "a part that does not fit is mapped by a huge page"


@requirement("HUGE-01", "HUGE-02", "HUGE-03", "HUGE-05", "HUGE-06", "HUGE-10", "HUGE-11")
def test_any_placement_has_huge_pages_where_they_fit(
    ram: Function, ram_witness: RamBar, search: Search
) -> None:
    """Whatever ranges, window, address and first touches, pages are right, and PMDs are where they fit."""
    ram_witness.stamp()

    def prepare(owner: Actor) -> Device:
        opened = owner.open(ram.address)
        huge_control(opened, RAM_BAR)
        return opened

    search(placements(), prepare, check_placement, examples=30)
