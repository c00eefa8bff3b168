"""REV: a revoke ends all access through one DMABUF, and nothing else.

Every scenario maps a DMABUF first.  On a kernel that maps none, SIGBUS after a revoke
proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import (
    require_data,
    require_gone,
    require_mapped,
    require_no_page,
    require_pages,
    require_readable,
    require_refusal,
)
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.ioctl import VFIO_DEVICE_FEATURE
from harness.actor.mismatch import Mismatch
from harness.actor.reply import BUS_ADRERR, Sigbus, outcome
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, on_dialect, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import (
    D0,
    D3HOT,
    DMA_BUF_IOCTL_REVOKE,
    EDU_IDENTIFICATION,
    EDU_LIVENESS,
    EDU_MAGIC,
    IOVA,
    MIB,
    NOBODY,
    RAM_BAR,
    VFIO_DEVICE_PCI_DMABUF_REVOKE,
    VIRTIO_BAR,
)
from suites.support.fixtures import Finding, MemoryDevice
from suites.support.store_oracle import (
    OURS,
    THEIRS,
    Oracle,
    landed,
    require_none_landed,
    require_sigbus_alone,
)

PAGES = 16
START = 3 * PAGE
LENGTH = PAGES * PAGE
SPAN = [Range(START, LENGTH)]
GONE = [Sigbus(BUS_ADRERR, page * PAGE) for page in range(PAGES)]
PARTS = [(0, "rw"), (0, "r"), (LENGTH - PAGE, "rw")]  # offset and protection of a page

STORES = 50_000  # of a client after a revoke; none may land
ROUNDS = 50  # of first touches concurrent with a revoke
TOGETHER = 1_000  # DMABUFs, each revoked by two threads at once


def give_to_client(owner: Actor, buffer: Buffer, uid: int | None = NOBODY) -> Buffer:
    """Give the DMABUF to a new client, a process of another user that has nothing else; return its copy."""
    return owner.give(buffer, owner.spawn("client", uid=uid))


def mapped(buffer: Buffer) -> Mapping:
    """Map the whole DMABUF in the process that has it."""
    return buffer.actor.map(buffer)


@contextmanager
def memory_off(device: Device) -> Iterator[None]:
    """Turn memory decoding off for the time of the body."""
    device.decode_memory(False)
    yield
    device.decode_memory(True)


# -- existing mappings -----------------------------------------------------------------


@requirement("REV-01")
def test_loads_and_stores_are_sigbus_at_their_address(
    owner: Actor, ram: Function, ram_witness: RamBar, via: str
) -> None:
    """After a revoke a load or store is SIGBUS at its address, in touched and in untouched pages."""
    buffer = owner.export(owner.open(ram.address, via), RAM_BAR, [Range(START, 4 * PAGE)])
    touched, untouched = mapped(buffer), mapped(buffer)
    assert touched.stamp(seed=0x10) is None
    require_mapped(touched)
    owner.revoke(buffer)
    require_no_page(touched)
    for mapping in (touched, untouched):
        assert mapping.pages() == GONE[:4]
        for place in (8, 4 * PAGE - 4):
            assert mapping.store32(place, 0xBAD) == Sigbus(BUS_ADRERR, place)
    assert ram_witness.pages(START, 4 * PAGE) == [0x10, 0x11, 0x12, 0x13]


@requirement("REV-01")
def test_registers_are_sigbus_after_a_revoke(owner: Actor, registers: Function) -> None:
    """A register that was accessible before a revoke is SIGBUS after it, and keeps its value."""
    device = owner.open(registers.address)
    buffer = owner.export(device, 0, [Range(0, PAGE)])
    mapping = mapped(buffer)
    assert mapping.load32(EDU_IDENTIFICATION) == EDU_MAGIC
    assert mapping.store32(EDU_LIVENESS, 0x12345678) is None
    owner.revoke(buffer)
    assert mapping.load32(EDU_IDENTIFICATION) == Sigbus(BUS_ADRERR, EDU_IDENTIFICATION)
    assert mapping.store32(EDU_LIVENESS, 0) == Sigbus(BUS_ADRERR, EDU_LIVENESS)
    assert device.read(0, EDU_LIVENESS, 4) == 0xEDCBA987


@requirement("REV-01")
def test_every_width_of_access_is_sigbus(c_owner: Actor, memory: MemoryDevice) -> None:
    """After a revoke loads and stores of 8 to 64 bits are SIGBUS at their address."""
    buffer = c_owner.export(c_owner.open(memory.function.address), memory.bar, SPAN)
    touched, untouched = mapped(buffer), mapped(buffer)
    place = 5 * PAGE + 0x7F8
    for bits in (8, 16, 32, 64):
        assert touched.store(bits, place, bits) is None
    c_owner.revoke(buffer)
    for mapping in (touched, untouched):
        for bits in (8, 16, 32, 64):
            assert mapping.load(bits, place) == Sigbus(BUS_ADRERR, place)
            assert mapping.store(bits, place, 0) == Sigbus(BUS_ADRERR, place)


@requirement("REV-01")
@machine(parallel=True)
def test_every_word_of_every_mapping_is_sigbus(c_owner: Actor, ram: Function) -> None:
    """After a revoke each word is SIGBUS at its address, to owner and client, in every mapping."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    touched, untouched = mapped(buffer), mapped(buffer)
    client_buffer = give_to_client(c_owner, buffer)
    client_mapping, half = (
        mapped(client_buffer),
        client_buffer.actor.map(client_buffer, LENGTH // 2, LENGTH // 2),
    )
    for mapping in (touched, client_mapping, half):
        assert mapping.stamp() is None
    c_owner.revoke(buffer)
    for mapping in (touched, untouched, client_mapping, half):
        assert mapping.pages() == GONE[: mapping.length // PAGE]
        hammer = mapping.hammer(THEIRS, access="both")
        hammer.counts(more=hammer.accesses_per_round)
        (blows,) = hammer.stop()
        require_none_landed([], [blows])
        require_sigbus_alone([blows], hammer.accesses_per_round)


@requirement("REV-01")
def test_a_forked_child_has_sigbus_too(c_owner: Actor, ram: Function) -> None:
    """After a revoke a mapping inherited by fork() is SIGBUS, like the parent's."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    mapping = mapped(buffer)
    child = c_owner.fork("child")
    inherited = child.adopt(mapping)
    assert inherited.stamp(seed=7) is None
    assert mapping.pages() == list(range(7, 7 + PAGES))
    c_owner.revoke(buffer)
    require_gone(mapping, inherited)


@requirement("REV-09")
def test_a_revoke_keeps_the_vma_in_place(c_owner: Actor, memory: MemoryDevice) -> None:
    """A revoke leaves the VMA as it was, and the VMA can be unmapped in part and as a whole."""
    buffer = c_owner.export(c_owner.open(memory.function.address), memory.bar, SPAN)
    mapping = mapped(buffer)
    assert mapping.stamp() is None
    before = c_owner.vmas(mapping)
    assert [(vma.start, vma.end) for vma in before] == [(0, LENGTH)]
    c_owner.revoke(buffer)
    assert c_owner.vmas(mapping) == before
    mapping.unmap(4 * PAGE, PAGE)
    assert [(vma.start, vma.end) for vma in c_owner.vmas(mapping)] == [
        (0, 4 * PAGE),
        (5 * PAGE, LENGTH),
    ]
    assert mapping.load32(3 * PAGE) == GONE[3]
    assert mapping.load32(5 * PAGE) == GONE[5]
    mapping.unmap()


@requirement("REV-18")
@pytest.mark.parametrize(("role", "bar", "place"), [("registers", 0, EDU_LIVENESS), ("ram", RAM_BAR, START)])
def test_system_calls_on_a_revoked_mapping_are_efault(
    c_owner: Actor, request: pytest.FixtureRequest, role: str, bar: int, place: int
) -> None:
    """write() from a revoked mapping, and read() into it, are EFAULT."""
    device = c_owner.open(request.getfixturevalue(role).address)
    view = c_owner.map(device, bar=bar)
    buffer = c_owner.export(device, bar, [Range(0, LENGTH)])
    touched, untouched = mapped(buffer), mapped(buffer)
    assert touched.copy_in(place, THEIRS) == 4
    assert len(touched.copy_out(place)) == 4, "write() from the mapping copied another number of bytes"
    c_owner.revoke(buffer)
    assert view.store32(place, OURS) is None
    kept = view.load32(place)
    for mapping in (touched, untouched):
        assert outcome(partial(mapping.copy_out, place)) == "EFAULT"
        assert outcome(partial(mapping.copy_in, place, THEIRS)) == "EFAULT"
    assert view.load32(place) == kept


# -- stores concurrent with a revoke ---------------------------------------------------


@requirement("REV-02")
@pytest.mark.parametrize(
    ("via", "threads"), [("group", 1), ("cdev", 4)], ids=["group, one thread", "cdev, four threads"]
)
@machine(parallel=True)
def test_no_store_lands_after_a_revoke(
    c_owner: Actor, ram: Function, ram_witness: RamBar, via: str, threads: int
) -> None:
    """None of 50 000 stores and loads that a client tries after a revoke reaches the range."""
    device = c_owner.open(ram.address, via)
    oracle = Oracle(c_owner.map(device, LENGTH, START, bar=RAM_BAR), ram_witness, START, PAGE)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client_mapping = mapped(give_to_client(c_owner, buffer))
    first, *others = c_owner.cpus()
    c_owner.pin(first)
    cpus = others if threads == 1 else [first, *others]
    hammer = client_mapping.hammer(THEIRS, access="both", threads=threads, cpus=cpus, stride=PAGE)
    oracle.require_reach(hammer)
    assert c_owner.reclaim(buffer, oracle.view, OURS, stride=PAGE) is None
    before = hammer.counts(more=1)
    after = hammer.counts(more=STORES // threads)
    require_none_landed(before, after)
    oracle.require_undisturbed()


@requirement("REV-02", "HUGE-07")
@machine(parallel=True)
def test_no_store_lands_in_a_revoked_huge_page(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """None of 50 000 stores that a client tries after a revoke reaches what it had mapped by huge pages."""
    device = c_owner.open(ram.address)
    oracle = Oracle(c_owner.map(device, 4 * MIB, 4 * MIB, bar=RAM_BAR), ram_witness, 4 * MIB, PAGE)
    buffer = c_owner.export(device, RAM_BAR, [Range(4 * MIB, 4 * MIB)])
    client_buffer = give_to_client(c_owner, buffer, uid=None)  # only root sees its own page table
    client_mapping = client_buffer.actor.map(client_buffer, align=2 * MIB, congruent=0)
    client_mapping.advise("hugepage")
    first, *others = c_owner.cpus()
    c_owner.pin(first)
    hammer = client_mapping.hammer(THEIRS, cpus=others, stride=PAGE)
    oracle.require_reach(hammer)
    require_mapped(client_mapping, "pmd")
    assert c_owner.reclaim(buffer, oracle.view, OURS, stride=PAGE) is None
    before = hammer.counts(more=1)
    after = hammer.counts(more=STORES)
    require_none_landed(before, after)
    require_no_page(client_mapping)
    oracle.require_undisturbed()


@requirement("REV-02")
@machine(parallel=True)
def test_no_store_reaches_a_register_after_a_revoke(c_owner: Actor, registers: Function) -> None:
    """None of 50 000 stores to a register that a client tries after a revoke reaches it."""
    device = c_owner.open(registers.address)
    view = c_owner.map(device, PAGE, bar=0)
    buffer = c_owner.export(device, 0, [Range(0, PAGE)])
    client_mapping = mapped(give_to_client(c_owner, buffer))
    first, *others = c_owner.cpus()
    c_owner.pin(first)
    assert view.store32(EDU_LIVENESS, 0) is None
    hammer = client_mapping.hammer(THEIRS, offset=EDU_LIVENESS, length=4, cpus=others)
    hammer.counts(more=1)
    if device.read(0, EDU_LIVENESS, 4) != THEIRS ^ 0xFFFFFFFF:
        raise HarnessError("The client was to reach the register before the revoke, but it does not.")
    assert c_owner.reclaim(buffer, view, OURS, offset=EDU_LIVENESS, stride=PAGE) is None
    before = hammer.counts(more=1)
    after = hammer.counts(more=STORES)
    require_none_landed(before, after)
    assert view.load32(EDU_LIVENESS) == OURS ^ 0xFFFFFFFF
    assert device.read(0, EDU_LIVENESS, 4) == OURS ^ 0xFFFFFFFF


@requirement("REV-02")
@machine(parallel=True)
def test_first_touches_do_not_outlive_a_revoke(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """In 50 rounds of a revoke while three threads touch new pages, no page stays accessible."""
    pages = 16 * MIB // PAGE
    device = c_owner.open(ram.address)
    view = c_owner.map(device, pages * PAGE, bar=RAM_BAR)
    early = 0  # revokes before all pages had been touched
    for moment in range(ROUNDS):
        buffer = c_owner.export(device, RAM_BAR, [Range(0, pages * PAGE)])
        mapping = mapped(buffer)
        hammer = mapping.hammer(THEIRS, threads=3, stride=PAGE, held=True)
        tries = 1 + moment * pages // ROUNDS
        assert c_owner.reclaim(buffer, view, OURS, stride=PAGE, release=hammer, tries=tries) is None
        early += landed(hammer.stop()) < pages
        require_no_page(mapping)
        kept = set(ram_witness.pages(0, pages * PAGE))
        assert kept == {OURS}, "a store still reached the device's memory"
        mapping.unmap()
        buffer.close()
    if not early:
        raise HarnessError("No revoke came before all pages had been touched, so the race was not tried.")


@requirement("REV-13", "REV-02")
@pytest.mark.parametrize("threads", [1, 4], ids=["one thread", "four threads"])
@machine(parallel=True)
def test_a_revoke_waits_for_no_client(
    c_owner: Actor, ram: Function, ram_witness: RamBar, one_second: int, threads: int
) -> None:
    """A revoke returns within a second while the client is stopped in its stores, which then are SIGBUS."""
    device = c_owner.open(ram.address)
    oracle = Oracle(c_owner.map(device, LENGTH, START, bar=RAM_BAR), ram_witness, START)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client_mapping = mapped(give_to_client(c_owner, buffer))
    hammer = client_mapping.hammer(THEIRS, threads=threads)
    oracle.require_reach(hammer)
    c_owner.signal(client_mapping.actor, "stop")
    assert c_owner.reclaim(buffer, oracle.view, OURS, deadline=one_second) is None
    c_owner.signal(client_mapping.actor, "cont")
    before = hammer.counts(more=1)
    after = hammer.counts(more=hammer.accesses_per_round)
    require_none_landed(before, after)
    require_sigbus_alone(after, hammer.accesses_per_round)
    oracle.require_undisturbed()
    assert client_mapping.pages() == GONE


# -- a revoke is permanent -------------------------------------------------------------


@requirement("REV-03", "REV-04")
def test_mmap_and_revoke_of_a_revoked_dmabuf_are_refused(
    owner: Actor, memory: MemoryDevice, via: str, finding: Finding
) -> None:
    """mmap() of a revoked DMABUF is refused, and a second revoke is EBADFD and changes nothing."""
    device = owner.open(memory.function.address, via)
    buffer, other = (owner.export(device, memory.bar, SPAN) for _ in range(2))
    mapping, kept = mapped(buffer), mapped(other)
    assert mapping.stamp(seed=5) is None
    owner.revoke(buffer)
    for _ in range(2):
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    errnos = {outcome(partial(owner.map, buffer, PAGE, *part)) for part in PARTS}
    finding(f"mmap() of a revoked DMABUF is {' or '.join(sorted(errnos))}.")
    assert mapping.load32(0) == GONE[0]
    assert kept.pages() == list(range(5, 5 + PAGES))
    assert buffer.seek() == LENGTH


@requirement("REV-03")
def test_a_client_cannot_map_a_revoked_buffer(c_owner: Actor, ram: Function) -> None:
    """A client that got a DMABUF before or after a revoke cannot map it after the revoke."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    client_buffer = give_to_client(c_owner, buffer)
    assert mapped(client_buffer).stamp() is None
    c_owner.revoke(buffer)
    late = c_owner.give(buffer, c_owner.spawn("late", uid=NOBODY))
    for held in (client_buffer, late):
        require_refusal(partial(mapped, held))


@requirement("RACE-02", "REV-04")
@machine(parallel=True)
def test_of_concurrent_revokes_one_succeeds(c_owner: Actor, ram: Function) -> None:
    """Two threads revoke a DMABUF at once, 1,000 times: one succeeds, the other gets EBADFD."""
    device = c_owner.open(ram.address)
    require_data(mapped(c_owner.export(device, RAM_BAR, SPAN)))
    answers = c_owner.race(device, "revoke", RAM_BAR, LENGTH, TOGETHER)
    if answers != {"done": TOGETHER, "EBADFD": TOGETHER}:
        clause = "of two revokes at once not one alone succeeded"
        raise Mismatch(
            clause,
            expected=f"{TOGETHER} done, {TOGETHER} EBADFD",
            seen=", ".join(f"{count} {answer}" for answer, count in answers.items()),
            wanted=f"ok done={TOGETHER} EBADFD={TOGETHER}",
            compared=clause,  # how many differs from run to run
        )


@requirement("REV-06")
@pytest.mark.parametrize("how", ["dup", "fcntl", "sent"])
def test_a_revoke_by_any_descriptor_ends_all_mappings(c_owner: Actor, ram: Function, how: str) -> None:
    """A revoke by a duplicate, or by a descriptor that came back from a client, ends every mapping."""
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client_buffer = give_to_client(c_owner, buffer)
    copy = c_owner.take(client_buffer, device) if how == "sent" else buffer.dup(how)
    mappings = [mapped(buffer), mapped(copy), mapped(client_buffer)]
    for mapping in mappings:
        assert mapping.stamp() is None
    c_owner.revoke(copy)
    require_gone(*mappings)
    for held in (buffer, copy):
        assert outcome(partial(c_owner.revoke, held)) == "EBADFD"
    for held in (buffer, copy, client_buffer):
        require_refusal(partial(mapped, held))


@requirement("REV-06")
def test_a_duplicate_revokes_what_the_first_mapped(owner: Actor, memory: MemoryDevice) -> None:
    """A revoke by a duplicate ends a mapping of the first descriptor, which is closed before."""
    buffer = owner.export(owner.open(memory.function.address), memory.bar, SPAN)
    mapping, copy = mapped(buffer), buffer.dup()
    assert mapping.stamp() is None
    buffer.close()
    assert mapping.load32(PAGE) == 1
    owner.revoke(copy)
    assert mapping.load32(PAGE) == GONE[1]
    require_refusal(lambda: mapped(copy))


@requirement("REV-07")
def test_an_unused_dmabuf_can_be_revoked(owner: Actor, memory: MemoryDevice) -> None:
    """A DMABUF without mapping and importer can be revoked, also one that was never mapped."""
    device = owner.open(memory.function.address)
    unmapped, fresh = (owner.export(device, memory.bar, SPAN) for _ in range(2))
    mapping = mapped(unmapped)
    require_data(mapping)
    mapping.unmap()
    for buffer in (unmapped, fresh):
        owner.revoke(buffer)
        require_refusal(partial(mapped, buffer))
        assert outcome(partial(owner.revoke, buffer)) == "EBADFD"


@requirement("REV-17")
def test_an_imported_dmabuf_can_be_revoked(c_owner: Actor, ram: Function, importer: Device) -> None:
    """A DMABUF that iommufd has imported for another device can be revoked."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    importer.import_buffer(buffer, IOVA)
    c_owner.revoke(buffer)
    assert outcome(lambda: c_owner.revoke(buffer)) == "EBADFD"


@requirement("REV-08", "REV-05")
def test_a_revoke_while_memory_is_off_is_permanent(owner: Actor, ram: Function) -> None:
    """A DMABUF that is revoked while memory is off stays SIGBUS when it is on; another becomes accessible."""
    device = owner.open(ram.address)
    buffer, other = (owner.export(device, RAM_BAR, SPAN) for _ in range(2))
    mapping, control = mapped(buffer), mapped(other)
    assert mapping.stamp(seed=9) is None
    with memory_off(device):
        assert control.load32(0) == GONE[0]
        assert mapping.load32(0) == GONE[0]
        owner.revoke(buffer)
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    assert control.pages() == list(range(9, 9 + PAGES))
    assert mapping.load32(PAGE) == GONE[1]
    require_refusal(lambda: mapped(buffer))
    assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"


@contextmanager
def low_power(device: Device) -> Iterator[None]:
    """Let the device be suspended for the time of the body."""
    device.enter_low_power()
    yield
    device.exit_low_power()


@contextmanager
def d3hot(device: Device) -> Iterator[None]:
    """Keep the device in D3hot for the time of the body."""
    device.power(D3HOT)
    yield
    device.power(D0)


def check_stays_revoked(
    device: Device, bar: int, spans: list[Range], suspend: Callable[[Mapping], None]
) -> None:
    """Check that ``suspend`` ends access to a control DMABUF temporarily, and restores no revoked one."""
    owner = device.actor
    revoked, other = (owner.export(device, bar, spans) for _ in range(2))
    mapping, control = mapped(revoked), mapped(other)
    pages = control.pages()
    require_readable(control)
    assert mapping.pages() == pages
    owner.revoke(revoked)
    suspend(control)
    require_no_page(control)
    assert control.pages() == pages
    assert mapping.pages() == GONE[: len(pages)]
    assert mapping.store32(0, 0) == GONE[0]
    require_refusal(lambda: mapped(revoked))
    assert outcome(lambda: owner.revoke(revoked)) == "EBADFD"


@requirement("REV-05")
@pytest.mark.parametrize("suspended", [memory_off, low_power], ids=["memory off", "low power"])
def test_no_end_of_a_suspension_restores_a_revoked_dmabuf(
    c_owner: Actor, ram: Function, suspended: Callable[[Device], AbstractContextManager[None]]
) -> None:
    """A revoked DMABUF stays SIGBUS when memory is off and on again, and when low power ends."""

    def suspend(control: Mapping) -> None:
        with suspended(device):
            assert control.load32(0) == GONE[0]

    device = c_owner.open(ram.address)
    check_stays_revoked(device, RAM_BAR, SPAN, suspend)


@requirement("REV-05")
@pytest.mark.parametrize("reset", [Device.reset, Device.hot_reset], ids=["reset", "hot reset"])
def test_no_reset_restores_a_revoked_dmabuf(
    c_owner: Actor, ram: Function, via: str, reset: Callable[[Device], None]
) -> None:
    """A revoked DMABUF stays SIGBUS after VFIO_DEVICE_RESET, and after a hot reset."""
    device = c_owner.open(ram.address, via)
    check_stays_revoked(device, RAM_BAR, SPAN, lambda control: reset(device))


@requirement("REV-05")
@machine(power=True)
def test_no_power_change_restores_a_revoked_dmabuf(c_owner: Actor, rng: Function) -> None:
    """A revoked DMABUF stays SIGBUS when the device returns to D0 from D3hot."""

    def suspend(control: Mapping) -> None:
        with d3hot(device):
            assert control.load32(0) == GONE[0]

    device = c_owner.open(rng.address)
    check_stays_revoked(device, VIRTIO_BAR, [Range(0, PAGE)], suspend)


@requirement("REV-05")
@machine(power=True)
@pytest.mark.parametrize("reset", [Device.reset, Device.reset_function], ids=["ioctl", "config space"])
def test_no_function_level_reset_restores_a_revoked_dmabuf(
    c_owner: Actor, rng: Function, reset: Callable[[Device], None]
) -> None:
    """A revoked DMABUF stays SIGBUS after a function-level reset."""
    device = c_owner.open(rng.address)
    check_stays_revoked(device, VIRTIO_BAR, [Range(0, PAGE)], lambda control: reset(device))


# -- who can revoke which DMABUF -------------------------------------------------------


@requirement("REV-10")
@on_dialect("feature", "device-ioctl")
def test_a_client_cannot_revoke(c_owner: Actor, ram: Function) -> None:
    """An ioctl that revokes is ENOTTY on the DMABUF, for client and owner, and all mappings stay."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    client_buffer = give_to_client(c_owner, buffer)
    mapping, client_mapping = mapped(buffer), mapped(client_buffer)
    assert mapping.stamp(seed=3) is None
    for held in (client_buffer, buffer):
        for request in (DMA_BUF_IOCTL_REVOKE, VFIO_DEVICE_FEATURE, VFIO_DEVICE_PCI_DMABUF_REVOKE):
            assert outcome(partial(held.ioctl, request)) == "ENOTTY"
    require_pages(list(range(3, 3 + PAGES)), client_mapping, mapping, mapped(client_buffer))
    c_owner.revoke(buffer)
    require_gone(client_mapping, mapping)


@requirement("REV-10")
@on_dialect("ioctl")
def test_any_holder_can_revoke(c_owner: Actor, ram: Function) -> None:
    """A client without the device can revoke the DMABUF: the mappings of owner and client are SIGBUS."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    client_buffer = give_to_client(c_owner, buffer)
    mapping, client_mapping = mapped(buffer), mapped(client_buffer)
    assert mapping.stamp(seed=3) is None
    assert client_mapping.pages() == list(range(3, 3 + PAGES))
    client_buffer.ioctl(DMA_BUF_IOCTL_REVOKE)
    require_gone(client_mapping, mapping)
    assert outcome(lambda: c_owner.revoke(buffer)) == "EBADFD"


@requirement("REV-11")
@on_dialect("ioctl")
@pytest.mark.parametrize("kind", ["udmabuf", "heap"])
def test_a_revoke_ioctl_of_another_exporter_is_einval(c_owner: Actor, kind: str) -> None:
    """The ioctl that revokes is EINVAL on a DMABUF of another exporter, which stays mapped."""
    buffer = c_owner.make(kind, LENGTH)
    mapping = mapped(buffer)
    assert mapping.stamp(seed=1) is None
    assert outcome(lambda: buffer.ioctl(DMA_BUF_IOCTL_REVOKE)) == "EINVAL"
    require_pages(list(range(1, 1 + PAGES)), mapping, mapped(buffer))


@requirement("REV-12")
@on_dialect("feature", "device-ioctl")
def test_a_device_revokes_only_what_it_exported(owner: Actor, ram: Function, second_ram: Function) -> None:
    """A revoke of another device's DMABUF is ENODEV and keeps it mapped; its own device can revoke it."""
    device, other = owner.open(ram.address), owner.open(second_ram.address)
    buffer, foreign = owner.export(device, RAM_BAR, SPAN), owner.export(other, RAM_BAR, SPAN)
    mapping, untouched = mapped(foreign), mapped(foreign)
    assert mapping.stamp(seed=2) is None
    assert outcome(lambda: owner.revoke(foreign, device=device)) == "ENODEV"
    require_pages(list(range(2, 2 + PAGES)), mapping, untouched, mapped(foreign))
    require_data(mapped(buffer))
    owner.revoke(foreign, device=other)
    assert mapping.load32(PAGE) == GONE[1]
    require_data(mapped(buffer))


@requirement("REV-12")
@on_dialect("feature", "device-ioctl")
@pytest.mark.parametrize("kind", ["udmabuf", "heap"])
def test_a_revoke_of_another_exporters_dmabuf_is_enodev(c_owner: Actor, ram: Function, kind: str) -> None:
    """A revoke of a DMABUF that VFIO did not export is ENODEV and keeps it mapped."""
    device = c_owner.open(ram.address)
    require_data(mapped(c_owner.export(device, RAM_BAR, SPAN)))
    buffer = c_owner.make(kind, LENGTH)
    mapping = mapped(buffer)
    assert mapping.stamp(seed=1) is None
    assert outcome(lambda: c_owner.revoke(buffer, device=device)) == "ENODEV"
    require_pages(list(range(1, 1 + PAGES)), mapping, mapped(buffer))


# -- other DMABUFs ---------------------------------------------------------------------


@requirement("REV-15")
def test_a_revoke_costs_another_dmabuf_no_fault(c_owner: Actor, ram: Function) -> None:
    """A revoke causes no page fault in another DMABUF of the same bytes, and keeps its page table."""
    device = c_owner.open(ram.address)
    buffer, other = (c_owner.export(device, RAM_BAR, SPAN) for _ in range(2))
    mapping = mapped(buffer)
    assert mapping.stamp() is None
    other_mapping = mapped(give_to_client(c_owner, other, uid=None))  # only root sees its own page table

    if not other_mapping.touch():
        raise HarnessError("The first touches of the other mapping were to be page faults, but are not.")
    require_mapped(other_mapping)
    assert other_mapping.touch() == 0
    c_owner.revoke(buffer)
    require_mapped(other_mapping)
    assert other_mapping.touch() == 0
    assert other_mapping.pages() == list(range(PAGES))


@requirement("REV-16")
def test_other_dmabufs_stay_and_follow_the_device(owner: Actor, memory: MemoryDevice) -> None:
    """After a revoke of one of three DMABUFs the others are accessible, but not while memory is off."""
    device, bar = owner.open(memory.function.address), memory.bar
    buffers = [owner.export(device, bar, [Range(n * LENGTH, LENGTH)]) for n in range(3)]
    first, middle, last = mappings = [mapped(buffer) for buffer in buffers]
    for number, mapping in enumerate(mappings):
        assert mapping.stamp(seed=0x100 * number) is None
    owner.revoke(buffers[1])

    def require_others() -> None:
        require_pages(range(PAGES), first)
        require_pages(range(0x200, 0x200 + PAGES), last)

    require_others()
    with memory_off(device):
        for mapping in mappings:
            assert mapping.load32(PAGE) == GONE[1]
    require_others()
    assert middle.load32(PAGE) == GONE[1]
    for number in (0, 2):
        require_data(mapped(buffers[number]))
        owner.revoke(buffers[number])
        assert mappings[number].load32(0) == GONE[0]
