"""MAP: mapping a DMABUF that VFIO exported, beside the device-fd mapping that was always there.

Every scenario that the Python probe can do is done by it too: it carries the ABI
as numbers of its own, so a header that changed by mistake does not carry it along.
"""

from __future__ import annotations

import pytest

from harness.guest import Device as Function
from harness.plugin import on_dialect, requirement
from harness.probe import PAGE, Actor, Buffer, Device, Range, Refused
from harness.witness import RamBar

# QEMU docs/specs/edu.rst: identification (read-only), and a register that reads back inverted.
EDU_MAGIC, EDU_LIVENESS = 0x00, 0x04
MAGIC = 0x010000ED

RAM_BAR = 2
MIB = 1 << 20
PAGES = 16
VIA = pytest.mark.parametrize("via", ["group", "cdev"])


def whole(owner: Actor, device: Device, bar: int) -> Buffer:
    """A DMABUF of a whole BAR."""
    return owner.export(device, bar, [Range(0, device.bars[bar])])


@requirement("MAP-01")
@VIA
def test_a_dmabuf_of_the_register_bar_reaches_the_device(owner: Actor, registers: Function, via: str) -> None:
    """A mapping of a DMABUF of the register BAR reaches the device."""
    mapping = owner.map(whole(owner, owner.open(registers.address, via), 0))
    assert mapping.load32(EDU_MAGIC) == MAGIC
    assert mapping.store32(EDU_LIVENESS, 0x12345678) is None
    assert mapping.load32(EDU_LIVENESS) == 0xEDCBA987


@requirement("MAP-01")
@VIA
def test_a_dmabuf_of_the_ram_bar_reaches_the_device(
    owner: Actor, ram: Function, ram_witness: RamBar, via: str
) -> None:
    """A mapping of a DMABUF of the RAM BAR reaches the memory that the host sees."""
    mapping = owner.map(whole(owner, owner.open(ram.address, via), RAM_BAR))
    assert mapping.store32(0, 0xC0FFEE00) is None
    assert mapping.load32(0) == 0xC0FFEE00
    assert ram_witness.word(0) == 0xC0FFEE00


@requirement("MAP-02")
@on_dialect("base")
@pytest.mark.parametrize(("role", "bar"), [("registers", 0), ("ram", RAM_BAR)])
def test_without_the_series_mmap_is_einval(
    owner: Actor, request: pytest.FixtureRequest, role: str, bar: int
) -> None:
    """Without the series mmap() of a DMABUF fails with EINVAL."""
    device = owner.open(request.getfixturevalue(role).address)
    buffer = whole(owner, device, bar)
    with pytest.raises(Refused) as refused:
        owner.map(buffer)
    assert refused.value.errno == "EINVAL"


@requirement("MAP-03")
@pytest.mark.parametrize("first", [0, 1, 513], ids=lambda first: f"from page {first}")
def test_byte_k_of_the_buffer_is_byte_k_of_the_range(
    owner: Actor, ram: Function, ram_witness: RamBar, first: int
) -> None:
    """Every page of the buffer is the page of the BAR that its range says, stamped through the device fd."""
    device = owner.open(ram.address)
    assert owner.map(device, bar=RAM_BAR).stamp() is None
    assert ram_witness.pages(0, 1024 * PAGE) == list(range(1024))
    mapping = owner.map(owner.export(device, RAM_BAR, [Range(first * PAGE, PAGES * PAGE)]))
    assert mapping.pages() == list(range(first, first + PAGES))


@requirement("MAP-03")
def test_every_page_of_the_whole_bar_is_its_own(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """A DMABUF of the whole RAM BAR shows each of its pages, stamped by the host, at its place."""
    ram_witness.stamp(seed=0x5A000000)
    mapping = owner.map(whole(owner, owner.open(ram.address), RAM_BAR))
    assert mapping.pages() == [0x5A000000 + page for page in range(ram.bars[RAM_BAR] // PAGE)]


@requirement("MAP-03")
def test_a_range_of_the_register_bar_is_that_range(owner: Actor, registers: Function) -> None:
    """The identification register is on the first page of the BAR, and on no other."""
    device = owner.open(registers.address)
    first = owner.map(owner.export(device, 0, [Range(0, PAGE)]))
    second = owner.map(owner.export(device, 0, [Range(PAGE, PAGE)]))
    assert first.load32(EDU_MAGIC) == MAGIC
    assert second.load32(EDU_MAGIC) == owner.map(device, bar=0).load32(PAGE + EDU_MAGIC) != MAGIC


@requirement("MAP-04")
def test_writes_travel_both_ways_at_once(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """What one writes through the DMABUF, the device fd or on the host, the others read at once."""
    device = owner.open(ram.address)
    view = owner.map(device, bar=RAM_BAR)
    mapping = owner.map(whole(owner, device, RAM_BAR))
    for page in (0, 7, ram.bars[RAM_BAR] // PAGE - 1):
        place = page * PAGE + 0x10
        assert mapping.store32(place, 0x11110000 + page) is None
        assert (view.load32(place), ram_witness.word(place)) == (0x11110000 + page,) * 2
        assert view.store32(place, 0x22220000 + page) is None
        assert (mapping.load32(place), ram_witness.word(place)) == (0x22220000 + page,) * 2
        ram_witness.write(place, (0x33330000 + page).to_bytes(4, "little"))
        assert (mapping.load32(place), view.load32(place)) == (0x33330000 + page,) * 2


@requirement("MAP-04")
def test_register_writes_are_seen_through_the_device_fd(owner: Actor, registers: Function) -> None:
    """A register written through the DMABUF reads changed through the device fd, and back."""
    device = owner.open(registers.address)
    view = owner.map(device, bar=0)
    mapping = owner.map(whole(owner, device, 0))
    assert mapping.store32(EDU_LIVENESS, 0x0F0F0F0F) is None
    assert view.load32(EDU_LIVENESS) == 0xF0F0F0F0
    assert view.store32(EDU_LIVENESS, 0x00FF00FF) is None
    assert mapping.load32(EDU_LIVENESS) == 0xFF00FF00


@requirement("MAP-04")
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_every_width_of_access_arrives(owner: Actor, ram: Function, ram_witness: RamBar, bits: int) -> None:
    """Stores and loads of 8, 16, 32 and 64 bits arrive whole, and touch nothing beside them."""
    mapping = owner.map(whole(owner, owner.open(ram.address), RAM_BAR))
    value = 0x8877665544332211 & ((1 << bits) - 1)
    ram_witness.fill(0xA5, 0, 2 * PAGE)
    assert mapping.store(bits, PAGE, value) is None
    assert mapping.load(bits, PAGE) == value
    size = bits // 8
    assert ram_witness.read(PAGE, size) == value.to_bytes(size, "little")
    assert ram_witness.read(PAGE - 8, 8) == ram_witness.read(PAGE + size, 8) == b"\xa5" * 8


@requirement("MAP-05")
@pytest.mark.parametrize(("role", "bar"), [("registers", 0), ("ram", RAM_BAR)])
def test_a_client_needs_nothing_but_the_dmabuf(
    owner: Actor, request: pytest.FixtureRequest, role: str, bar: int
) -> None:
    """A process of another user that was given the DMABUF, and nothing else, maps it and sees the same."""
    device = owner.open(request.getfixturevalue(role).address)
    view = owner.map(device, bar=bar)
    client = owner.spawn("client", uid=65534)
    mapping = client.map(owner.give(whole(owner, device, bar), client))
    assert mapping.store32(EDU_LIVENESS, 0x600DCAFE) is None
    assert mapping.load32(EDU_LIVENESS) == view.load32(EDU_LIVENESS)
    assert mapping.load32(EDU_MAGIC) == view.load32(EDU_MAGIC)


@requirement("MAP-06")
@pytest.mark.parametrize(("role", "bar"), [("registers", 0), ("ram", RAM_BAR)])
def test_the_mapping_outlives_the_descriptor(
    owner: Actor, request: pytest.FixtureRequest, role: str, bar: int
) -> None:
    """Pages touched before close() of the DMABUF fd, and pages touched after it, stay within reach."""
    device = owner.open(request.getfixturevalue(role).address)
    view = owner.map(device, bar=bar)
    buffer = whole(owner, device, bar)
    mapping = owner.map(buffer)
    before = mapping.load32(EDU_MAGIC)
    buffer.close()
    assert mapping.load32(EDU_MAGIC) == view.load32(EDU_MAGIC) == before
    assert mapping.load32(PAGE) == view.load32(PAGE)


@requirement("MAP-07")
@pytest.mark.parametrize(("role", "bar"), [("registers", 0), ("ram", RAM_BAR)])
@pytest.mark.parametrize("which", ["first", "second", "last"])
def test_the_device_fd_mapping_works_at_any_page(
    owner: Actor, request: pytest.FixtureRequest, role: str, bar: int, which: str
) -> None:
    """A device-fd mapping from the first, the second and the last page of a BAR shows that page."""
    function = request.getfixturevalue(role)
    device = owner.open(function.address)
    page = {"first": 0, "second": 1, "last": function.bars[bar] // PAGE - 1}[which]
    mapping = owner.map(device, PAGE, page * PAGE, bar=bar)
    assert mapping.load32(0) == device.read(bar, page * PAGE, 4)
    assert (mapping.load32(0) == MAGIC) == (role == "registers" and page == 0)


@requirement("MAP-07")
def test_the_device_fd_mapping_of_the_ram_bar_shows_its_stamps(
    owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """A device-fd mapping at offset 4096 of BAR 2 begins with the BAR's second page."""
    ram_witness.stamp()
    mapping = owner.map(owner.open(ram.address), PAGES * PAGE, PAGE, bar=RAM_BAR)
    assert mapping.pages() == list(range(1, 1 + PAGES))


@requirement("MAP-07")
def test_a_bar_smaller_than_a_page_maps(owner: Actor, ram: Function) -> None:
    """The page of a BAR of 256 bytes can be mapped through the device fd."""
    device = owner.open(ram.address)
    assert ram.bars[0] == 256
    mapping = owner.map(device, PAGE, bar=0)
    assert mapping.store32(0, 0x13570000) is None  # interrupt mask, docs/specs/ivshmem-spec.rst
    assert mapping.load32(0) == device.read(0, 0, 4)


@requirement("MAP-08")
@pytest.mark.parametrize(("role", "bar"), [("registers", 0), ("ram", RAM_BAR)])
@pytest.mark.parametrize("beyond", ["one page more", "from the end", "offset overflows", "length overflows"])
def test_the_device_fd_mapping_past_the_end_is_refused(
    owner: Actor, request: pytest.FixtureRequest, role: str, bar: int, beyond: str
) -> None:
    """A device-fd mapping that would reach past the end of the BAR is EINVAL."""
    function = request.getfixturevalue(role)
    size = function.bars[bar]
    length, offset = {
        "one page more": (size + PAGE, 0),
        "from the end": (PAGE, size),
        "offset overflows": (2 * PAGE, (1 << 40) - PAGE),
        "length overflows": (1 << 40, PAGE),
    }[beyond]
    device = owner.open(function.address)
    with pytest.raises(Refused) as refused:
        owner.map(device, length, offset, bar=bar)
    assert refused.value.errno == "EINVAL"


@requirement("MAP-08")
def test_more_than_the_page_of_a_small_bar_is_refused(owner: Actor, ram: Function) -> None:
    """Two pages of a BAR of 256 bytes are EINVAL."""
    device = owner.open(ram.address)
    with pytest.raises(Refused) as refused:
        owner.map(device, 2 * PAGE, bar=0)
    assert refused.value.errno == "EINVAL"


@requirement("MAP-13")
@pytest.mark.parametrize(("role", "bar"), [("registers", 0), ("ram", RAM_BAR)])
@VIA
def test_export_is_the_first_thing_after_open(
    owner: Actor, request: pytest.FixtureRequest, role: str, bar: int, via: str
) -> None:
    """A DMABUF maps although nobody touched the BAR through the device fd before."""
    function = request.getfixturevalue(role)
    device = owner.open(function.address, via)
    mapping = owner.map(whole(owner, device, bar))
    assert mapping.load32(EDU_MAGIC) == device.read(bar, EDU_MAGIC, 4)
