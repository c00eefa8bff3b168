"""ALIAS: several mappings and several DMABUFs of the same bytes of a BAR."""

from __future__ import annotations

from harness.actor.actor import Actor
from harness.actor.expect import require_data, require_gone, require_pages
from harness.actor.handles import Range
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import EDU_MAGIC, FRONT, RAM_BAR
from suites.support.fixtures import MemoryDevice

PAGES = 8
SPAN = [Range(3 * PAGE, PAGES * PAGE)]


def pages(*numbers: int) -> list[Range]:
    """Return a range of one page for each of these pages of the BAR."""
    return [Range(number * PAGE, PAGE) for number in numbers]


@requirement("ALIAS-01")
def test_two_mappings_of_a_dmabuf_show_the_same_bytes(owner: Actor, memory: MemoryDevice) -> None:
    """Words stored through one mapping of a DMABUF are loaded through another, in every page."""
    device, bar = owner.open(memory.function.address), memory.bar
    buffer = owner.export(device, bar, SPAN)
    one, other = owner.map(buffer), owner.map(buffer)
    assert one.stamp(seed=0x11110000) is None
    written = [0x11110000 + page for page in range(PAGES)]
    require_pages(written, other, owner.map(device, PAGES * PAGE, 3 * PAGE, bar=bar))
    assert other.store32(5 * PAGE, 0x22220000) is None
    assert one.load32(5 * PAGE) == 0x22220000


@requirement("ALIAS-02")
def test_overlapping_dmabufs_show_the_same_where_they_overlap(c_owner: Actor, memory: MemoryDevice) -> None:
    """Two DMABUFs with common pages of a BAR are usable at once, and show the same there."""
    device, bar = c_owner.open(memory.function.address), memory.bar
    assert c_owner.map(device, 32 * PAGE, bar=bar).stamp() is None
    low = c_owner.map(c_owner.export(device, bar, [Range(0, 8 * PAGE)]))
    high = c_owner.map(c_owner.export(device, bar, [Range(5 * PAGE, 8 * PAGE)]))
    assert low.pages() == list(range(8))
    assert high.pages() == list(range(5, 13))
    assert low.store32(6 * PAGE, 0xAAAA0006) is None
    assert high.load32(PAGE) == 0xAAAA0006
    assert high.store32(2 * PAGE, 0xBBBB0007) is None
    assert low.load32(7 * PAGE) == 0xBBBB0007
    assert low.pages(0, 6 * PAGE) == list(range(6))


@requirement("ALIAS-03", "ALIAS-02")
def test_pages_follow_the_list_of_ranges_not_the_bar(
    owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """Ranges may descend, repeat and overlap; the pages of a DMABUF are in the order of the list."""
    device = owner.open(ram.address)
    ram_witness.stamp(length=FRONT)
    for ranges, expected in (
        (pages(7, 3, 3, 0), [7, 3, 3, 0]),
        ([Range(4 * PAGE, 3 * PAGE), Range(5 * PAGE, 3 * PAGE)], [4, 5, 6, 5, 6, 7]),
        ([Range(9 * PAGE, PAGE), Range(0, 3 * PAGE), Range(8 * PAGE, 2 * PAGE)], [9, 0, 1, 2, 8, 9]),
    ):
        assert owner.map(owner.export(device, RAM_BAR, ranges)).pages() == expected
    twice = owner.map(owner.export(device, RAM_BAR, pages(7, 3, 3, 0)))
    assert twice.store32(PAGE, 0xCCCC0003) is None
    assert twice.pages() == [7, 0xCCCC0003, 0xCCCC0003, 0]
    assert ram_witness.word(3 * PAGE) == 0xCCCC0003


@requirement("ALIAS-04")
def test_a_revoke_ends_all_mappings_of_one_dmabuf_only(c_owner: Actor, memory: MemoryDevice) -> None:
    """A revoke ends all mappings of its DMABUF, a client's too; another over the same bytes stays mapped."""
    device, bar = c_owner.open(memory.function.address), memory.bar
    view = c_owner.map(device, 16 * PAGE, bar=bar)
    assert view.stamp() is None
    buffer, alias = (c_owner.export(device, bar, SPAN) for _ in range(2))
    client = c_owner.spawn("client")
    revoked = [
        c_owner.map(buffer),
        c_owner.map(buffer, 2 * PAGE, PAGE),
        client.map(c_owner.give(buffer, client)),
    ]
    kept = [c_owner.map(alias), client.map(c_owner.give(alias, client))]
    for mapping in (*revoked, kept[0]):
        require_data(mapping)
    c_owner.revoke(buffer)
    require_gone(*revoked)
    for mapping in (*kept, c_owner.map(alias)):
        assert mapping.pages() == list(range(3, 3 + PAGES))
    assert view.pages() == list(range(16))


@requirement("ALIAS-05", "MAP-07")
def test_a_revoke_leaves_the_device_fd_mappings_alone(
    c_owner: Actor, registers: Function, ram: Function, ram_witness: RamBar
) -> None:
    """Device-fd mappings, made before or after the export, keep their page tables through a revoke."""
    ram_witness.stamp(length=FRONT)
    for function, bar in ((registers, 0), (ram, RAM_BAR)):
        device = c_owner.open(function.address)
        before = c_owner.map(device, 16 * PAGE, bar=bar)
        buffer = c_owner.export(device, bar, [Range(0, 16 * PAGE)])
        after = c_owner.map(device, 16 * PAGE, bar=bar)
        mapping = c_owner.map(buffer)
        shown = before.pages()
        assert shown[0] == (EDU_MAGIC if function is registers else 0)
        require_pages(shown, after, mapping)
        tables = [view.page_table() for view in (before, after)]
        c_owner.revoke(buffer)
        require_gone(mapping)
        assert [view.page_table() for view in (before, after)] == tables
        require_pages(shown, before, after)
        assert c_owner.map(device, 16 * PAGE, bar=bar).pages() == shown


@requirement("ALIAS-06")
def test_the_bytes_can_be_exported_again_after_a_revoke(c_owner: Actor, memory: MemoryDevice) -> None:
    """After a revoke a new DMABUF of the same bytes works; the old one's mapping stays SIGBUS."""
    device, bar = c_owner.open(memory.function.address), memory.bar
    view = c_owner.map(device, 16 * PAGE, bar=bar)
    assert view.stamp() is None
    first = c_owner.export(device, bar, SPAN)
    old = c_owner.map(first)
    assert old.pages() == list(range(3, 3 + PAGES))
    c_owner.revoke(first)
    new = c_owner.map(c_owner.export(device, bar, SPAN))
    assert new.pages() == list(range(3, 3 + PAGES))
    assert new.store32(0, 0xDDDD0003) is None
    assert view.load32(3 * PAGE) == 0xDDDD0003
    require_gone(old)


@requirement("ALIAS-07")
def test_munmap_of_one_mapping_keeps_the_other(c_owner: Actor, memory: MemoryDevice) -> None:
    """munmap() of one of two mappings leaves the other usable; one revoke ends the other."""
    device, bar = c_owner.open(memory.function.address), memory.bar
    assert c_owner.map(device, 16 * PAGE, bar=bar).stamp() is None
    buffer = c_owner.export(device, bar, SPAN)
    for touched in (True, False):
        one, other = c_owner.map(buffer), c_owner.map(buffer)
        if touched:
            assert one.pages() == list(range(3, 3 + PAGES))
        one.unmap()
        assert other.pages() == list(range(3, 3 + PAGES))
    c_owner.revoke(buffer)
    require_gone(other)
