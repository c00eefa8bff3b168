"""LIFE: what is left of a DMABUF when descriptors, mappings and devices are closed, in any order.

After every scenario the harness checks that the driver can be unbound and that no DMABUF
is left over.  It also checks the kernel log.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_data, require_gone, require_no_page, require_pages, require_readable
from harness.actor.footprint import FootprintChanges
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.mismatch import Mismatch
from harness.actor.reply import BUS_ADRERR, Sigbus, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.guest.health import count_dmabufs
from harness.guest.slabs import Slabs
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, on_dialect, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.cases import require_nothing_left
from suites.support.constants import EDU_IDENTIFICATION, EDU_LIVENESS, EDU_MAGIC, FRONT, NOBODY, RAM_BAR
from suites.support.fixtures import MemoryDevice, Start

PAGES = 2
LENGTH = PAGES * PAGE
SPAN = [Range(0, LENGTH)]
GONE = [Sigbus(BUS_ADRERR, page * PAGE) for page in range(PAGES)]


# -- the last close of the device ------------------------------------------------------


@requirement("LIFE-01", "LIFE-02")
def test_closing_the_device_ends_all_access(
    owner: Actor, ram: Function, ram_witness: RamBar, via: str
) -> None:
    """A DMABUF does not keep its device open: after the close loads are SIGBUS and mmap() is ENODEV."""
    device = owner.open(ram.address, via)
    buffer = owner.export(device, RAM_BAR, SPAN)
    touched, untouched = owner.map(buffer), owner.map(buffer)
    ram_witness.stamp(length=FRONT)
    assert touched.pages() == list(range(PAGES))
    device.close()
    require_no_page(touched)
    for mapping in (touched, untouched):
        assert mapping.pages() == GONE
        assert mapping.store32(PAGE, 0xBAD) == GONE[1]
    assert outcome(lambda: owner.map(buffer)) == "ENODEV"
    assert ram_witness.pages(0, LENGTH) == list(range(PAGES))
    owner.open(ram.address, via).close()


@requirement("LIFE-01")
def test_access_ends_with_the_last_device_descriptor(c_owner: Actor, memory: MemoryDevice, via: str) -> None:
    """A close ends no access while another process has the device open; the last close ends it."""
    device = c_owner.open(memory.function.address, via)
    buffer = c_owner.export(device, memory.bar, SPAN)
    mapping = c_owner.map(buffer)
    other = c_owner.spawn("other")
    other_device = c_owner.lend(device, other)
    device.close()
    assert mapping.stamp(seed=0x100) is None
    require_pages(list(range(0x100, 0x100 + PAGES)), mapping, c_owner.map(buffer))
    other_device.close()
    assert mapping.pages() == GONE


@requirement("LIFE-02")
def test_a_device_fd_mapping_keeps_the_device_open(owner: Actor, memory: MemoryDevice, via: str) -> None:
    """A device-fd mapping keeps the device open, and DMABUFs usable, until its munmap()."""
    device, bar = owner.open(memory.function.address, via), memory.bar
    view = owner.map(device, LENGTH, bar=bar)
    buffer = owner.export(device, bar, SPAN)
    mapping = owner.map(buffer)
    device.close()
    assert view.stamp(seed=0x200) is None
    require_pages(list(range(0x200, 0x200 + PAGES)), mapping, owner.map(buffer))
    view.unmap()
    assert mapping.pages() == GONE
    assert outcome(lambda: owner.map(buffer)) == "ENODEV"


@requirement("LIFE-03")
def test_a_client_does_not_block_the_unbind(owner: Actor, ram: Function, guest: Guest, via: str) -> None:
    """A closed device can be unbound and bound again although a process has DMABUF and mapping."""
    device = owner.open(ram.address, via)
    buffer = owner.export(device, RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    require_readable(mapping)
    device.close()
    guest.unbind(ram)
    assert mapping.pages() == GONE
    assert outcome(lambda: owner.map(buffer)) == "ENODEV"
    guest.rebind(ram)
    fresh = owner.open(ram.address, via)
    assert owner.map(owner.export(fresh, RAM_BAR, SPAN)).stamp(seed=0x300) is None
    assert mapping.pages() == GONE


@requirement("LIFE-03")
def test_a_client_does_not_block_the_removal(c_owner: Actor, ram: Function, guest: Guest, via: str) -> None:
    """A closed device can be removed and rescanned although a client has DMABUF and mapping."""
    device = c_owner.open(ram.address, via)
    client = c_owner.spawn("client", uid=NOBODY)
    buffer = c_owner.give(c_owner.export(device, RAM_BAR, SPAN), client)
    client_mapping = client.map(buffer)
    require_readable(client_mapping)
    device.close()
    guest.replug(ram)
    assert client_mapping.pages() == GONE
    guest.rebind(ram)
    fresh = c_owner.open(ram.address, via)
    assert c_owner.map(c_owner.export(fresh, RAM_BAR, SPAN)).stamp(seed=0x300) is None
    assert client_mapping.pages() == GONE
    assert outcome(lambda: client.map(buffer)) == "ENODEV"


@requirement("LIFE-04", "LIFE-14")
def test_access_ends_before_the_device_is_off(
    c_owner: Actor, registers: Function, guest: Guest, via: str
) -> None:
    """A client that reads during the close sees the magic or SIGBUS, and never 0xffffffff."""
    device = c_owner.open(registers.address, via)
    view = c_owner.map(device, bar=0)
    client = c_owner.spawn("client", uid=NOBODY)
    client_mapping = client.map(c_owner.give(c_owner.export(device, 0, [Range(0, PAGE)]), client))
    # The control: the client sees the values that the register has while it watches.
    assert view.store32(EDU_LIVENESS, 1) is None
    client_mapping.watch(EDU_LIVENESS, 4)
    assert view.store32(EDU_LIVENESS, 2) is None
    values = client.watched().values
    assert values == {~1 & 0xFFFFFFFF, ~2 & 0xFFFFFFFF}, "the client did not see the register's values"
    view.unmap()
    client_mapping.watch(EDU_IDENTIFICATION, 4)
    device.close()
    guest.unbind(registers)
    seen = client.watched()
    assert seen.values == {EDU_MAGIC}, "the client saw other values than the register's"
    assert seen.sigbus > 0, "the client could still read after the close"
    assert seen.sigsegv == 0, "the client's loads raised SIGSEGV"


@requirement("LIFE-05")
def test_reopening_the_device_revives_no_dmabuf(owner: Actor, ram: Function, via: str) -> None:
    """A DMABUF from before the close stays SIGBUS when the device is reopened and memory is off and on."""
    first = owner.open(ram.address, via)
    buffer = owner.export(first, RAM_BAR, SPAN)
    old = owner.map(buffer)
    require_readable(old)
    first.close()
    again = owner.open(ram.address, via)
    view = owner.map(again, LENGTH, bar=RAM_BAR)
    for _ in range(2):
        assert view.stamp(seed=0x400) is None
        assert old.pages() == GONE
        assert outcome(lambda: owner.map(buffer)) == "ENODEV"
        again.decode_memory(False)
        again.decode_memory(True)
    assert owner.map(owner.export(again, RAM_BAR, SPAN)).pages() == view.pages()


@requirement("LIFE-05")
def test_a_reset_after_reopening_revives_no_dmabuf(c_owner: Actor, ram: Function) -> None:
    """A DMABUF from before the close stays SIGBUS when the reopened device is reset."""
    first = c_owner.open(ram.address)
    buffer = c_owner.export(first, RAM_BAR, SPAN)
    old = c_owner.map(buffer)
    first.close()
    again = c_owner.open(ram.address)
    again.reset()
    assert old.pages() == GONE
    assert outcome(lambda: c_owner.map(buffer)) == "ENODEV"


@requirement("LIFE-05")
@on_dialect("feature", "device-ioctl", "ioctl")
def test_a_reopened_device_cannot_revoke_old_dmabufs(owner: Actor, ram: Function) -> None:
    """A revoke of a DMABUF from before the close is ENODEV, whether it was revoked before or not."""
    first = owner.open(ram.address)
    live, revoked = (owner.export(first, RAM_BAR, SPAN) for _ in range(2))
    mapping = owner.map(live)
    owner.revoke(revoked)
    first.close()
    again = owner.open(ram.address)
    for buffer in (live, revoked):
        assert outcome(partial(owner.revoke, buffer, device=again)) == "ENODEV"
    assert mapping.pages() == GONE


@requirement("LIFE-15")
def test_killing_the_owner_ends_all_access(c_owner: Actor, ram: Function, guest: Guest, via: str) -> None:
    """After the kill of an owner its clients have SIGBUS, and the device can be unbound."""
    owner, client = c_owner.spawn("owner"), c_owner.spawn("client", uid=NOBODY)
    device = owner.open(ram.address, via)
    owner.map(device, LENGTH, bar=RAM_BAR)
    passed = c_owner.take(owner.export(device, RAM_BAR, SPAN))
    buffer = c_owner.give(passed, client)
    passed.close()
    touched, untouched = client.map(buffer), client.map(buffer)
    require_readable(touched)
    c_owner.signal(owner, "kill")
    assert c_owner.reap(owner) == "signal=9"
    require_gone(touched, untouched)
    assert outcome(lambda: client.map(buffer)) == "ENODEV"
    guest.unbind(ram)
    assert touched.pages() == GONE


# -- orders of closing -----------------------------------------------------------------

Event = Callable[[Actor, Device, Buffer], None]


def nothing(_owner: Actor, _device: Device, _buffer: Buffer) -> None:
    """Do nothing."""


def revoke(owner: Actor, _device: Device, buffer: Buffer) -> None:
    """Revoke the DMABUF."""
    owner.revoke(buffer)


def disable(_owner: Actor, device: Device, _buffer: Buffer) -> None:
    """Turn memory off."""
    device.decode_memory(False)


def revoke_disabled(owner: Actor, device: Device, buffer: Buffer) -> None:
    """Turn memory off, and then revoke the DMABUF."""
    disable(owner, device, buffer)
    revoke(owner, device, buffer)


def end(order: tuple[str, ...], buffer: Buffer, mapping: Mapping, device: Device) -> None:
    """Close or unmap each in turn; check that the close of the device ends a mapping that is left."""
    endings = {"DMABUF": buffer.close, "mapping": mapping.unmap, "device": device.close}
    for position, what in enumerate(order, 1):
        endings[what]()
        if what == "device" and "mapping" in order[position:]:
            assert mapping.load32(PAGE) == GONE[1]


def end_in_every_order(owner: Actor, ram: Function, guest: Guest, via: str, happens: Event) -> None:
    """Make device, DMABUF and mapping six times, have an event happen, and close them in another order."""
    before = count_dmabufs(guest)
    for order in itertools.permutations(("DMABUF", "mapping", "device")):
        device = owner.open(ram.address, via)
        buffer = owner.export(device, RAM_BAR, SPAN)
        mapping = owner.map(buffer)
        require_readable(mapping)
        happens(owner, device, buffer)
        if happens is nothing:
            require_data(mapping)
        else:
            assert mapping.load32(0) == GONE[0]
        end(order, buffer, mapping, device)
    assert count_dmabufs(guest) == before, "the kernel has another number of DMABUFs"
    guest.unbind(ram)


@requirement("LIFE-06")
@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(nothing, id="live", marks=requirement("LIFE-07")),
        pytest.param(revoke, id="revoked", marks=requirement("LIFE-09")),
    ],
)
def test_every_order_of_closing_leaves_nothing(
    owner: Actor, ram: Function, guest: Guest, via: str, happens: Event
) -> None:
    """DMABUF, mapping and device are closed in each of six orders: no DMABUF or use of the device is left."""
    end_in_every_order(owner, ram, guest, via, happens)


@requirement("LIFE-06", "LIFE-10")
@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(disable, id="disabled"),
        pytest.param(revoke_disabled, id="and revoked", marks=requirement("LIFE-09")),
    ],
)
def test_every_order_of_closing_a_disabled_device_leaves_nothing(
    c_owner: Actor, ram: Function, guest: Guest, via: str, happens: Event
) -> None:
    """DMABUF, mapping and device are closed in each of six orders while memory is off: nothing is left."""
    end_in_every_order(c_owner, ram, guest, via, happens)


@requirement("LIFE-07")
def test_a_closed_dmabuf_is_off_the_devices_list(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """After the close of one of three DMABUFs, memory off, resets and close apply to the other two."""
    device = c_owner.open(ram.address)
    buffers = [c_owner.export(device, RAM_BAR, SPAN) for _ in range(3)]
    first, middle, last = map(c_owner.map, buffers)
    ram_witness.stamp(length=FRONT)
    buffers[1].close()
    middle.unmap()
    device.decode_memory(False)
    require_gone(first, last)
    device.decode_memory(True)
    device.reset()
    require_pages(list(range(PAGES)), first, last)
    buffers[0].close()
    first.unmap()
    device.reset()
    assert last.pages() == list(range(PAGES))
    device.close()
    assert last.pages() == GONE


@requirement("LIFE-08")
@pytest.mark.parametrize("how", ["unmap", "exit", "kill"])
def test_the_last_mapping_may_end_after_the_device(
    c_owner: Actor, ram: Function, guest: Guest, how: str
) -> None:
    """The last mapping of a DMABUF whose device is closed and unbound ends without leaving a DMABUF."""
    before = count_dmabufs(guest)
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client = c_owner.spawn("client", uid=NOBODY)
    given = c_owner.give(buffer, client)
    client_mapping = client.map(given)
    require_readable(client_mapping)
    given.close()
    buffer.close()
    device.close()
    guest.unbind(ram)
    assert count_dmabufs(guest) == before + 1, "the kernel has another number of DMABUFs"
    assert client_mapping.pages() == GONE
    end_by: dict[str, Callable[[], None]] = {
        "unmap": client_mapping.unmap,
        "exit": client.exit,
        "kill": lambda: c_owner.signal(client, "kill"),
    }
    end_by[how]()
    if how != "unmap":
        c_owner.reap(client)
    assert count_dmabufs(guest) == before, "the kernel has another number of DMABUFs"


@requirement("LIFE-10")
@machine(power=True)
def test_a_device_may_be_closed_in_d3hot(c_owner: Actor, rng: Function, guest: Guest) -> None:
    """A device with a mapped DMABUF can be closed and unbound while it is in D3hot."""
    device = c_owner.open(rng.address)
    bar = max(device.bars)
    mapping = c_owner.map(c_owner.export(device, bar, SPAN))
    before = mapping.pages()
    device.power(3)
    assert mapping.pages() == GONE
    device.power(0)
    assert mapping.pages() == before
    device.power(3)
    device.close()
    assert mapping.pages() == GONE
    guest.unbind(rng)


# -- memory ----------------------------------------------------------------------------

CYCLES = 10_000
# A leak in one of the four kinds of cycles (two orders, revoked or not) leaves CYCLES / 4 objects in a cache.
# Without a leak no cache was seen to grow by 20; SLUB may keep some hundreds for its processors.
BOUND = CYCLES // 10
NONE_FREE = 3  # RLIMIT_NOFILE: standard input, output and error
AT_ONCE = 250  # DMABUFs of one device
RANGES = 256  # of a DMABUF: they take 4 KiB, whose cache little else uses, so that a leak shows


def require_no_growth(before: Slabs, guest: Guest) -> None:
    """Raise Mismatch if a slab cache has grown by more than BOUND objects."""
    if grown := before.growth(guest, BOUND):
        names = ", ".join(sorted(grown))
        raise Mismatch(
            f"objects were left behind in {names}",
            expected=f"at most {BOUND} more objects in each slab cache",
            seen=", ".join(f"{count} more in {name}" for name, count in sorted(grown.items())),
            compared=f"objects were left behind in {names}",
        )


@requirement("LIFE-06", "LIFE-09")
def test_ten_thousand_dmabufs_leave_no_memory_behind(c_owner: Actor, ram: Function, guest: Guest) -> None:
    """No slab cache grows over 10,000 DMABUFs exported, mapped, revoked or not, unmapped and closed."""
    device = c_owner.open(ram.address)
    assert c_owner.cycle(device, RAM_BAR, PAGE, CYCLES // 20, revoke=True) is None
    before = Slabs.of(guest)
    assert c_owner.cycle(device, RAM_BAR, PAGE, CYCLES, revoke=True) is None
    require_no_growth(before, guest)
    # The control: the check sees a quarter of the DMABUFs when they are kept.
    assert c_owner.cycle(device, RAM_BAR, PAGE, CYCLES // 4, keep=True) is None
    if not before.grown(Slabs.of(guest), BOUND):
        raise HarnessError("DMABUFs that are kept were to show in the slab caches, and do not.")


@requirement("LIFE-06", "LIFE-09", "LIFE-01")
def test_dmabufs_that_outlive_their_device_leave_no_memory(
    c_owner: Actor, ram: Function, guest: Guest
) -> None:
    """No slab cache grows over 10,000 DMABUFs, revoked or not, that are closed after their device."""

    def outlived(devices: int) -> None:
        for number in range(devices):
            device = c_owner.open(ram.address, ("group", "cdev")[number % 2])
            faults = c_owner.close_device_first(device, RAM_BAR, RANGES, AT_ONCE)
            assert faults == AT_ONCE, "loads after the close did not all end in SIGBUS"

    outlived(2)
    before = Slabs.of(guest)
    outlived(CYCLES // AT_ONCE)
    require_no_growth(before, guest)


@requirement("LIFE-06", "ERR-00")
def test_ten_thousand_refused_exports_leave_no_memory_behind(
    c_owner: Actor, ram: Function, guest: Guest
) -> None:
    """No slab cache grows over 10,000 exports of more than the BAR, which are EINVAL."""
    device = c_owner.open(ram.address)
    beyond = ram.bars[RAM_BAR] + PAGE
    assert c_owner.attempts(device, RAM_BAR, beyond, CYCLES // 20) == {"EINVAL": CYCLES // 20}
    before = Slabs.of(guest)
    assert c_owner.attempts(device, RAM_BAR, beyond, CYCLES) == {"EINVAL": CYCLES}
    require_no_growth(before, guest)


def failing_exports(owner: Actor, device: Device, kind: str) -> dict[str, int]:
    """Export for about a second; count the answers by errno."""
    if kind == "c":
        return owner.attempts(device, RAM_BAR, LENGTH, 1000)
    return dict(Counter(outcome(lambda: owner.export(device, RAM_BAR, SPAN)) for _ in range(100)))


@requirement("LIFE-11", "ERR-28")
@machine(alone=True)
@pytest.mark.parametrize("kind", ["c", "python"])
def test_export_without_a_free_descriptor_is_emfile(
    start: Start, ram: Function, guest: Guest, kind: str
) -> None:
    """Without a free descriptor each export is EMFILE and leaves nothing behind; with one it succeeds."""
    owner = start(kind)
    device = owner.open(ram.address)
    leftovers = FootprintChanges(owner)
    owner.limit_descriptors(NONE_FREE)
    tally = failing_exports(owner, device, kind)
    owner.limit_descriptors(64)
    assert list(tally) == ["EMFILE"]
    require_nothing_left(leftovers)
    assert owner.export(device, RAM_BAR, SPAN).size == LENGTH, "the DMABUF has another size than its range"
    device.close()
    guest.unbind(ram)


@requirement("LIFE-13")
def test_an_o_path_descriptor_may_outlive_the_file(c_owner: Actor, ram: Function, guest: Guest) -> None:
    """A DMABUF of which only an O_PATH descriptor is left survives reset, memory off and close."""
    before = count_dmabufs(guest)
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    path = buffer.reopen("path")
    mapping = c_owner.map(buffer)
    require_readable(mapping)
    buffer.close()
    mapping.unmap()
    device.reset()
    device.decode_memory(False)
    device.decode_memory(True)
    assert outcome(lambda: c_owner.map(path)) == "EBADF"
    assert c_owner.map(c_owner.export(device, RAM_BAR, SPAN)).stamp() is None
    device.close()
    path.close()
    guest.unbind(ram)
    assert count_dmabufs(guest) == before + 1, "the kernel has another number of DMABUFs"
