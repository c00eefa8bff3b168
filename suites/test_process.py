"""MP: other processes that get a DMABUF, by sockets, fork() or exec(); a revoke ends their mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_gone, require_no_page, require_pages
from harness.actor.handles import Buffer, Range
from harness.actor.ioctl import call
from harness.actor.mm import open_mapped_file, shared_files
from harness.actor.processes import leave, orphan, receive, seized, send
from harness.actor.reply import BUS_ADRERR, Refused, Sigbus, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.guest.health import count_dmabufs
from harness.plugin.markers import machine, needs_option, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import FRONT, MIB, NOBODY, RAM_BAR
from suites.support.fixtures import Finding, Start
from suites.support.store_oracle import OURS, THEIRS, Oracle, require_none_landed, require_sigbus_alone

START = 3 * PAGE
PAGES = 8
LENGTH = PAGES * PAGE
SPAN = [Range(START, LENGTH)]
GONE = [Sigbus(BUS_ADRERR, page * PAGE) for page in range(PAGES)]

# include/uapi/linux/vfio.h, iommufd.h: all _IO(';', n)
VFIO_IOCTLS = range(0x3B64, 0x3B80)
IOMMUFD_IOCTLS = range(0x3B80, 0x3B96)


def stamped(seed: int = 0) -> list[int]:
    """Return the pages of a mapping of SPAN that was stamped with this seed."""
    return list(range(seed, seed + PAGES))


# -- clients ---------------------------------------------------------------------------


@requirement("MP-01")
def test_a_client_sees_the_exported_pages_alone(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """A client with a DMABUF maps its pages, and nothing else of the device."""
    ram_witness.stamp(length=FRONT)
    device = owner.open(ram.address)
    owner.map(device, bar=RAM_BAR)
    parts = [Range(40 * PAGE, 2 * PAGE), Range(7 * PAGE, PAGE), Range(0, PAGE)]
    client = owner.spawn("client", uid=NOBODY)
    client_buffer = owner.give(owner.export(device, RAM_BAR, parts), client)
    assert client.map(client_buffer).pages() == [40, 41, 7, 0]
    assert client.map(client_buffer, PAGE, 3 * PAGE).pages() == [0]
    for length, offset in ((5 * PAGE, 0), (PAGE, 4 * PAGE), (2 * PAGE, 3 * PAGE), (PAGE, ram.bars[RAM_BAR])):
        assert outcome(partial(client.map, client_buffer, length, offset)) == "EINVAL"
    of_the_system = shared_files(client, lambda name: name.startswith("/usr/"))
    assert of_the_system == {"/dmabuf:": 5 * PAGE}


@requirement("MP-02")
def test_a_revoke_ends_the_mappings_of_every_holder(owner: Actor, ram: Function) -> None:
    """A revoke ends the mappings of the client, of its child, and of a third process that got the DMABUF."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    client = owner.spawn("client", uid=NOBODY)
    client_buffer = owner.give(buffer, client)
    inherited = replace(client_buffer, actor=client.fork("child"))
    back = owner.take(client_buffer)
    third = owner.give(back, owner.fork("third"))
    held = (buffer, client_buffer, inherited, back, third)
    mappings = [one.actor.map(one) for one in held]
    for mapping in mappings:
        assert mapping.stamp(seed=0x30) is None
    owner.revoke(buffer)
    require_gone(*mappings)
    for one in held:
        assert outcome(partial(one.actor.map, one)) == "ENODEV"


# -- fork() ----------------------------------------------------------------------------


@requirement("MP-03")
def test_a_forked_child_has_the_mapping_until_the_revoke(owner: Actor, ram: Function) -> None:
    """A child has its parent's mapping until the revoke, in pages touched before the fork and others."""
    device = owner.open(ram.address)
    assert owner.map(device, LENGTH, START, bar=RAM_BAR).stamp(seed=0x50) is None
    buffer = owner.export(device, RAM_BAR, SPAN)
    touched, untouched = owner.map(buffer), owner.map(buffer)
    assert touched.pages() == stamped(0x50)
    child = owner.fork("child")
    inherited = [child.adopt(touched), child.adopt(untouched)]
    for mapping in inherited:
        assert mapping.pages() == stamped(0x50)
    owner.revoke(buffer)
    for mapping in (touched, untouched, *inherited):
        assert mapping.pages() == GONE


@requirement("MP-03")
def test_a_forked_child_takes_no_fault_for_touched_pages(c_owner: Actor, ram: Function) -> None:
    """fork() copies the page-table entries, so the child reads touched pages without a fault."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    mapping = c_owner.map(buffer)
    assert mapping.touch() == PAGES
    inherited = c_owner.fork("child").adopt(mapping)
    assert inherited.page_table().mapped("pte") == LENGTH
    assert inherited.touch() == 0
    c_owner.revoke(buffer)
    require_no_page(inherited)
    require_no_page(mapping)
    assert inherited.pages() == GONE


@requirement("MP-03", "HUGE-07")
def test_huge_pages_are_inherited_and_revoked(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """A child that inherits huge pages reads the right pages, and none after the revoke."""
    ram_witness.stamp(length=FRONT)
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, [Range(4 * MIB, 4 * MIB)])
    mapping = c_owner.map(buffer, align=2 * MIB, congruent=0)
    mapping.advise("hugepage")
    pages = 4 * MIB // PAGE
    expected = list(range(pages, 2 * pages))
    assert mapping.pages() == expected
    assert mapping.page_table().mapped("pmd") == 4 * MIB
    inherited = c_owner.fork("child").adopt(mapping)
    assert inherited.pages() == expected
    c_owner.revoke(buffer)
    for one in (mapping, inherited):
        require_no_page(one)
        assert one.at([0, 2 * MIB, 4 * MIB - PAGE]) == [
            Sigbus(BUS_ADRERR, place) for place in (0, 2 * MIB, 4 * MIB - PAGE)
        ]


@requirement("MP-04")
def test_a_revoked_mapping_is_inherited_revoked(owner: Actor, ram: Function) -> None:
    """A mapping inherited after the revoke is SIGBUS, and its DMABUF cannot be mapped."""
    buffer = owner.export(owner.open(ram.address), RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    assert mapping.stamp() is None
    child = owner.fork("child")
    assert child.adopt(mapping).pages() == stamped()
    owner.revoke(buffer)
    below = child.fork("below")
    assert below.adopt(mapping).pages() == GONE
    inherited = replace(buffer, actor=below)
    assert outcome(lambda: below.map(inherited)) == "ENODEV"


@requirement("MP-05")
def test_a_childs_mapping_survives_the_parents_munmap(owner: Actor, ram: Function) -> None:
    """An inherited mapping stays usable when the parent has unmapped its own and closed the DMABUF."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    kept = buffer.dup()
    mapping = owner.map(buffer)
    assert mapping.stamp(seed=0x11) is None
    inherited = owner.fork("child").adopt(mapping)
    mapping.unmap()
    buffer.close()
    assert inherited.pages() == stamped(0x11)
    owner.revoke(kept)
    assert inherited.pages() == GONE


@requirement("MP-05")
@pytest.mark.parametrize("holder", ["by inheritance", "another"])
def test_a_childs_mapping_survives_the_parents_exit(
    owner: Actor, ram: Function, ram_witness: RamBar, via: str, holder: str
) -> None:
    """An inherited mapping stays usable after the parent's exit while a process has the device open."""
    ram_witness.stamp(length=FRONT)
    client = owner.spawn("client")
    opener = client if holder == "by inheritance" else owner
    device = opener.open(ram.address, via)
    buffer = opener.export(device, RAM_BAR, SPAN)
    mapping = client.map(buffer if opener is client else owner.give(buffer, client))
    assert mapping.load32(0) == 3
    orphan(client)
    assert owner.map(descriptor_of(owner, buffer)).pages() == stamped(3)
    assert mapping.pages() == stamped(3)
    opener.revoke(buffer)
    assert mapping.pages() == GONE


def descriptor_of(owner: Actor, buffer: Buffer) -> Buffer:
    """Return the DMABUF as a descriptor of ``owner``."""
    return buffer if buffer.actor is owner else owner.take(buffer)


# -- exec() ----------------------------------------------------------------------------


@requirement("MP-06")
def test_a_dmabuf_kept_by_exec_can_be_mapped_and_revoked(
    owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """A DMABUF without O_CLOEXEC survives exec(), can be mapped and revoked; one with it is closed."""
    ram_witness.stamp(length=FRONT)
    device = owner.open(ram.address)
    kept = owner.export(device, RAM_BAR, SPAN, open_flags="rdwr")
    owner.map(owner.export(device, RAM_BAR, [Range(0, PAGE)], open_flags="rdwr,cloexec"))
    child = owner.fork("child")
    survivors = child.exec()
    assert [survivor.size for survivor in survivors.buffers] == [LENGTH]
    assert survivors.vmas == 0, "a mapping survived exec()"
    mapping = child.map(survivors.buffers[0])
    assert mapping.pages() == stamped(3)
    owner.revoke(kept)
    assert mapping.pages() == GONE
    assert outcome(lambda: child.map(survivors.buffers[0])) == "ENODEV"


# -- clients that hang -----------------------------------------------------------------


@contextmanager
def stopped(owner: Actor, client: Actor) -> Iterator[None]:
    """Stop the client by SIGSTOP for the time of the body."""
    owner.signal(client, "stop")
    yield
    owner.signal(client, "cont")


def busy(_owner: Actor, _client: Actor) -> AbstractContextManager[None]:
    """Leave the client in its loop of stores, which has no system call."""
    return nullcontext()


Hang = Callable[[Actor, Actor], AbstractContextManager[None]]
HANGS = {
    "stopped": (stopped, None),
    "held by a debugger": (seized, None),
    "busy": (busy, None),
    "in a signal handler": (busy, "handler"),
    "stopped in a signal handler": (stopped, "handler"),
}


@requirement("MP-07")
@pytest.mark.parametrize(("hang", "inside"), HANGS.values(), ids=HANGS)
@machine(parallel=True)
def test_a_client_that_hangs_does_not_delay_a_revoke(
    c_owner: Actor, ram: Function, ram_witness: RamBar, one_second: int, hang: Hang, inside: str | None
) -> None:
    """A revoke returns within a second although the client hangs, and no store lands after it."""
    device = c_owner.open(ram.address)
    oracle = Oracle(c_owner.map(device, LENGTH, START, bar=RAM_BAR), ram_witness, START)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client = c_owner.spawn("client", uid=NOBODY)
    client_mapping = client.map(c_owner.give(buffer, client))
    first, *others = c_owner.cpus()
    c_owner.pin(first)
    hammer = client_mapping.hammer(THEIRS, threads=2, cpus=others, inside=inside)
    oracle.require_reach(hammer)
    with hang(c_owner, client):
        assert c_owner.reclaim(buffer, oracle.view, OURS, deadline=one_second) is None
        oracle.require_undisturbed()
    before = hammer.counts(more=1)
    after = hammer.counts(more=2 * hammer.accesses_per_round)
    require_none_landed(before, after)
    require_sigbus_alone(after, hammer.accesses_per_round)
    oracle.require_undisturbed()


@requirement("MP-08")
@pytest.mark.parametrize(
    ("kind", "busy"), [("c", True), ("python", False)], ids=["c in its stores", "python"]
)
@machine(parallel=True)
def test_a_killed_client_leaves_no_dmabuf(
    start: Start, ram: Function, guest: Guest, kind: str, busy: bool
) -> None:
    """The kill of a DMABUF's last holder frees the DMABUF, and no other of the owner's."""
    owner = start(kind)
    device = owner.open(ram.address)
    view = owner.map(device, LENGTH, START, bar=RAM_BAR)
    other = owner.map(owner.export(device, RAM_BAR, SPAN))
    before = count_dmabufs(guest)
    client = owner.spawn("client", uid=NOBODY)
    buffer = owner.export(device, RAM_BAR, SPAN)
    client_mapping = client.map(owner.give(buffer, client))
    buffer.close()
    assert client_mapping.stamp(seed=0x6F) is None
    assert count_dmabufs(guest) == before + 1, "the kernel has another number of DMABUFs"
    if busy:
        client_mapping.hammer(THEIRS, threads=2).counts(more=PAGES)
    owner.signal(client, "kill")
    assert owner.reap(client) == "signal=9"
    assert count_dmabufs(guest) == before, "the kernel has another number of DMABUFs"
    assert view.stamp(seed=0x70) is None
    require_pages(stamped(0x70), other, owner.map(owner.export(device, RAM_BAR, SPAN)))


@requirement("MP-09")
@pytest.mark.parametrize("inside", [None, "clone"], ids=["threads", "processes that share the memory"])
@machine(parallel=True)
def test_a_revoke_reaches_every_thread(
    c_owner: Actor, ram: Function, ram_witness: RamBar, inside: str | None
) -> None:
    """No store lands after a revoke from threads, or processes that share memory, on each processor."""
    device = c_owner.open(ram.address)
    oracle = Oracle(c_owner.map(device, LENGTH, START, bar=RAM_BAR), ram_witness, START)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client = c_owner.spawn("client", uid=NOBODY)
    client_mapping = client.map(c_owner.give(buffer, client))
    cpus = c_owner.cpus()
    hammer = client_mapping.hammer(THEIRS, access="both", threads=len(cpus), cpus=cpus, inside=inside)
    oracle.require_reach(hammer)
    assert c_owner.reclaim(buffer, oracle.view, OURS) is None
    before = hammer.counts(more=1)
    after = hammer.counts(more=hammer.accesses_per_round)
    require_none_landed(before, after)
    require_sigbus_alone(after, hammer.accesses_per_round)
    oracle.require_undisturbed()
    assert client_mapping.pages() == GONE


# -- namespaces, and descriptors in a socket's queue -----------------------------------


@requirement("MP-10")
@needs_option("USER_NS", "PID_NS")
def test_a_client_in_its_own_namespaces_can_only_map(owner: Actor, ram: Function) -> None:
    """Another user in its own user, mount and PID namespaces can map a DMABUF, and not control it."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    client = owner.spawn("client", uid=NOBODY)
    leave(client, "user", "mount", "pid")
    inside = client.spawn("inside")
    client_buffer = client.give(owner.give(buffer, client), inside)
    client_mapping = inside.map(client_buffer)
    assert client_mapping.stamp(seed=0x21) is None
    require_pages(stamped(0x21), owner.map(buffer), client_mapping)
    answers = {
        number: outcome(partial(call, inside, client_buffer, number))
        for number in (*VFIO_IOCTLS, *IOMMUFD_IOCTLS)
    }
    assert answers == dict.fromkeys(answers, "ENOTTY"), "a client can control the DMABUF"
    for via in ("group", "cdev"):
        assert outcome(partial(inside.open, ram.address, via)) in ("EACCES", "EPERM", "EBUSY")
    assert client_mapping.pages() == stamped(0x21)
    owner.revoke(buffer)
    assert client_mapping.pages() == GONE


@requirement("MP-11")
@pytest.mark.parametrize("end", ["revoke", "close"])
@pytest.mark.parametrize("kind", ["c", "python"])
def test_a_dmabuf_in_a_socket_queue_arrives_revoked(start: Start, ram: Function, kind: str, end: str) -> None:
    """mmap() is ENODEV for a DMABUF that was in a socket's queue at the revoke or at the device's close."""
    owner = start(kind)
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    client = owner.spawn("client", uid=NOBODY)
    send(buffer, client)
    early = receive(client, buffer)
    mapping = client.map(early)
    assert mapping.stamp() is None
    send(buffer, client)
    if end == "revoke":
        owner.revoke(buffer)
        buffer.close()
    else:
        buffer.close()
        device.close()
    late = receive(client, buffer)
    assert late.seek() == LENGTH
    for one in (early, late):
        assert outcome(partial(client.map, one)) == "ENODEV"
    assert mapping.pages() == GONE


@requirement("MP-11", "MP-08")
def test_a_dmabuf_queued_to_a_killed_client_is_freed(owner: Actor, ram: Function, guest: Guest) -> None:
    """The kill of a client frees the DMABUF in its socket's queue."""
    before = count_dmabufs(guest)
    device = owner.open(ram.address)
    client = owner.spawn("client", uid=NOBODY)
    buffer = owner.export(device, RAM_BAR, SPAN)
    assert owner.map(buffer).stamp() is None
    owner.map(buffer, PAGE).unmap()
    other = owner.export(device, RAM_BAR, SPAN)
    send(other, client)
    other.close()
    assert count_dmabufs(guest) == before + 2, "the kernel has another number of DMABUFs"
    owner.signal(client, "kill")
    owner.reap(client)
    assert count_dmabufs(guest) == before + 1, "the kernel has another number of DMABUFs"


# -- write access ----------------------------------------------------------------------


def attempts(buffer: Buffer) -> Iterator[tuple[str, Callable[[], Buffer]]]:
    """Yield attempts to turn a read-only descriptor into a writable one."""
    for flags in ("rdwr,cloexec", "wronly,cloexec"):
        yield f"reopen {flags}", partial(buffer.reopen, flags)
    for mode in ("rdwr", "wronly"):

        def set_mode(mode: str = mode) -> Buffer:
            buffer.actor.say("setfl", buffer.name, mode)
            return buffer

        yield f"F_SETFL {mode}", set_mode
    yield "dup", lambda: buffer.dup("dup")
    yield "reopen by way of O_PATH", lambda: buffer.reopen("path").reopen("rdwr,cloexec")


@requirement("MP-12")
def test_a_client_cannot_gain_write_access(owner: Actor, ram: Function, finding: Finding) -> None:
    """No writable descriptor can be made of an O_RDONLY one, by root or nobody."""
    device = owner.open(ram.address)
    assert owner.map(owner.export(device, RAM_BAR, SPAN)).stamp() is None
    buffer = owner.export(device, RAM_BAR, SPAN, open_flags="rdonly,cloexec")
    for name, uid in (("root", None), ("nobody", NOBODY)):
        client_buffer = owner.give(buffer, owner.spawn(name, uid=uid))
        found = {what: gained(attempt) for what, attempt in attempts(client_buffer)}
        finding(f"what {name} gets of an O_RDONLY descriptor: {found}")
        reopened = {answer for what, answer in found.items() if what.startswith("reopen")}
        assert reopened <= {"ENXIO", "EACCES", "EPERM", "ELOOP"}


def gained(attempt: Callable[[], Buffer]) -> str:
    """Return the errno of an attempt, or ``a descriptor``; check that it cannot be mapped for writing."""
    try:
        got = attempt()
    except Refused as refused:
        return refused.errno
    for prot in ("w", "rw"):
        assert outcome(partial(got.actor.map, got, prot=prot)) == "EACCES"
    return "a descriptor"


@requirement("MP-12")
def test_opening_a_mapping_gives_no_descriptor(owner: Actor, ram: Function) -> None:
    """A process with a mapping of a DMABUF, and no descriptor, cannot open one through the mapping."""
    buffer = owner.export(owner.open(ram.address), RAM_BAR, SPAN)
    for name, uid in (("root", None), ("nobody", NOBODY)):
        holder = owner.spawn(name, uid=uid)
        client_buffer = owner.give(buffer, holder)
        mapping = holder.map(client_buffer)
        client_buffer.close()
        assert mapping.stamp() is None
        assert outcome(partial(open_mapped_file, mapping)) in ("ENXIO", "EPERM", "EACCES")
