"""RNG: a page of a mapping is the right page of the BAR, for any ranges, offsets and splits.

Every page of the BAR is stamped with its own number, which identifies a wrong page.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from hypothesis import strategies as st

from harness.actor.actor import Actor
from harness.actor.expect import require_no_page
from harness.actor.handles import PCI_COMMAND, PCI_COMMAND_MEMORY, Device, Mapping, Range
from harness.actor.reply import BUS_ADRERR, SEGV_ACCERR, Sigbus, Sigsegv, outcome
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import requirement
from harness.plugin.search import Search
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import RAM_BAR, TIB
from suites.support.fixtures import MemoryDevice


def ranges_of(*parts: tuple[int, int]) -> list[Range]:
    """Return ranges from (first page, number of pages) of the BAR."""
    return [Range(first * PAGE, pages * PAGE) for first, pages in parts]


@requirement("RNG-01")
def test_every_offset_and_length_shows_its_pages(owner: Actor, memory: MemoryDevice) -> None:
    """mmap() from any page of a DMABUF, for any number of pages up to its end, shows exactly those."""
    device, bar = owner.open(memory.function.address), memory.bar
    assert owner.map(device, 32 * PAGE, bar=bar).stamp() is None
    buffer = owner.export(device, bar, ranges_of((20, 3), (7, 5)))
    shown = [20, 21, 22, 7, 8, 9, 10, 11]
    for first in range(8):
        for last in range(first, 8):
            with owner.map(buffer, (last + 1 - first) * PAGE, first * PAGE) as mapping:
                assert mapping.pages() == shown[first : last + 1]


@requirement("RNG-02", "RNG-03", "RNG-09")
def test_nothing_beyond_the_buffer_is_mapped(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """Offsets and lengths that reach past the end of a DMABUF, by one byte or by 2^64, are refused."""
    ram_witness.stamp()
    size = 8 * PAGE
    buffer = owner.export(owner.open(ram.address), RAM_BAR, ranges_of((20, 3), (7, 5)))
    assert owner.map(buffer, size - 1).pages() == [20, 21, 22, 7, 8, 9, 10, 11]
    for length, offset in (
        (size + 1, 0),
        (size + PAGE, 0),
        (PAGE, size),
        (PAGE + 1, size - PAGE),
        (2 * PAGE, size - PAGE),
        (size, PAGE),
        (1 << 40, 0),
        (1 << 44, PAGE),
        (PAGE, 1 << 40),
    ):
        errno = outcome(partial(owner.map, buffer, length, offset))
        assert errno == "EINVAL", f"mmap() of {length:#x} bytes from {offset:#x} is not EINVAL"
    for length, offset in (
        (PAGE, (1 << 64) - PAGE),
        (size, (1 << 64) - PAGE),
        (2 * PAGE, (1 << 64) - 2 * PAGE),
        (size, (1 << 64) - size),
        (PAGE, (1 << 64) - size),
        (PAGE, 1 << 63),
        (size, (1 << 63) - PAGE),
        (PAGE, 1 << 52),
        (PAGE, 1 << 44),
    ):
        errno = outcome(partial(owner.map, buffer, length, offset))
        assert errno in ("EINVAL", "EOVERFLOW"), f"mmap() of {length:#x} bytes from {offset:#x} is allowed"


# Four ranges of 1, 2, 1 and 5 pages, not adjacent.
FOUR = ((11, 1), (3, 2), (40, 1), (20, 5))
FOUR_STAMPS = [11, 3, 4, 40, 20, 21, 22, 23, 24]


@requirement("RNG-04")
def test_the_boundaries_of_ranges_are_exact(c_owner: Actor, memory: MemoryDevice) -> None:
    """Every page of four ranges is in place in any order of first touches, also in a window across them."""
    device, bar = c_owner.open(memory.function.address), memory.bar
    assert c_owner.map(device, 64 * PAGE, bar=bar).stamp() is None
    buffer = c_owner.export(device, bar, ranges_of(*FOUR))
    pages = range(len(FOUR_STAMPS))
    for order in (pages, reversed(pages), (4, 3, 0, 8, 1, 2, 5, 7, 6)):
        mapping = c_owner.map(buffer)
        places = list(order)
        assert mapping.at(page * PAGE for page in places) == [FOUR_STAMPS[page] for page in places]
    across = c_owner.map(buffer, 5 * PAGE, 2 * PAGE)  # from within the second to within the fourth
    assert across.at(page * PAGE for page in (4, 2, 1, 3, 0)) == [22, 20, 40, 21, 4]


@dataclass(frozen=True)
class Cut:
    """munmap() or mprotect() of a part of a window after some of its pages have been touched."""

    how: str
    first: int
    pages: int


@dataclass(frozen=True)
class Window:
    """A mapping of ``pages`` pages from page ``first`` of the DMABUF on.

    ``touched`` are the pages that are touched before the cuts.
    """

    first: int
    pages: int
    touched: tuple[int, ...]
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Geometry:
    """Ranges as (first page of the BAR, pages), and windows on their DMABUF."""

    ranges: tuple[tuple[int, int], ...]
    windows: tuple[Window, ...]

    @property
    def shown(self) -> list[int]:
        """The page of the BAR for each page of the DMABUF."""
        return [page for first, pages in self.ranges for page in range(first, first + pages)]


@st.composite
def parts(draw: st.DrawFn, whole: int) -> tuple[int, int]:
    """Draw the first and the number of some of ``whole`` pages."""
    first = draw(st.integers(0, whole - 1))
    return first, draw(st.integers(1, whole - first))


@st.composite
def windows(draw: st.DrawFn, whole: int) -> Window:
    """Draw a window on a DMABUF of ``whole`` pages."""
    first, pages = draw(parts(whole))
    touched = draw(st.lists(st.integers(0, pages - 1), unique=True, max_size=6))
    hows = draw(st.lists(st.sampled_from(("none", "r", "unmap")), max_size=2))
    cuts = [Cut(how, *draw(parts(pages))) for how in hows]
    # A hole cannot be protected, so munmap() comes last; it never unmaps the whole window.
    cuts = [cut for cut in cuts if (cut.how, cut.pages) != ("unmap", pages)]
    return Window(first, pages, tuple(touched), tuple(sorted(cuts, key=lambda cut: cut.how == "unmap")))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Draw ranges that often overlap, some across the end of the first 2 MiB, and one to three windows."""
    starts = st.integers(0, 24) | st.integers(508, 516)
    ranges = draw(st.lists(st.tuples(starts, st.integers(1, 6)), min_size=1, max_size=5))
    whole = sum(pages for _, pages in ranges)
    return Geometry(tuple(ranges), tuple(draw(st.lists(windows(whole), min_size=1, max_size=3))))


def check_geometry(device: Device, case: Geometry, witness: RamBar) -> None:
    """Check every page of every window against the ranges, touched before the cuts or after them."""
    with ExitStack() as made:
        buffer = made.enter_context(device.actor.export(device, RAM_BAR, ranges_of(*case.ranges)))
        mappings = [
            made.enter_context(device.actor.map(buffer, window.pages * PAGE, window.first * PAGE))
            for window in case.windows
        ]
        for window, mapping in zip(case.windows, mappings, strict=True):
            if window.touched:
                found = mapping.at(page * PAGE for page in window.touched)
                assert found == [case.shown[window.first + page] for page in window.touched]
        for window, mapping in zip(case.windows, mappings, strict=True):
            for cut in window.cuts:
                apply(cut, mapping)
        for window, mapping in zip(case.windows, mappings, strict=True):
            check_after_cuts(window, mapping, case.shown[window.first : window.first + window.pages], witness)


def apply(cut: Cut, mapping: Mapping) -> None:
    """Call munmap() or mprotect() for the part."""
    if cut.how == "unmap":
        mapping.unmap(cut.first * PAGE, cut.pages * PAGE)
    else:
        mapping.protect(cut.how, cut.first * PAGE, cut.pages * PAGE)


def check_after_cuts(window: Window, mapping: Mapping, shown: list[int], witness: RamBar) -> None:
    """Check the pages that a window has after its cuts, and a store to one that is writable."""
    state = dict.fromkeys(range(window.pages), "rw")
    for cut in window.cuts:
        state |= dict.fromkeys(range(cut.first, cut.first + cut.pages), cut.how)
    left = [page for page, how in state.items() if how != "unmap"]
    if left:
        assert mapping.at(page * PAGE for page in left) == [
            Sigsegv(SEGV_ACCERR, page * PAGE) if state[page] == "none" else shown[page] for page in left
        ]
    writable = [page for page in left if state[page] == "rw"]
    for page in writable[-1:]:
        place = shown[page] * PAGE + 8
        witness.write(place, bytes(4))
        assert mapping.store32(page * PAGE + 8, 0x57000000 + page) is None
        assert witness.word(place) == 0x57000000 + page


@requirement("RNG-01", "RNG-04", "RNG-05", "ALIAS-02", "ALIAS-03")
def test_any_geometry_shows_its_pages(ram: Function, ram_witness: RamBar, search: Search) -> None:
    """Whatever the ranges, windows, order of first touches and cuts, every page is in place."""
    ram_witness.stamp()
    search(
        geometries(),
        lambda owner: owner.open(ram.address),
        lambda device, case: check_geometry(device, case, ram_witness),
        examples=60,
    )


def check_cuts(make: Callable[[], Mapping], first: int) -> None:
    """Check that a mapping of the 9 pages from ``first`` on keeps them when its middle page is cut out."""
    for how in ("unmap", "none", "r"):
        for touched in (False, True):
            mapping = make()
            if touched:
                assert mapping.pages() == list(range(first, first + 9))
            apply(Cut(how, 4, 1), mapping)
            assert mapping.pages(5 * PAGE) == list(range(first + 5, first + 9))
            assert mapping.pages(0, 4 * PAGE) == list(range(first, first + 4))
            if how == "r":
                assert mapping.load32(4 * PAGE) == first + 4


@requirement("RNG-05")
def test_a_split_mapping_keeps_its_pages(c_owner: Actor, memory: MemoryDevice) -> None:
    """munmap() or mprotect() of a page in the middle leaves the pages on both sides in place."""
    device, bar = c_owner.open(memory.function.address), memory.bar
    assert c_owner.map(device, 64 * PAGE, bar=bar).stamp() is None
    buffer = c_owner.export(device, bar, ranges_of((30, 20)))
    check_cuts(lambda: c_owner.map(buffer, 9 * PAGE, 2 * PAGE), first=32)


@requirement("RNG-05", "RNG-10")
def test_a_split_device_fd_mapping_keeps_its_pages(
    c_owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """munmap() or mprotect() of a page of a device-fd mapping leaves the pages on both sides in place."""
    ram_witness.stamp()
    device = c_owner.open(ram.address)
    check_cuts(lambda: c_owner.map(device, 9 * PAGE, 5 * PAGE, bar=RAM_BAR), first=5)


@requirement("RNG-06")
def test_a_thousand_ranges_are_each_in_place(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """Every page of a DMABUF of a thousand scattered ranges of one page is in place."""
    ram_witness.stamp()
    scattered = [page * 617 % 1024 for page in range(1000)]
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, ranges_of(*((page, 1) for page in scattered)))
    assert c_owner.map(buffer).pages() == scattered
    assert c_owner.map(buffer, 2 * PAGE, 998 * PAGE).pages() == scattered[998:]


@requirement("RNG-07")
def test_the_size_is_the_sum_of_the_ranges(c_owner: Actor, ram: Function, registers: Function) -> None:
    """The size of a DMABUF is the sum of its ranges, overlapping or not, or the size of the BAR."""
    device = c_owner.open(ram.address)
    for parts, pages in ((((0, 1),), 1), (FOUR, 9), (((3, 4), (3, 4), (5, 1)), 9)):
        assert c_owner.export(device, RAM_BAR, ranges_of(*parts)).seek("end") == pages * PAGE
    assert c_owner.export(device, RAM_BAR).seek("end") == ram.bars[RAM_BAR]
    assert c_owner.export(c_owner.open(registers.address), 0).seek("end") == registers.bars[0]


@requirement("RNG-08")
def test_a_dmabuf_beyond_1_tib_shows_its_pages(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """Pages below, at and above 2^40 bytes of a DMABUF are those of its ranges."""
    ram_witness.stamp()
    device = owner.open(ram.address)
    bar = ram.bars[RAM_BAR]
    times = TIB // bar + 1
    # The first page differs from those at multiples of the BAR's size, so 2^40 truncated to 0 is seen.
    buffer = owner.export(device, RAM_BAR, [Range(5 * PAGE, PAGE), *[Range(0, bar)] * times])
    assert buffer.seek("end") == times * bar + PAGE
    last = bar // PAGE - 1
    assert owner.map(buffer, 2 * PAGE).pages() == [5, 0]
    assert owner.map(buffer, 4 * PAGE, TIB - 2 * PAGE).pages() == [last - 2, last - 1, last, 0]
    assert owner.map(buffer, 2 * PAGE, TIB).pages() == [last, 0]
    assert owner.map(buffer, PAGE, times * bar).pages() == [last]


@requirement("RNG-10")
def test_a_device_fd_mapping_at_any_offset_is_zapped(c_owner: Actor, memory: MemoryDevice) -> None:
    """Device-fd mappings at any offset show the BAR; memory off and a reset zap them, and they come back."""
    device, bar = c_owner.open(memory.function.address), memory.bar
    assert c_owner.map(device, bar=bar).stamp() is None
    last = memory.function.bars[bar] // PAGE - 4
    views = {first: c_owner.map(device, 4 * PAGE, first * PAGE, bar=bar) for first in (0, 1, last)}
    command = device.read("config", PCI_COMMAND, 2)
    for first, view in views.items():
        assert view.pages() == list(range(first, first + 4))
    device.write("config", PCI_COMMAND, 2, command & ~PCI_COMMAND_MEMORY)
    for view in views.values():
        require_no_page(view)
        assert view.pages() == [Sigbus(BUS_ADRERR, page * PAGE) for page in range(4)]
    device.write("config", PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY)
    for first, view in views.items():
        assert view.pages() == list(range(first, first + 4))
    device.reset()
    for first, view in views.items():
        require_no_page(view)
        assert view.pages() == list(range(first, first + 4))
