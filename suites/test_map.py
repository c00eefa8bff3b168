"""MAP: mapping a DMABUF that VFIO exported, compared with the device-fd mapping.

The Python probe runs the main scenarios too.  It has its own numbers of the ABI, so
that a header changed by mistake does not change both actors.
"""

from __future__ import annotations

import re
import struct
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require, require_gone, require_pages, require_refusal
from harness.actor.handles import Buffer, Range
from harness.actor.reply import BUS_ADRERR, Sigbus, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import machine, on_dialect, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import EDU_IDENTIFICATION, EDU_LIVENESS, EDU_MAGIC, NOBODY, RAM_BAR
from suites.support.fixtures import MemoryDevice

PAGES = 16
FIRST_EXPORTS = 30  # rounds of two exports at once

# include/uapi/linux/dma-buf.h
DMA_BUF_IOCTL_SYNC = 0x40086200
DMA_BUF_SYNC_READ_WRITE, DMA_BUF_SYNC_END = 3, 4
DMA_BUF_SET_NAME = 0x40086201
UNKNOWN_IOCTLS = (0x627F, 0x5401)  # an unused number of DMABUFs, and TCGETS of a terminal


@requirement("MAP-01")
def test_a_dmabuf_reaches_the_registers(owner: Actor, registers: Function, via: str) -> None:
    """A mapping of a DMABUF of the register BAR reaches the device."""
    mapping = owner.map(owner.export(owner.open(registers.address, via), 0))
    assert mapping.load32(EDU_IDENTIFICATION) == EDU_MAGIC
    assert mapping.store32(EDU_LIVENESS, 0x12345678) is None
    assert mapping.load32(EDU_LIVENESS) == 0xEDCBA987


@requirement("MAP-01")
def test_a_dmabuf_reaches_the_memory(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """A mapping of a DMABUF of the RAM BAR reaches the memory that the host sees."""
    ram_witness.write(0, bytes(4))
    mapping = owner.map(owner.export(owner.open(ram.address, "cdev"), RAM_BAR))
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
    buffer = owner.export(owner.open(request.getfixturevalue(role).address), bar)
    assert outcome(lambda: owner.map(buffer)) == "EINVAL"


@requirement("MAP-03")
def test_byte_k_of_the_buffer_is_byte_k_of_the_range(
    owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """Every page of a DMABUF is the page of the BAR in its range, stamped through the device fd."""
    device = owner.open(ram.address)
    last = ram.bars[RAM_BAR] // PAGE - PAGES
    for first in (0, 1, 513, last):
        view = owner.map(device, PAGES * PAGE, first * PAGE, bar=RAM_BAR)
        assert view.stamp(seed=first) is None
        stamped = list(range(first, first + PAGES))
        assert ram_witness.pages(first * PAGE, PAGES * PAGE) == stamped
        mapping = owner.map(owner.export(device, RAM_BAR, [Range(first * PAGE, PAGES * PAGE)]))
        assert mapping.pages() == stamped


@requirement("MAP-03")
def test_a_dmabuf_of_the_whole_bar_shows_every_page(
    c_owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """A DMABUF of the whole RAM BAR shows each page, stamped by the host, at its place."""
    ram_witness.stamp(seed=0x5A000000)
    mapping = c_owner.map(c_owner.export(c_owner.open(ram.address), RAM_BAR))
    assert mapping.pages() == [0x5A000000 + page for page in range(ram.bars[RAM_BAR] // PAGE)]


@requirement("MAP-03")
def test_a_range_of_the_register_bar_shows_that_range(owner: Actor, registers: Function) -> None:
    """The identification register is on the first page of the BAR, and on no other."""
    device = owner.open(registers.address)
    first = owner.map(owner.export(device, 0, [Range(0, PAGE)]))
    second = owner.map(owner.export(device, 0, [Range(PAGE, PAGE)]))
    assert first.load32(EDU_IDENTIFICATION) == EDU_MAGIC
    elsewhere = owner.map(device, bar=0).load32(PAGE + EDU_IDENTIFICATION)
    assert elsewhere != EDU_MAGIC, "the identification register is on the second page of the BAR as well"
    assert second.load32(EDU_IDENTIFICATION) == elsewhere


@requirement("MAP-03")
def test_every_kind_of_memory_bar_shows_its_pages(c_owner: Actor, memory: MemoryDevice) -> None:
    """On each kind of device with a memory BAR all pages, stamped through the device fd, are in place."""
    device = c_owner.open(memory.function.address)
    assert c_owner.map(device, bar=memory.bar).stamp(seed=0x3A000000) is None
    mapping = c_owner.map(c_owner.export(device, memory.bar))
    pages = memory.function.bars[memory.bar] // PAGE
    assert mapping.pages() == [0x3A000000 + page for page in range(pages)]


@requirement("MAP-04")
def test_every_mapping_shows_a_store_at_once(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """A word written through the DMABUF, the device fd or by the host is read by the other two at once."""
    device = owner.open(ram.address)
    view = owner.map(device, bar=RAM_BAR)
    mapping = owner.map(owner.export(device, RAM_BAR))
    for page in (0, 7, ram.bars[RAM_BAR] // PAGE - 1):
        place = page * PAGE + 0x10
        assert mapping.store32(place, 0x11110000 + page) is None
        assert view.load32(place) == 0x11110000 + page
        assert ram_witness.word(place) == 0x11110000 + page
        assert view.store32(place, 0x22220000 + page) is None
        assert mapping.load32(place) == 0x22220000 + page
        assert ram_witness.word(place) == 0x22220000 + page
        ram_witness.write(place, (0x33330000 + page).to_bytes(4, "little"))
        assert mapping.load32(place) == 0x33330000 + page
        assert view.load32(place) == 0x33330000 + page


@requirement("MAP-04")
def test_register_writes_are_seen_through_the_device_fd(owner: Actor, registers: Function) -> None:
    """A register written through the DMABUF reads changed through the device fd, and back."""
    device = owner.open(registers.address)
    view = owner.map(device, bar=0)
    mapping = owner.map(owner.export(device, 0))
    assert mapping.store32(EDU_LIVENESS, 0x0F0F0F0F) is None
    assert view.load32(EDU_LIVENESS) == 0xF0F0F0F0
    assert view.store32(EDU_LIVENESS, 0x00FF00FF) is None
    assert mapping.load32(EDU_LIVENESS) == 0xFF00FF00


@requirement("MAP-04")
def test_every_width_of_access_arrives(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """Stores and loads of 8, 16, 32 and 64 bits arrive whole, and change no adjacent byte."""
    mapping = owner.map(owner.export(owner.open(ram.address), RAM_BAR))
    for bits in (8, 16, 32, 64):
        size, value = bits // 8, 0x8877665544332211 & ((1 << bits) - 1)
        ram_witness.fill(0xA5, 0, 2 * PAGE)
        assert mapping.store(bits, PAGE, value) is None
        assert mapping.load(bits, PAGE) == value
        assert ram_witness.read(PAGE, size) == value.to_bytes(size, "little")
        assert ram_witness.read(PAGE - 8, 8) == b"\xa5" * 8
        assert ram_witness.read(PAGE + size, 8) == b"\xa5" * 8


@requirement("MAP-05")
def test_a_client_needs_nothing_but_the_dmabuf(
    owner: Actor, registers: Function, ram: Function, ram_witness: RamBar
) -> None:
    """A process of another user with nothing but DMABUFs maps them and sees what their owner sees."""
    client = owner.spawn("client", uid=NOBODY)
    for function, bar in ((registers, 0), (ram, RAM_BAR)):
        device = owner.open(function.address)
        view = owner.map(device, bar=bar)
        mapping = client.map(owner.give(owner.export(device, bar), client))
        assert mapping.store32(EDU_LIVENESS, 0x600DCAFE) is None
        assert mapping.load32(EDU_LIVENESS) == view.load32(EDU_LIVENESS)
        assert mapping.load32(EDU_IDENTIFICATION) == view.load32(EDU_IDENTIFICATION)
    assert view.load32(EDU_LIVENESS) == 0x600DCAFE
    assert ram_witness.word(EDU_LIVENESS) == 0x600DCAFE
    ram_witness.write(PAGE, bytes.fromhex("efbeadde"))
    assert mapping.load32(PAGE) == 0xDEADBEEF


@requirement("MAP-06")
def test_the_mapping_outlives_the_descriptor(
    owner: Actor, registers: Function, ram: Function, ram_witness: RamBar
) -> None:
    """Pages touched before the close() of the DMABUF's descriptor, and after it, stay accessible."""
    ram_witness.stamp(seed=0x06000000)
    for function, bar in ((registers, 0), (ram, RAM_BAR)):
        device = owner.open(function.address)
        view = owner.map(device, bar=bar)
        buffer = owner.export(device, bar)
        mapping = owner.map(buffer)
        before = mapping.load32(EDU_IDENTIFICATION)
        buffer.close()
        assert mapping.load32(EDU_IDENTIFICATION) == before
        assert view.load32(EDU_IDENTIFICATION) == before
        assert mapping.load32(PAGE) == view.load32(PAGE)
    assert before == 0x06000000
    assert mapping.load32(2 * PAGE) == 0x06000002
    assert mapping.store32(3 * PAGE, 0x60606060) is None
    assert ram_witness.word(3 * PAGE) == 0x60606060


@requirement("MAP-06")
def test_a_revoke_ends_a_mapping_whose_fd_is_closed(
    c_owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """A mapping whose descriptor was closed is SIGBUS after a revoke through a duplicate."""
    ram_witness.stamp()
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, [Range(0, 2 * PAGE)])
    mapping, kept = c_owner.map(buffer), buffer.dup()
    buffer.close()
    assert mapping.load32(0) == 0
    c_owner.revoke(kept)
    require_gone(mapping)
    assert mapping.store32(PAGE, 0xBAD) == Sigbus(BUS_ADRERR, PAGE)
    assert ram_witness.pages(0, 2 * PAGE) == [0, 1]


@requirement("MAP-07")
def test_a_device_fd_mapping_shows_the_requested_page(
    owner: Actor, registers: Function, ram: Function, ram_witness: RamBar
) -> None:
    """A device-fd mapping of the first, the second and the last page of every BAR shows that page."""
    ram_witness.stamp(seed=0x77000000)
    for function in (registers, ram):
        device = owner.open(function.address)
        for bar, size in function.bars.items():
            for page in sorted({0, 1, size // PAGE - 1} & set(range(-(-size // PAGE)))):
                mapping = owner.map(device, PAGE, page * PAGE, bar=bar)
                assert mapping.load32(0) == device.read(bar, page * PAGE, 4)
                if function is ram and bar == RAM_BAR:
                    assert mapping.load32(0) == 0x77000000 + page
                elif function is registers and bar == 0:
                    shown = mapping.load32(0) == EDU_MAGIC
                    assert shown == (page == 0), "the identification register is on another page"


@requirement("MAP-07")
def test_a_bar_smaller_than_a_page_can_be_mapped(owner: Actor, ram: Function) -> None:
    """The page of a BAR of 256 bytes can be mapped through the device fd."""
    device = owner.open(ram.address)
    assert ram.bars[0] == 256
    mapping = owner.map(device, PAGE, bar=0)
    assert mapping.store32(0, 0x13570000) is None  # interrupt mask, docs/specs/ivshmem-spec.rst
    assert mapping.load32(0) == 0x13570000
    assert device.read(0, 0, 4) == 0x13570000


@requirement("MAP-08")
def test_a_device_fd_mapping_past_the_end_is_refused(
    owner: Actor, registers: Function, ram: Function, ram_witness: RamBar
) -> None:
    """A device-fd mapping past the end of a BAR, or into the offsets of another, is EINVAL."""
    ram_witness.stamp(seed=0x08000000)
    for function in (registers, ram):
        device = owner.open(function.address)
        for bar, size in function.bars.items():
            whole = max(size, PAGE)
            with owner.map(device, whole, bar=bar) as view:
                shown = device.read(bar, whole - PAGE, 4)
                assert view.load32(whole - PAGE) == shown
            if function is ram and bar == RAM_BAR:
                assert shown == 0x08000000 + whole // PAGE - 1
                assert ram_witness.word(whole - PAGE) == 0x08000000 + whole // PAGE - 1
            for length, offset in (
                (whole + PAGE, 0),
                (PAGE, whole),
                (2 * PAGE, whole - PAGE),
                (2 * PAGE, (1 << 40) - PAGE),  # into the next BAR: VFIO_PCI_OFFSET_SHIFT
                (1 << 40, PAGE),
            ):
                assert outcome(partial(owner.map, device, length, offset, bar=bar)) == "EINVAL"


@requirement("MAP-09")
def test_a_device_fd_mapping_is_named_in_proc_maps(c_owner: Actor, ram: Function) -> None:
    """In /proc/self/maps a device-fd mapping has the name of the device file, or of device and BAR."""
    files = {"group": re.escape("anon_inode:[vfio-device]"), "cdev": r"/dev/vfio/devices/vfio\d+"}
    for via, file in files.items():
        device = c_owner.open(ram.address, via)
        for bar in ram.bars:
            mapping = c_owner.map(device, PAGE, bar=bar)
            (vma,) = c_owner.vmas(mapping)
            named = rf"/dmabuf:vfio\d+:{re.escape(ram.address)}/{bar:x}"
            require(
                re.fullmatch(f"{file}|{named}", vma.name) is not None,
                "a device-fd mapping has the wrong name in /proc/self/maps",
                expected="the name of the device file, or of device and BAR",
                seen=vma.name,
            )
            mapping.unmap()
        device.close()


@requirement("MAP-09")
def test_a_mapping_has_the_name_of_its_dmabuf(c_owner: Actor, ram: Function) -> None:
    """In /proc/self/maps a mapping of a DMABUF has the name that the user set, and none before."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, [Range(0, PAGE)])
    mapping = c_owner.map(buffer)
    assert [vma.name for vma in c_owner.vmas(mapping)] == ["/dmabuf:"]
    buffer.ioctl(DMA_BUF_SET_NAME, b"lent\0")
    assert [vma.name for vma in c_owner.vmas(mapping)] == ["/dmabuf:lent"]


@requirement("MAP-10")
def test_o_cloexec_decides_what_survives_exec(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """O_CLOEXEC decides whether a descriptor survives exec(); no mapping survives, and both can be mapped."""
    device = c_owner.open(ram.address)
    ram_witness.stamp()
    ranges = [Range(PAGE, 3 * PAGE)]
    kept = c_owner.export(device, RAM_BAR, ranges, open_flags="rdwr")
    closed = c_owner.export(device, RAM_BAR, ranges, open_flags="rdwr,cloexec")
    assert kept.closes_on_exec() is False, "a descriptor without O_CLOEXEC is closed by exec()"
    assert closed.closes_on_exec() is True, "a descriptor with O_CLOEXEC survives exec()"
    require_pages([1, 2, 3], c_owner.map(kept), c_owner.map(closed))
    child = c_owner.fork("child")
    survivors = child.exec()
    assert survivors.vmas == 0, "a mapping survived exec()"
    assert [buffer.size for buffer in survivors.buffers] == [kept.size]
    assert child.map(survivors.buffers[0]).pages() == [1, 2, 3]


@requirement("MAP-11")
def test_the_mapping_has_the_flags_of_a_device_fd_mapping(c_owner: Actor, ram: Function) -> None:
    """A mapping has the flags of a device-fd mapping: shared, I/O memory, not dumped, not expanded."""
    device = c_owner.open(ram.address)
    control = c_owner.map(device, PAGES * PAGE, bar=RAM_BAR)
    mapping = c_owner.map(c_owner.export(device, RAM_BAR, [Range(0, PAGES * PAGE)]))
    ((known,), (vma,)) = c_owner.vmas(control), c_owner.vmas(mapping)
    # The file system decides whether a mapping may be executed (me): mm/mmap.c, path_noexec().
    assert vma.flags - {"me"} == known.flags - {"me"}, "the VMA has other flags than a device-fd mapping's"
    # fs/proc/task_mmu.c: VM_ALLOW_ANY_UNCACHED has no letters and is shown as ??.
    flags = {"rd", "wr", "sh", "mr", "mw", "ms", "pf", "io", "de", "dd", "??"}
    assert vma.flags >= flags, "the VMA lacks a flag of I/O memory"
    assert vma.flags - {"dc"} == vma.flags, "the VMA is not copied by fork()"
    assert vma.permissions == "rw-s", "the VMA is not shared, or has other permissions"


@requirement("MAP-12", "ATTR-01")
def test_the_mapping_is_as_uncached_as_a_device_fd_mapping(
    c_owner: Actor, registers: Function, ram: Function
) -> None:
    """Without a memory attribute a mapping is uncached like a device-fd mapping."""
    for function, bar in ((registers, 0), (ram, RAM_BAR)):
        device = c_owner.open(function.address)
        control = c_owner.map(device, PAGES * PAGE, bar=bar)
        mapping = c_owner.map(c_owner.export(device, bar, [Range(0, PAGES * PAGE)]))
        for either in (control, mapping):
            either.pages()
            assert either.page_table().mapped() == PAGES * PAGE
        assert mapping.page_table().caching() == {"uncached-minus"}
        assert control.page_table().caching() == {"uncached-minus"}


@requirement("MAP-13")
def test_export_claims_the_bar(owner: Actor, guest: Guest, registers: Function, ram: Function) -> None:
    """An export before any access through the device fd claims the BAR."""
    for function, bar in ((registers, 0), (ram, RAM_BAR)):
        device = owner.open(function.address)
        # None on 6.19; all since 7.1, where opening the device claims them.
        at_open = guest.claimed_bars(function)
        owner.export(device, bar)
        assert guest.claimed_bars(function) == {**at_open, bar: "vfio"}


@requirement("MAP-13")
@machine(parallel=True)
def test_exports_at_once_claim_the_bar_once(c_owner: Actor, registers: Function) -> None:
    """Two concurrent exports that are the first use of a BAR both succeed."""
    for _ in range(FIRST_EXPORTS):
        device = c_owner.open(registers.address)
        assert c_owner.race(device, "export", 0, PAGE, count=1) == {"done": 2}
        device.close()


@requirement("MAP-13")
def test_an_export_before_any_device_access_can_be_mapped(
    owner: Actor, registers: Function, ram: Function, ram_witness: RamBar
) -> None:
    """A DMABUF exported before any access through the device fd can be mapped."""
    ram_witness.stamp(seed=0x13000000)
    for function, bar in ((registers, 0), (ram, RAM_BAR)):
        device = owner.open(function.address)
        mapping = owner.map(owner.export(device, bar))
        assert mapping.load32(EDU_IDENTIFICATION) == device.read(bar, EDU_IDENTIFICATION, 4)
    assert mapping.load32(PAGE) == 0x13000001
    assert mapping.store32(PAGE, 0x13131313) is None
    assert ram_witness.word(PAGE) == 0x13131313


def answers(buffer: Buffer) -> dict[str, object]:
    """Return what lseek(), fdinfo and ioctls of the descriptor answer."""
    for flags in (DMA_BUF_SYNC_READ_WRITE, DMA_BUF_SYNC_READ_WRITE | DMA_BUF_SYNC_END):
        buffer.ioctl(DMA_BUF_IOCTL_SYNC, struct.pack("=Q", flags))
    refusals = []
    for request in UNKNOWN_IOCTLS:
        refusals.append(require_refusal(partial(buffer.ioctl, request)))
    return {
        "end": buffer.seek("end"),
        "start": buffer.seek("set"),
        "fdinfo": int(buffer.fdinfo()["size"]),
        "unknown ioctls": refusals,
    }


def answers_of_any_dmabuf(size: int) -> dict[str, object]:
    """Return the answers by drivers/dma-buf/dma-buf.c: dma_buf_llseek(), _show_fdinfo(), _ioctl()."""
    return {"end": size, "start": 0, "fdinfo": size, "unknown ioctls": ["ENOTTY", "ENOTTY"]}


@requirement("MAP-14")
def test_the_descriptor_answers_as_any_dmabuf_does(c_owner: Actor, ram: Function) -> None:
    """lseek() and fdinfo give the size, DMA_BUF_IOCTL_SYNC succeeds, an unknown ioctl is ENOTTY."""
    ranges = [Range(0, 3 * PAGE), Range(PAGE, PAGE)]
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, ranges)
    assert answers(buffer) == answers_of_any_dmabuf(4 * PAGE)


@requirement("MAP-14")
def test_a_revoked_descriptor_answers_as_before(c_owner: Actor, ram: Function) -> None:
    """After a revoke lseek(), fdinfo and ioctls of the descriptor answer as before."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, [Range(0, PAGES * PAGE)])
    c_owner.revoke(buffer)
    assert answers(buffer) == answers_of_any_dmabuf(PAGES * PAGE)
