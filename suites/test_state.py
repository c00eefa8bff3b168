"""STATE: memory decoding, power states and resets end all access to a device temporarily.

Every scenario maps a DMABUF first.  On a kernel that maps none, SIGBUS proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import (
    require,
    require_data,
    require_equal,
    require_gone,
    require_no_page,
    require_pages,
    require_refusal,
)
from harness.actor.handles import PCI_COMMAND, Device, Range
from harness.actor.mismatch import Mismatch
from harness.actor.reply import BUS_ADRERR, Refused, Sigbus, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import (
    D0,
    D3HOT,
    EDU_MAGIC,
    FRONT,
    IOVA,
    IVSHMEM_BAR,
    IVSHMEM_INTERRUPT_MASK,
    NOBODY,
    PCI_COMMAND_MASTER,
    RAM_BAR,
    SENTINEL,
    VIRTIO_BAR,
    VIRTIO_SELECT,
    VIRTIO_STATUS,
)
from suites.support.dma import Engine
from suites.support.fixtures import Finding
from suites.support.reach import Reach, View, look
from suites.support.registers import RESETS
from suites.support.store_oracle import THEIRS, Oracle, require_none_landed, require_sigbus_alone

BARS = {"edu": 0, "display": 0, "ram": RAM_BAR, "rng": VIRTIO_BAR}
PAGES = 4
START = 3 * PAGE
LENGTH = PAGES * PAGE
SPAN = [Range(START, LENGTH)]
SHOWN = list(range(3, 3 + PAGES))
GONE = [Sigbus(BUS_ADRERR, page * PAGE) for page in range(PAGES)]


def on(*roles: str) -> pytest.MarkDecorator:
    """Parametrize the fixture ``function`` with these devices."""
    params = [pytest.param(role, marks=machine(power=True)) if role == "rng" else role for role in roles]
    return pytest.mark.parametrize("function", params, indirect=True)


@pytest.fixture
def function(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Function]:
    """The device in the role that ``on`` gives."""
    if request.param not in guest.devices:
        pytest.skip(f"this QEMU has no {request.param} device")
    with guest.bind(request.param) as device:
        yield device


@pytest.fixture
def pair(guest: Guest) -> Iterator[tuple[Function, Function]]:
    """Two functions of one device that are reset together: one with a RAM BAR, and a virtio device."""
    # A hot reset goes through the functions in the order of their binding.
    with guest.bind("pair") as first, guest.bind("pair2") as second:
        yield first, second


# -- memory decoding -------------------------------------------------------------------


@requirement("STATE-01", "STATE-02", "STATE-04", "STATE-15", "STATE-16")
def test_memory_off_ends_all_access_until_it_is_on(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """All access is SIGBUS while memory is off, by a write of 1, 2 or 4 bytes, and as before afterwards."""
    ram_witness.fill(0, START, LENGTH)
    ram_witness.stamp(length=FRONT)
    device = owner.open(ram.address)
    reach = Reach.of(device, RAM_BAR, SPAN)
    require_equal(list(reach.words), SHOWN)
    for off, on_again in ((2, 2), (1, 4), (4, 1)):
        device.decode_memory(False, width=off)
        reach.require_gone()
        device.decode_memory(True, width=on_again)
        assert ram_witness.pages(START, LENGTH) == SHOWN
        assert ram_witness.word(START + 8) == 0
        reach.require_back()


@requirement("STATE-04", "STATE-01", "STATE-02", "STATE-15", "STATE-16")
@on("edu", "display", "ram")
def test_memory_off_ends_access_to_every_bar(c_owner: Actor, function: Function, via: str) -> None:
    """While memory is off no BAR is accessible at any offset, through the device fd or a DMABUF."""
    device = c_owner.open(function.address, via)
    reach = Reach.of(device, BARS[function.role], [Range(0, LENGTH)])
    for _ in range(2):
        device.decode_memory(False)
        reach.require_gone()
        device.decode_memory(True)
        reach.require_back()


@requirement("STATE-01", "STATE-11")
def test_other_writes_of_the_command_register_zap_nothing(c_owner: Actor, ram: Function) -> None:
    """Writes to the command register that keep the memory bit leave every mapped page in place."""
    device = c_owner.open(ram.address)
    reach = Reach.of(device, RAM_BAR, SPAN)
    command = device.read("config", PCI_COMMAND, 2)
    for width, value in (
        (2, command | PCI_COMMAND_MASTER),
        (1, command & 0xFF),
        (4, command),
        (2, command & ~PCI_COMMAND_MASTER),
    ):
        device.write("config", PCI_COMMAND, width, value)
        reach.require_present()
    high = device.read("config", PCI_COMMAND + 1, 1)
    for value in (high ^ 4, high):  # interrupts on or off
        device.write("config", PCI_COMMAND + 1, 1, value)
        reach.require_present()
    device.decode_memory(True)
    device.exit_low_power()
    reach.require_present()
    reach.require_back()


@requirement("STATE-05", "STATE-15")
def test_an_export_while_memory_is_off_maps_when_it_is_on(
    owner: Actor, ram: Function, ram_witness: RamBar, via: str
) -> None:
    """A DMABUF exported while memory is off can be mapped once memory is on, and not before."""
    ram_witness.stamp(length=FRONT)
    device = owner.open(ram.address, via)
    before = owner.map(owner.export(device, RAM_BAR, SPAN))
    assert before.pages() == SHOWN
    device.decode_memory(False)
    buffers = [owner.export(device, RAM_BAR, [Range(first * PAGE, 2 * PAGE)]) for first in (0, 4)]
    for buffer in buffers:
        require_refusal(partial(owner.map, buffer))
    device.decode_memory(True)
    assert [owner.map(buffer).pages() for buffer in buffers] == [[0, 1], [4, 5]]
    assert before.pages() == SHOWN


@requirement("STATE-18")
def test_a_revoke_while_memory_is_off_keeps_the_others(owner: Actor, ram: Function, via: str) -> None:
    """A revoke of one of three DMABUFs while memory is off keeps the other two accessible afterwards."""
    device = owner.open(ram.address, via)
    buffers = [owner.export(device, RAM_BAR, [Range(n * LENGTH, LENGTH)]) for n in range(3)]
    mappings = [owner.map(buffer) for buffer in buffers]
    for number, mapping in enumerate(mappings):
        assert mapping.stamp(seed=0x100 * number) is None
    device.decode_memory(False)
    owner.revoke(buffers[1])
    require_gone(*mappings)
    device.decode_memory(True)
    first, middle, last = mappings
    require_pages(range(PAGES), first)
    require_gone(middle)
    require_pages(range(0x200, 0x200 + PAGES), last)
    require_refusal(lambda: owner.map(buffers[1]))
    assert [owner.map(buffers[number]).load32(0) for number in (0, 2)] == [0, 0x200]


# -- power -----------------------------------------------------------------------------


@requirement("STATE-06", "STATE-05", "STATE-16")
@machine(power=True)
def test_d3hot_ends_all_access_until_d0_with_memory_on(c_owner: Actor, rng: Function) -> None:
    """Every access is SIGBUS in D3hot, and in D0 with memory off; in D0 with memory on it is as before."""
    device = c_owner.open(rng.address)
    reach = Reach.of(device, VIRTIO_BAR, [Range(0, rng.bars[VIRTIO_BAR])])
    device.power(D3HOT)
    reach.require_gone()
    buffer = c_owner.export(device, VIRTIO_BAR, [Range(0, PAGE)])
    require_refusal(lambda: c_owner.map(buffer))
    for memory in (True, False):
        device.decode_memory(memory)
        reach.require_gone()
    device.power(D0)
    reach.require_gone()
    require_refusal(lambda: c_owner.map(buffer))
    device.decode_memory(True)
    reach.require_back()
    assert c_owner.map(buffer).load32(0) == reach.words[0]
    device.power(D3HOT)
    reach.require_gone()
    device.power(D0)
    reach.require_back()


@requirement("STATE-07", "STATE-16")
@on("edu", "ram", "rng")
def test_low_power_ends_all_access_until_its_exit(c_owner: Actor, function: Function, guest: Guest) -> None:
    """All access is SIGBUS from the entry to low power until its exit, before and after the suspend."""
    device = c_owner.open(function.address)
    reach = Reach.of(device, BARS[function.role], [Range(0, LENGTH)])
    device.enter_low_power()
    reach.require_gone()
    guest.await_suspend(function)
    reach.require_gone()
    assert outcome(device.enter_low_power) == "EINVAL"
    reach.require_gone()
    device.exit_low_power()
    reach.require_back()


@requirement("STATE-07", "STATE-16")
@machine(parallel=True)
def test_no_store_lands_in_low_power(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """None of 50 000 stores and loads of a client in low power reaches the range; after the exit all do."""
    device = c_owner.open(ram.address)
    oracle = Oracle(c_owner.map(device, LENGTH, START, bar=RAM_BAR), ram_witness, START)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client = c_owner.spawn("client", uid=NOBODY)
    hammer = client.map(c_owner.give(buffer, client)).hammer(THEIRS, access="both", threads=2)
    oracle.require_reach(hammer)
    device.enter_low_power()
    before = hammer.counts(more=1)
    ram_witness.fill(0x5A, START, LENGTH)
    after = hammer.counts(more=25_000)
    require_none_landed(before, after)
    require_sigbus_alone(after, 0)
    assert set(ram_witness.read(START, LENGTH)) == {0x5A}, "a store still reached the device's memory"
    device.exit_low_power()
    oracle.require_reach(hammer)
    hammer.stop()


@requirement("STATE-08")
@on("ram", "rng")
def test_a_wakeup_restores_all_access(
    c_owner: Actor, function: Function, guest: Guest, finding: Finding
) -> None:
    """After a wakeup from low power, reported by an eventfd, all mappings are accessible without an exit."""
    device = c_owner.open(function.address)
    reach = Reach.of(device, BARS[function.role], [Range(0, LENGTH)])
    device.enter_low_power(wakeup=True)
    guest.await_suspend(function)
    reach.require_gone()
    assert device.wakeups() == 0
    device.info()
    assert device.wakeups() == 1
    back = [name for name, view in reach.views.items() if view.seen() == "data"]
    dmabuf = "are back" if reach.touched.pages() == reach.words else "are not back"
    finding(
        f"After a wakeup the mappings of the DMABUF {dmabuf}, and {len(back)} of {len(reach.views)} "
        "device-fd mappings are."
    )
    reach.require_back()


@requirement("STATE-08", "STATE-11")
def test_a_wakeup_does_not_turn_memory_on(
    c_owner: Actor, ram: Function, guest: Guest, importer: Device
) -> None:
    """A wakeup while memory is off gives neither the processor nor an importer access."""
    device = c_owner.open(ram.address)
    reach = Reach.of(device, RAM_BAR, SPAN)
    for memory in (False, True):
        device.decode_memory(memory)
        device.enter_low_power(wakeup=True)
        guest.await_suspend(ram)
        device.info()
        assert device.wakeups() == 1
        if not memory:
            reach.require_gone()
            assert outcome(lambda: importer.import_buffer(reach.buffer, IOVA)) == "ENODEV"
    device.exit_low_power()
    reach.require_back()


@requirement("STATE-09")
def test_the_memory_bit_does_not_end_low_power(
    c_owner: Actor, ram: Function, guest: Guest, importer: Device, finding: Finding
) -> None:
    """A write of the memory bit in low power gives neither the processor nor an importer access."""
    device = c_owner.open(ram.address)
    reach = Reach.of(device, RAM_BAR, SPAN)
    importer.import_buffer(reach.buffer, IOVA)
    device.enter_low_power()
    guest.await_suspend(ram)
    for bit in (True, False, True):
        device.decode_memory(bit)
        require_gone(reach.touched, reach.untouched)
        assert look(reach.views) == dict.fromkeys(reach.views, "SIGBUS")
        try:
            importer.import_buffer(reach.buffer, IOVA)
        except Refused as refused:
            finding(f"In low power, the memory bit {'on' if bit else 'off'}, an import is {refused.errno}.")
        else:
            finding(f"In low power, the memory bit {'on' if bit else 'off'}, iommufd imports the DMABUF.")
            raise Mismatch("an import succeeded", expected="a refusal", seen="success")
    device.exit_low_power()
    reach.require_back()
    importer.import_buffer(reach.buffer, IOVA)


@requirement("STATE-10")
def test_an_export_in_low_power_maps_after_its_exit(
    c_owner: Actor,
    ram: Function,
    ram_witness: RamBar,
    guest: Guest,
    importer: Device,
    finding: Finding,
) -> None:
    """A DMABUF exported in low power cannot be accessed or imported before the exit."""
    ram_witness.stamp(length=FRONT)
    device = c_owner.open(ram.address)
    assert c_owner.map(c_owner.export(device, RAM_BAR, SPAN)).pages() == SHOWN
    device.enter_low_power()
    guest.await_suspend(ram)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    try:
        early = c_owner.map(buffer)
    except Refused as refused:
        finding(f"mmap() of a DMABUF exported in low power is {refused.errno}.")
    else:
        finding("A DMABUF exported in low power can be mapped.")
        assert early.pages() == GONE
    assert outcome(lambda: importer.import_buffer(buffer, IOVA)) == "ENODEV"
    device.exit_low_power()
    assert c_owner.map(buffer).pages() == SHOWN


# -- resets ----------------------------------------------------------------------------


@requirement("STATE-03", "STATE-13")
@pytest.mark.parametrize("how", ["reset", "hot reset"])
def test_a_reset_keeps_memory_and_restores_access(
    c_owner: Actor, ram: Function, ram_witness: RamBar, via: str, how: str
) -> None:
    """After a reset every mapping is accessible; memory has kept its content, and a register is cleared."""
    ram_witness.stamp(length=FRONT)
    device = c_owner.open(ram.address, via)
    reach = Reach.of(device, RAM_BAR, SPAN)
    registers = c_owner.map(device, PAGE, bar=IVSHMEM_BAR)
    for _ in range(2):
        assert registers.store32(IVSHMEM_INTERRUPT_MASK, 0x5A) is None
        assert registers.load32(IVSHMEM_INTERRUPT_MASK) == 0x5A
        RESETS[how](device)
        for mapping in (reach.touched, registers):
            require_no_page(mapping)
        assert registers.load32(IVSHMEM_INTERRUPT_MASK) == 0
        assert device.read(IVSHMEM_BAR, IVSHMEM_INTERRUPT_MASK, 4) == 0
        reach.require_back()
    assert ram_witness.pages(START, LENGTH) == SHOWN


@requirement("STATE-03", "STATE-13", "STATE-14")
@machine(power=True)
@pytest.mark.parametrize("how", RESETS)
def test_a_reset_shows_registers_in_their_reset_state(c_owner: Actor, rng: Function, how: str) -> None:
    """After each kind of reset the same mappings show the registers in their reset state."""
    device = c_owner.open(rng.address)
    device.write(VIRTIO_BAR, VIRTIO_SELECT, 4, 0)  # a reset does not clear what another scenario wrote
    reach = Reach.of(device, VIRTIO_BAR, [Range(0, PAGE)])
    for used in (reach.touched, reach.untouched):
        assert used.store(8, VIRTIO_STATUS, 1) is None
        assert used.load(8, VIRTIO_STATUS) == 1
        assert device.read(VIRTIO_BAR, VIRTIO_STATUS, 1) == 1
        RESETS[how](device)
        require_no_page(reach.touched)
        assert reach.touched.load(8, VIRTIO_STATUS) == 0
        assert reach.untouched.load(8, VIRTIO_STATUS) == 0
        assert reach.touched.store32(VIRTIO_SELECT, 1) is None
        assert device.read(VIRTIO_BAR, VIRTIO_SELECT, 4) == 1
        assert reach.touched.store32(VIRTIO_SELECT, 0) is None
        reach.require_back()


COUNT = 100  # resets


@requirement("STATE-12")
@machine(parallel=True)
def test_an_access_during_a_reset_waits_or_is_sigbus(
    c_owner: Actor, registers: Function, finding: Finding
) -> None:
    """Loads in a loop during 100 resets give the identification or SIGBUS, and nothing else."""
    device = c_owner.open(registers.address)
    view = c_owner.map(device, PAGE, bar=0)
    buffer = c_owner.export(device, 0, [Range(0, PAGE)])
    client = c_owner.spawn("client", uid=NOBODY)
    client_mapping = client.map(c_owner.give(buffer, client))
    client_mapping.watch()
    view.watch()
    before, ours_before = client.minor_faults(), c_owner.minor_faults()
    for _ in range(COUNT):
        device.reset()
    waits, our_waits = client.minor_faults() - before, c_owner.minor_faults() - ours_before
    theirs, ours = client.watched(), c_owner.watched()
    finding(
        f"During {COUNT} resets the client's accesses to the DMABUF were SIGBUS {theirs.sigbus} times and "
        f"waited {waits} times; the owner's through the device were SIGBUS {ours.sigbus} times and waited "
        f"{our_waits} times."
    )
    for seen in (theirs, ours):
        assert seen.values == {EDU_MAGIC}, "loads during the resets saw other values than the register's"
        assert seen.sigsegv == 0, "loads during the resets raised SIGSEGV"
    if waits + theirs.sigbus < COUNT // 10:
        raise HarnessError(f"The client's loads met no more than {waits + theirs.sigbus} of {COUNT} resets.")


@requirement("STATE-13")
@machine(pair=True)
def test_a_hot_reset_zaps_all_devices_of_the_set(
    c_owner: Actor, pair: tuple[Function, Function], via: str
) -> None:
    """A hot reset by one of two functions zaps the DMABUFs of both, which are accessible afterwards."""
    first, second = pair
    device = c_owner.open(first.address, via)
    other = c_owner.join(device, second.address)
    assert c_owner.map(device, LENGTH, START, bar=RAM_BAR).stamp(seed=0x40) is None
    memory, registers = Reach.of(device, RAM_BAR, SPAN), Reach.of(other, VIRTIO_BAR, [Range(0, PAGE)])
    require_equal(list(memory.words), list(range(0x40, 0x40 + PAGES)))
    for one in (device, other):
        assert registers.touched.store(8, VIRTIO_STATUS, 1) is None
        one.hot_reset()
        for reach in (memory, registers):
            require_no_page(reach.touched)
        assert registers.touched.load(8, VIRTIO_STATUS) == 0
        assert registers.untouched.load(8, VIRTIO_STATUS) == 0
        for reach in (memory, registers):
            reach.require_back()


@requirement("STATE-13")
@machine(pair=True)
def test_a_hot_reset_does_not_need_all_devices_open(
    c_owner: Actor, pair: tuple[Function, Function], via: str
) -> None:
    """After a hot reset while the other function is closed, the DMABUFs of the first are accessible."""
    device = c_owner.open(pair[0].address, via)
    reach = Reach.of(device, RAM_BAR, SPAN)
    device.hot_reset()
    require_no_page(reach.touched)
    reach.require_back()


@requirement("STATE-13")
@machine(pair=True)
def test_a_hot_reset_without_proof_of_ownership_is_einval(
    c_owner: Actor, pair: tuple[Function, Function], ram: Function
) -> None:
    """A hot reset with another device's group as proof is EINVAL, and zaps no page."""
    first, second = pair
    device = c_owner.open(first.address)
    other, foreign = c_owner.join(device, second.address), c_owner.open(ram.address)
    reaches = [Reach.of(device, RAM_BAR, SPAN), Reach.of(other, VIRTIO_BAR, [Range(0, PAGE)])]
    for one in (device, other):
        assert outcome(partial(one.hot_reset, by=foreign)) == "EINVAL"
        for reach in reaches:
            reach.require_present()
        for reach in reaches:
            reach.require_back()
    device.hot_reset()
    for reach in reaches:
        reach.require_zapped()
    for reach in reaches:
        reach.require_back()


@requirement("STATE-13", "STATE-19")
@machine(pair=True)
def test_a_failed_hot_reset_restores_all_access(
    c_owner: Actor, pair: tuple[Function, Function], guest: Guest, via: str
) -> None:
    """A hot reset that cannot lock one of its devices is EAGAIN; the DMABUFs of both are accessible."""
    first, second = pair
    device = c_owner.open(first.address, via)
    other = c_owner.join(device, second.address)
    reaches = [Reach.of(device, RAM_BAR, SPAN), Reach.of(other, VIRTIO_BAR, [Range(0, PAGE)])]
    guest.begin_unbind(second)
    for one in (device, other):
        assert outcome(one.hot_reset) == "EAGAIN"
        for reach in reaches:
            reach.require_zapped()
        for reach in reaches:
            reach.require_back()


@requirement("STATE-13")
@machine(pair=True)
def test_a_hot_reset_during_another_restores_all_access(
    c_owner: Actor, pair: tuple[Function, Function], via: str
) -> None:
    """A hot reset during a reset of its second device is EBUSY; DMABUFs of the first are accessible."""
    first, second = pair
    device = c_owner.open(first.address, via)
    other = c_owner.join(device, second.address)
    reach = Reach.of(device, RAM_BAR, SPAN)
    registers = Reach.of(other, VIRTIO_BAR, [Range(0, PAGE)])
    busy = 0
    with other.resetting(count=10):
        for _ in range(5):
            busy += errno_of_hot_reset(device) == "EBUSY"
            reach.require_back()
    if not busy:
        raise HarnessError("No hot reset met a reset of the second device.")
    registers.require_back()
    device.hot_reset()
    for one in (reach, registers):
        one.require_back()


def errno_of_hot_reset(device: Device) -> str:
    """Make a hot reset; return its errno, empty if it succeeds."""
    try:
        device.hot_reset()
    except Refused as refused:
        return refused.errno
    return ""


@requirement("STATE-19")
@pytest.mark.parametrize("how", ["reset", "hot reset"])
def test_a_failed_reset_restores_all_access(
    c_owner: Actor, ram: Function, ram_witness: RamBar, guest: Guest, how: str
) -> None:
    """After a reset that cannot lock its device (EAGAIN) DMABUFs are accessible, unless memory is off."""
    ram_witness.stamp(length=FRONT)
    device = c_owner.open(ram.address)
    reach = Reach.of(device, RAM_BAR, SPAN)
    require_equal(list(reach.words), SHOWN)
    guest.begin_unbind(ram)
    for _ in range(2):
        assert outcome(lambda: RESETS[how](device)) == "EAGAIN"
        reach.require_zapped()
        reach.require_back()
    device.decode_memory(False)
    assert outcome(lambda: RESETS[how](device)) == "EAGAIN"
    reach.require_gone()
    device.decode_memory(True)
    reach.require_back()


@requirement("STATE-19")
@machine(pair=True)
def test_a_device_without_a_reset_keeps_all_access(c_owner: Actor, pair: tuple[Function, Function]) -> None:
    """The reset of a device without a reset of its own is EINVAL, and its DMABUFs stay accessible."""
    device = c_owner.open(pair[0].address)
    reach = Reach.of(device, RAM_BAR, SPAN)
    assert outcome(device.reset) == "EINVAL"
    reach.require_back()


# -- importers -------------------------------------------------------------------------


def require_import(device: Device, importer: Device, *, lands: bool) -> None:
    """Raise Mismatch unless a DMA of the importer to ``device``, a virtio device, arrives if it ``lands``."""
    device.write(VIRTIO_BAR, VIRTIO_SELECT, 4, SENTINEL)
    assert device.read(VIRTIO_BAR, VIRTIO_SELECT, 4) == SENTINEL
    Engine(importer).write(IOVA)
    arrived = device.read(VIRTIO_BAR, VIRTIO_SELECT, 4) != SENTINEL
    require(
        arrived == lands,
        f"a DMA through the import {'was lost' if lands else 'arrived'}",
        expected=f"a DMA that {'arrives' if lands else 'is lost'}",
        seen=f"one that {'arrived' if arrived else 'was lost'}",
    )


@requirement("STATE-17")
@machine(power=True)
def test_restoring_live_access_disturbs_no_importer(c_owner: Actor, rng: Function, importer: Device) -> None:
    """Memory on, D0 and low power exit keep a live import; an import that memory off ended stays ended."""
    device = c_owner.open(rng.address)
    buffer = c_owner.export(device, VIRTIO_BAR, [Range(0, PAGE)])
    view = View.of(c_owner.map(buffer))
    for _ in range(2):
        importer.import_buffer(buffer, IOVA)
        device.decode_memory(True)
        device.power(D0)
        device.exit_low_power()
        require_import(device, importer, lands=True)
        device.decode_memory(False)
        assert view.seen() == "SIGBUS"
        device.decode_memory(True)
        require_import(device, importer, lands=False)


NOTIFY = ("dma_buf_move_notify", "dma_buf_invalidate_mappings")  # the latter since 7.0


def notifications(owner: Actor, act: Callable[[], object]) -> int:
    """Return how often the kernel notifies importers during ``act``."""
    for name in NOTIFY:
        try:
            owner.count(name)
        except Refused as refused:
            if refused.errno == "EINVAL":
                pytest.skip(
                    "this kernel has no breakpoints in its own code: CONFIG_KPROBES, as in debug.config"
                )
            continue
        act()
        return owner.end_count()
    raise HarnessError(f"The kernel has none of {', '.join(NOTIFY)}.")


@requirement("STATE-17")
def test_importers_are_notified_of_the_begin_only(c_owner: Actor, ram: Function, importer: Device) -> None:
    """Memory off, low power entry and a reset notify importers once per DMABUF; memory on and exit do not."""
    device = c_owner.open(ram.address)
    buffers = [c_owner.export(device, RAM_BAR, SPAN) for _ in range(2)]
    require_data(c_owner.map(buffers[0]))
    importer.import_buffer(buffers[0], IOVA)
    for begin, end in (
        (lambda: device.decode_memory(False), lambda: device.decode_memory(True)),
        (device.enter_low_power, device.exit_low_power),
        (device.reset, lambda: device.decode_memory(True)),
    ):
        told = notifications(c_owner, begin), notifications(c_owner, end)
        assert told == (len(buffers), 0), "importers were not told of the begin alone, once per DMABUF"
