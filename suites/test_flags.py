"""FLAG: flags of mmap(), system calls on a mapping, and access to it by debuggers, pins and file I/O.

Every scenario maps a DMABUF first.  On a kernel that maps none, a refusal proves nothing.
"""

from __future__ import annotations

from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import (
    require_answers,
    require_data,
    require_mapped,
    require_no_page,
    require_pages,
)
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.mm import (
    Debugger,
    Memory,
    advise_process,
    duplicate,
    lock,
    lock_all,
    map_at,
    map_over,
    pin,
    remap,
    remap_dontunmap,
    remap_file_page,
    seal,
    shared_files,
    sync,
    watch_faults,
)
from harness.actor.processes import Segment, dump
from harness.actor.reply import (
    BUS_ADRERR,
    SEGV_ACCERR,
    SEGV_MAPERR,
    DeadlineError,
    Fault,
    Refused,
    Sigbus,
    Sigsegv,
    outcome,
)
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import needs_option, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import FRONT, MIB, RAM_BAR
from suites.support.fixtures import Finding

START = 5
PAGES = 16
LENGTH = PAGES * PAGE
SPAN = [Range(START * PAGE, LENGTH)]
SHOWN = list(range(START, START + PAGES))
GONE = [Sigbus(BUS_ADRERR, page * PAGE) for page in range(PAGES)]

# include/uapi/asm-generic/mman-common.h
MAP_SHARED_HUGETLB = 0x40001
# include/linux/mm_types.h, arch/x86/include/asm/page_64_types.h: the end of 47 bits of address, less a page
LAST_ADDRESS = 0x7FFFFFFFF000
FREE_ADDRESS = 1 << 44  # far from all other mappings of a process
FIRST_ADDRESS = 0x10000  # CONFIG_DEFAULT_MMAP_MIN_ADDR, at most
# drivers/vfio/pci/vfio_pci_core.c: pages of the device fd between two regions
REGION_PAGES = 1 << 28


@pytest.fixture
def buffer(c_owner: Actor, ram: Function, ram_witness: RamBar) -> Buffer:
    """A DMABUF of 16 pages of the RAM BAR from page 5 on; each page has its number as its first word."""
    ram_witness.stamp(length=FRONT)
    return c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)


@pytest.fixture
def mapping(c_owner: Actor, buffer: Buffer) -> Mapping:
    """A mapping of the DMABUF, of which the first four pages have been touched."""
    found = c_owner.map(buffer)
    assert found.pages(0, 4 * PAGE) == SHOWN[:4]
    return found


@pytest.fixture
def ordinary(c_owner: Actor) -> Mapping:
    """A mapping of ordinary memory of the same length, as the control of a refusal."""
    found = c_owner.map(c_owner.make("memfd", LENGTH))
    assert found.stamp(seed=START) is None
    return found


# -- flags and protections -------------------------------------------------------------


@requirement("FLAG-01")
def test_a_private_mapping_is_refused(c_owner: Actor, buffer: Buffer, mapping: Mapping) -> None:
    """MAP_PRIVATE is EINVAL for any protection, populated or not; the shared mapping stays as it was."""
    for flags in ("private", "private,populate", "private,locked"):
        for prot in ("none", "r", "w", "rw"):
            attempt = outcome(partial(c_owner.map, buffer, prot=prot, flags=flags))
            assert attempt == "EINVAL", (
                f"mmap() with the flags {flags} and the protection {prot} is not EINVAL"
            )
    assert mapping.pages() == SHOWN


@requirement("FLAG-02")
def test_prot_exec_is_answered_as_for_udmabuf(
    c_owner: Actor, buffer: Buffer, mapping: Mapping, finding: Finding
) -> None:
    """mmap() and mprotect() with PROT_EXEC are answered as for a DMABUF of udmabuf."""

    def answers(one: Buffer, view: Mapping) -> dict[str, str]:
        found = {f"mmap {prot}": outcome(partial(c_owner.map, one, prot=prot)) for prot in ("rx", "rwx")}
        return found | {"mprotect rx": outcome(lambda: view.protect("rx"))}

    other = c_owner.make("udmabuf", LENGTH)
    ours, theirs = answers(buffer, mapping), answers(other, c_owner.map(other))
    finding(f"PROT_EXEC: {ours}; of udmabuf: {theirs}")
    assert ours == theirs


@requirement("FLAG-03")
def test_a_read_only_mapping_cannot_become_writable(c_owner: Actor, buffer: Buffer, mapping: Mapping) -> None:
    """An O_RDONLY descriptor cannot be mapped, or its mapping not be made writable by mprotect()."""
    device = buffer.device
    assert device is not None, "the buffer came from another process"
    reading = c_owner.export(device, RAM_BAR, SPAN, open_flags="rdonly,cloexec")
    for prot in ("none", "r"):
        try:
            got = c_owner.map(reading, prot=prot)
        except Refused:
            continue
        assert outcome(partial(got.protect, "rw")) == "EACCES"
        assert got.store32(0, 0) == Sigsegv(SEGV_ACCERR, 0)
    assert mapping.pages() == SHOWN


def check_protections(mapping: Mapping, last: int) -> None:
    """Check loads and stores in the first page and at ``last`` under each protection in turn."""
    for place in (0, last):
        require_data(mapping, place)
        assert mapping.store32(place + 8, 1) == Sigsegv(SEGV_ACCERR, place + 8)
    mapping.protect("rw")
    for place in (0, last):
        assert mapping.store32(place + 8, 0x1234) is None
        assert mapping.load32(place + 8) == 0x1234
    mapping.protect("none")
    for place in (0, last):
        assert mapping.load32(place) == Sigsegv(SEGV_ACCERR, place)
        assert mapping.store32(place, 0) == Sigsegv(SEGV_ACCERR, place)
    mapping.protect("r")
    for place in (0, last):
        assert mapping.load32(place + 8) == 0x1234
        assert mapping.store32(place + 8, 1) == Sigsegv(SEGV_ACCERR, place + 8)
    mapping.protect("rw")
    for place in (0, last):
        assert mapping.store32(place + 8, 0x4321) is None


@requirement("FLAG-04")
def test_protections_are_kept_and_changed(c_owner: Actor, buffer: Buffer, ram_witness: RamBar) -> None:
    """A mapping with PROT_READ or PROT_NONE keeps its protection until mprotect() changes it."""
    check_protections(c_owner.map(buffer, prot="r"), LENGTH - PAGE)
    assert ram_witness.word(START * PAGE + 8) == 0x4321
    from_none = c_owner.map(buffer, prot="none")
    assert from_none.load32(PAGE) == Sigsegv(SEGV_ACCERR, PAGE)
    from_none.protect("rw")
    assert from_none.store32(PAGE + 8, 0x77) is None
    assert ram_witness.word((START + 1) * PAGE + 8) == 0x77


@requirement("FLAG-04")
def test_protections_of_huge_pages_are_kept_and_changed(
    c_owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """Huge pages keep their protection until mprotect() changes it, for all of one or for one small page."""
    ram_witness.stamp(length=FRONT)
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, [Range(4 * MIB, 4 * MIB)])
    mapping = c_owner.map(buffer, prot="r", align=2 * MIB, congruent=0)
    mapping.advise("hugepage")
    assert mapping.at([0, 2 * MIB]) == [4 * MIB // PAGE, 6 * MIB // PAGE]
    require_mapped(mapping, "pmd", 4 * MIB)
    check_protections(mapping, 4 * MIB - PAGE)
    mapping.protect("r", MIB, PAGE)
    assert mapping.store32(MIB + 8, 1) == Sigsegv(SEGV_ACCERR, MIB + 8)
    for place in (MIB - PAGE, MIB + PAGE):
        assert mapping.store32(place + 8, place) is None
        assert ram_witness.word(4 * MIB + place + 8) == place


# -- mremap(), MAP_FIXED and splits ----------------------------------------------------


@requirement("FLAG-05")
def test_mremap_shrinks_and_moves_only(c_owner: Actor, buffer: Buffer, mapping: Mapping) -> None:
    """mremap() shrinks and moves a mapping; it does not expand or duplicate it, or keep the old one."""
    assert outcome(lambda: remap(mapping, LENGTH + PAGE)) == "EFAULT"
    assert outcome(lambda: remap(mapping, LENGTH + PAGE, "none")) == "EFAULT"
    assert outcome(lambda: duplicate(mapping)) == "EFAULT"
    assert outcome(lambda: remap_dontunmap(mapping)) == "EINVAL"
    assert mapping.pages(0, 6 * PAGE) == SHOWN[:6]
    moved = remap(mapping, LENGTH, "maymove,fixed")
    assert moved.pages() == SHOWN
    half = remap(moved, LENGTH // 2)
    assert half.pages() == SHOWN[: PAGES // 2]
    assert outcome(lambda: remap(half, LENGTH)) == "EFAULT"
    again = remap(half, LENGTH // 2, "maymove,fixed")
    assert again.store32(3 * PAGE, 0x333) is None
    assert c_owner.map(buffer).load32(3 * PAGE) == 0x333
    c_owner.revoke(buffer)
    assert again.pages() == GONE[: PAGES // 2]
    assert remap(again, LENGTH // 2, "maymove,fixed").pages() == GONE[: PAGES // 2]


@requirement("FLAG-06", "RNG-05")
def test_a_revoke_ends_every_part_of_a_split_mapping(
    c_owner: Actor, buffer: Buffer, mapping: Mapping
) -> None:
    """Parts that munmap() and mprotect() have split off show their pages until the revoke ends them all."""
    mapping.unmap(3 * PAGE, 2 * PAGE)
    mapping.protect("r", 7 * PAGE, PAGE)
    mapping.protect("none", 9 * PAGE, PAGE)
    mapping.advise("random", 11 * PAGE, PAGE)
    left = [page for page in range(PAGES) if page not in (3, 4)]

    def shown() -> list[int | Fault]:
        return mapping.at(page * PAGE for page in left)

    forbidden = Sigsegv(SEGV_ACCERR, 9 * PAGE)
    assert shown() == [forbidden if page == 9 else SHOWN[page] for page in left]
    c_owner.revoke(buffer)
    assert shown() == [forbidden if page == 9 else GONE[page] for page in left]
    mapping.protect("rw", 9 * PAGE, PAGE)
    assert shown() == [GONE[page] for page in left]


@requirement("FLAG-15")
def test_map_fixed_replaces_pages_and_takes_edge_addresses(
    c_owner: Actor, buffer: Buffer, mapping: Mapping
) -> None:
    """MAP_FIXED replaces pages, MAP_FIXED_NOREPLACE does not; both ends of the address space are usable."""
    map_over(mapping, buffer, 2 * PAGE, 2 * PAGE, 9 * PAGE)
    expected = [*SHOWN[:2], SHOWN[9], SHOWN[10], *SHOWN[4:]]
    assert mapping.pages() == expected
    refused = outcome(lambda: map_over(mapping, buffer, 0, PAGE, 9 * PAGE, replacing=False))
    assert refused == "EEXIST"
    assert mapping.pages() == expected
    edges = [map_at(buffer, LAST_ADDRESS - LENGTH), map_at(buffer, FIRST_ADDRESS)]
    for edge in edges:
        assert edge.pages() == SHOWN
    c_owner.revoke(buffer)
    for one in (mapping, *edges):
        assert one.pages() == GONE


@requirement("FLAG-17")
def test_adjacent_mappings_show_their_pages(c_owner: Actor, buffer: Buffer, mapping: Mapping) -> None:
    """Two adjacent mappings of consecutive offsets show their pages before and after a split."""
    map_over(mapping, buffer, 8 * PAGE, 8 * PAGE, 8 * PAGE)
    assert mapping.pages() == SHOWN
    assert [vma.end for vma in c_owner.vmas(mapping)][-1] == LENGTH
    mapping.protect("r", 6 * PAGE, 4 * PAGE)  # across their boundary
    assert mapping.pages() == SHOWN
    assert mapping.store32(7 * PAGE, 0) == Sigsegv(SEGV_ACCERR, 7 * PAGE)
    assert mapping.store32(8 * PAGE, 0) == Sigsegv(SEGV_ACCERR, 8 * PAGE)
    assert mapping.store32(10 * PAGE + 8, 1) is None
    c_owner.revoke(buffer)
    assert mapping.pages() == GONE


def require_unchanged_or_unmapped(view: Mapping, offset: int, was: int | Fault) -> None:
    """Raise Mismatch unless the word is ``was``, or unmapped.

    remap_file_pages() may unmap it before it is refused.
    """
    assert view.load32(offset) in (was, Sigsegv(SEGV_MAPERR, offset))


@requirement("FLAG-16")
def test_remap_file_pages_of_a_dmabuf_shows_that_page(
    c_owner: Actor, buffer: Buffer, mapping: Mapping
) -> None:
    """remap_file_pages() on a mapping of a DMABUF shows the requested page, and none after the end."""
    for page, place in ((9, 0), (0, 5), (PAGES - 2, 10)):
        remap_file_page(mapping, page, place * PAGE, 2 * PAGE)
        assert mapping.pages(place * PAGE, 2 * PAGE) == SHOWN[page : page + 2]
    for page in (PAGES - 1, PAGES, 1 << 20, 1 << 40, (1 << 52) - 1):
        with c_owner.map(buffer) as fresh:
            refused = outcome(partial(remap_file_page, fresh, page, PAGE, 2 * PAGE))
            assert refused in ("EINVAL", "EOVERFLOW"), f"remap_file_pages() to page {page:#x} was not refused"
            for place in (PAGE, 2 * PAGE):
                require_unchanged_or_unmapped(fresh, place, SHOWN[place // PAGE])
            assert fresh.at([0, 3 * PAGE]) == [SHOWN[0], SHOWN[3]]
    c_owner.revoke(buffer)
    assert mapping.pages() == GONE


STAMP = 0x2B000000  # no register has this value
# Pages of the device fd: of the mapped region, of other regions, and of none.
DEVICE_PAGES = (0, 1, 5, 1024, RAM_BAR * REGION_PAGES + 5, RAM_BAR * REGION_PAGES + 1024, 1 << 40)


def check_another_page(device: Device, first: int, page: int) -> None:
    """Check remap_file_pages() to ``page`` in a device-fd mapping of the RAM BAR from page ``first`` on."""
    with device.actor.map(device, 4 * PAGE, first * PAGE, bar=RAM_BAR) as view:
        shown = [STAMP + first + place for place in range(4)]
        assert view.pages() == shown
        (vma,) = device.actor.vmas(view)
        of_a_dmabuf = vma.name.startswith("/dmabuf:")
        if outcome(lambda: remap_file_page(view, page, PAGE, PAGE)) == "success":
            region, place = (RAM_BAR, page) if of_a_dmabuf else divmod(page, REGION_PAGES)
            expected: list[int | Fault] = [GONE[1]]
            if place * PAGE < device.bars.get(region, 0):
                expected.append(device.read(region, place * PAGE, 4))
            assert view.load32(PAGE) in expected
        else:
            require_unchanged_or_unmapped(view, PAGE, shown[1])
        assert view.at([0, 2 * PAGE, 3 * PAGE]) == [shown[0], shown[2], shown[3]]
        device.decode_memory(False)
        assert view.load32(0) == GONE[0]
        require_unchanged_or_unmapped(view, PAGE, GONE[1])
        device.decode_memory(True)


@requirement("FLAG-16")
def test_remap_file_pages_of_a_device_shows_no_other_page(
    c_owner: Actor, ram: Function, ram_witness: RamBar
) -> None:
    """remap_file_pages() on a device-fd mapping is refused, gives SIGBUS, or shows the requested page."""
    ram_witness.stamp(STAMP)
    device = c_owner.open(ram.address)
    for first in (0, 1024):
        for page in DEVICE_PAGES:
            check_another_page(device, first, page)


# -- madvise() and fork() --------------------------------------------------------------


@requirement("FLAG-07")
def test_madv_dontfork_keeps_a_mapping_from_the_child(
    c_owner: Actor, buffer: Buffer, mapping: Mapping
) -> None:
    """After MADV_DONTFORK a child has no mapping; MADV_DOFORK is EINVAL for I/O memory."""
    alone = map_at(buffer, FREE_ADDRESS)  # no mapping of the child's own takes this address
    for one in (mapping, alone):
        assert one.pages() == SHOWN
        one.advise("dontfork")
    child = c_owner.fork("child")
    assert shared_files(child) == {}
    assert child.adopt(alone).load32(0) == Sigsegv(SEGV_MAPERR, 0)
    require_pages(SHOWN, child.map(buffer), mapping, alone)
    assert outcome(lambda: alone.advise("dofork")) == "EINVAL"
    assert c_owner.fork("other").adopt(alone).load32(PAGE) == Sigsegv(SEGV_MAPERR, PAGE)


REFUSED = (
    *("dontneed", "dontneed_locked", "free", "cold", "pageout", "remove", "dofork", "dodump", "wipeonfork"),
    *("mergeable", "collapse", "populate_read", "populate_write", "guard_install"),
)
ACCEPTED = (
    *("dontdump", "hugepage", "nohugepage", "normal", "random", "sequential", "willneed", "keeponfork"),
    "dontfork",
)


@requirement("FLAG-08")
def test_madvise_changes_no_mapped_page(
    c_owner: Actor, buffer: Buffer, mapping: Mapping, finding: Finding
) -> None:
    """After any madvise() a mapping shows the device's pages, touched before or not."""
    answers = {}
    for advice in (*REFUSED, *ACCEPTED):
        with c_owner.map(buffer) as fresh:
            assert fresh.pages(0, 8 * PAGE) == SHOWN[:8]
            answers[advice] = outcome(partial(fresh.advise, advice))
            assert fresh.pages() == SHOWN, f"madvise() with {advice} changed the pages"
            assert fresh.store32(8 * PAGE + 8, 0x51) is None
            assert mapping.load32(8 * PAGE + 8) == 0x51
    finding(f"madvise(): {answers}")
    accepted = {advice for advice in REFUSED if answers[advice] == "success"}
    assert accepted == set(), "madvise() was not refused with each advice that it must refuse"
    require_answers(answers, "EINVAL", "dontneed", "free", "cold", "pageout")
    require_answers(answers, "EINVAL", "dodump", "wipeonfork", "guard_install")
    require_answers(answers, "success", *ACCEPTED)


# -- core dumps and debuggers ----------------------------------------------------------


@requirement("FLAG-09")
@pytest.mark.parametrize("end", ["alive", "revoked"])
def test_a_core_dump_leaves_the_mapping_out(
    c_owner: Actor, ram: Function, guest: Guest, ram_witness: RamBar, end: str
) -> None:
    """A core dump has nothing of the mapping, revoked or not, and has the control, ordinary memory."""
    ram_witness.stamp(length=FRONT)
    device = c_owner.open(ram.address)
    odd = 37 * PAGE  # identifies the segments by their sizes
    buffer = c_owner.export(device, RAM_BAR, [Range(0, odd)])
    assert c_owner.map(buffer).pages() == list(range(37))
    assert c_owner.map(device, odd + PAGE, bar=RAM_BAR).load32(0) == 0
    assert c_owner.map(c_owner.make("memfd", odd + 2 * PAGE)).stamp() is None
    child = c_owner.fork("child")
    if end == "revoked":
        c_owner.revoke(buffer)
    segments = dump(guest, child)
    if Segment(odd + 2 * PAGE, odd + 2 * PAGE) not in segments:
        raise HarnessError(f"The core dump was to have the ordinary memory, and has {segments}.")
    assert Segment(odd, 0) in segments
    assert Segment(odd + PAGE, 0) in segments


@requirement("FLAG-10")
@pytest.mark.parametrize("via", ["mem", "ptrace", "vm"])
def test_a_debugger_cannot_access_the_mapping(
    c_owner: Actor, buffer: Buffer, mapping: Mapping, ordinary: Mapping, ram_witness: RamBar, via: str
) -> None:
    """/proc/PID/mem, ptrace() and process_vm_readv() fail before and after a revoke, and write nothing."""
    errno = {"mem": "EIO", "ptrace": "EIO", "vm": "EFAULT"}[via]
    child = c_owner.fork("child")
    targets = [child] if via == "ptrace" else [child, None]
    for target in targets:
        control = Debugger(ordinary, target, via)
        control.poke(8, 0x88)
        if control.peek(PAGE) != START + 1 or ordinary.load32(8) != 0x88:
            raise HarnessError("A debugger was to reach ordinary memory, and does not.")

    def check() -> None:
        for target in targets:
            debugger = Debugger(mapping, target, via)
            for offset in (0, PAGE + 8, 12 * PAGE):
                assert outcome(partial(debugger.peek, offset)) == errno
                assert outcome(partial(debugger.poke, offset, 0)) == errno

    check()
    assert mapping.pages() == SHOWN
    assert child.adopt(mapping).pages() == SHOWN
    c_owner.revoke(buffer)
    check()
    assert ram_witness.pages(START * PAGE, LENGTH) == SHOWN


@requirement("FLAG-11")
@pytest.mark.parametrize("how", ["direct", "vmsplice", "uring", "futex"])
def test_pages_of_the_mapping_cannot_be_pinned(
    c_owner: Actor, buffer: Buffer, mapping: Mapping, ordinary: Mapping, ram_witness: RamBar, how: str
) -> None:
    """Pinning the pages is EFAULT before and after a revoke, and the device's bytes stay."""
    if pin(ordinary, how, PAGE) < 0:
        raise HarnessError("The pages of ordinary memory were to be pinned, and are not.")
    assert outcome(lambda: pin(mapping, how, PAGE)) == "EFAULT"
    assert mapping.pages() == SHOWN
    c_owner.revoke(buffer)
    assert outcome(lambda: pin(mapping, how, PAGE)) == "EFAULT"
    assert ram_witness.pages(START * PAGE, LENGTH) == SHOWN


# include/uapi/asm-generic/mman-common.h
ADVICES = {"willneed": 3, "cold": 20, "pageout": 21, "collapse": 25}


@requirement("FLAG-11")
def test_process_madvise_changes_no_mapped_page(c_owner: Actor, mapping: Mapping, finding: Finding) -> None:
    """process_madvise() by another process or by this one leaves the mapping's pages as they are."""
    child = c_owner.fork("child")
    inherited = child.adopt(mapping)
    answers = {}
    for name, advice in ADVICES.items():
        for target in (child, None):
            answers[name] = outcome(partial(advise_process, mapping, target, advice))
            require_pages(SHOWN, mapping, inherited)
    finding(f"process_madvise(): {answers}")
    refusals = {answers[name] for name in ("cold", "pageout", "collapse")}
    assert refusals <= {"EFAULT", "EINVAL"}, "process_madvise() was not refused as it should be"


# -- locks, msync(), userfaultfd, seals ------------------------------------------------


@requirement("FLAG-12")
def test_populate_and_mlock_map_no_page(c_owner: Actor, ram: Function) -> None:
    """MAP_POPULATE, MAP_LOCKED, mlock() and mlockall() succeed, and map and account no page."""
    pages = 1024
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, [Range(0, pages * PAGE)])
    control = c_owner.map(c_owner.make("memfd", pages * PAGE), flags="shared,populate,locked")
    locked = Memory.of(c_owner)
    if locked.locked != pages * PAGE // 1024:
        raise HarnessError(f"Ordinary memory was to be locked, but there is only {locked}.")
    control.unmap()
    before, faults = Memory.of(c_owner), c_owner.minor_faults()
    mappings = [c_owner.map(buffer, flags=flags) for flags in ("shared", "shared,populate", "shared,locked")]
    lock(mappings[0])
    lock_all(c_owner, "current,future")
    mappings.append(c_owner.map(buffer))
    for mapping in mappings:
        require_no_page(mapping)
    now = Memory.of(c_owner)
    lock_all(c_owner, "none")
    assert c_owner.minor_faults() - faults < pages, "pages were populated"
    assert now.resident - before.resident < pages * PAGE // 1024, "pages are accounted as resident, in KiB"
    # mlockall() locks the actor's own memory too: some hundred KiB.
    assert now.locked < pages * PAGE // 1024, "pages are accounted as locked, in KiB"
    assert mappings[0].touch() == pages
    resident = Memory.of(c_owner).resident - before.resident
    assert resident < pages * PAGE // 1024, "touched pages are accounted as resident, in KiB"


@requirement("FLAG-13")
def test_msync_with_ms_sync_is_einval(mapping: Mapping, ordinary: Mapping, finding: Finding) -> None:
    """msync() with MS_SYNC is EINVAL, with MS_ASYNC and MS_INVALIDATE it succeeds."""
    answers = {how: outcome(partial(sync, mapping, how)) for how in ("sync", "async", "invalidate")}
    finding(f"msync(): {answers}")
    assert answers == {"sync": "EINVAL", "async": "success", "invalidate": "success"}
    assert mapping.pages() == SHOWN


@requirement("FLAG-14")
@needs_option("USERFAULTFD")
def test_userfaultfd_cannot_register_the_mapping(mapping: Mapping, ordinary: Mapping) -> None:
    """A userfaultfd cannot be registered for missing pages, write protection or minor faults."""
    for mode in ("missing", "wp", "minor"):
        if (control := outcome(partial(watch_and_close, ordinary, mode))) != "success":
            raise HarnessError(f"Ordinary memory was to be registered for {mode}, and is {control}.")
        answer = outcome(partial(watch_faults, mapping, mode))
        assert answer == "EINVAL", f"a userfaultfd can be registered for {mode} faults"
    assert mapping.pages() == SHOWN


def watch_and_close(mapping: Mapping, mode: str) -> None:
    """Register a userfaultfd on the mapping, and close it.  Raises Refused."""
    watch_faults(mapping, mode).close()


def load_of_write_protected(mapping: Mapping, offset: int) -> str:
    """Return the result of a load under asynchronous write protection, or the errno if that is refused."""
    answer = outcome(lambda: watch_faults(mapping, "wpasync"))
    if answer != "success":
        return answer
    try:
        return str(mapping.actor.do("load32", mapping.name, offset, deadline=1))
    except DeadlineError:
        return "no end"


@requirement("FLAG-14")
@needs_option("USERFAULTFD")
@pytest.mark.parametrize("level", ["pte", "pmd"])
def test_async_write_protection_does_not_stop_a_revoke(
    c_owner: Actor, ram: Function, ram_witness: RamBar, finding: Finding, level: str
) -> None:
    """Asynchronous write protection acts as on a device-fd mapping, and a revoke ends the mapping."""
    ram_witness.stamp(length=FRONT)
    device, length = c_owner.open(ram.address), {"pte": LENGTH, "pmd": 2 * MIB}[level]
    buffer = c_owner.export(device, RAM_BAR, [Range(4 * MIB, length)])
    view = c_owner.map(device, length, 4 * MIB, bar=RAM_BAR, align=2 * MIB, congruent=0)
    mapping = c_owner.map(buffer, align=2 * MIB, congruent=0)
    for one in (view, mapping):
        one.advise("hugepage")
        assert one.touch() == (1 if level == "pmd" else PAGES)
        require_mapped(one, level)
    ours, theirs = (load_of_write_protected(one, PAGE) for one in (mapping, view))
    finding(f"userfaultfd, asynchronous write protection of a {level}, then a load: {ours}")
    assert ours == theirs
    assert ours in ("EINVAL", "no end", f"{4 * MIB // PAGE + 1:#010x}")
    if level == "pte":
        assert mapping.store32(PAGE + 8, 0x14) is None
        assert ram_witness.word(4 * MIB + PAGE + 8) == 0x14
    c_owner.revoke(buffer)
    require_no_page(mapping)
    assert mapping.pages() == [Sigbus(BUS_ADRERR, place) for place in range(0, length, PAGE)]
    assert mapping.store32(2 * PAGE, 0) == Sigbus(BUS_ADRERR, 2 * PAGE)


@requirement("FLAG-19")
def test_mseal_does_not_stop_a_revoke(c_owner: Actor, buffer: Buffer, mapping: Mapping) -> None:
    """A mapping under mseal() cannot be unmapped, and is SIGBUS after a revoke."""
    seal(mapping)
    assert outcome(mapping.unmap) == "EPERM"
    assert outcome(lambda: mapping.protect("r")) == "EPERM"
    assert mapping.pages() == SHOWN
    c_owner.revoke(buffer)
    assert mapping.pages() == GONE
    assert outcome(mapping.unmap) == "EPERM"


@requirement("FLAG-19")
def test_map_hugetlb_is_einval_or_ignored(
    c_owner: Actor, buffer: Buffer, mapping: Mapping, finding: Finding
) -> None:
    """MAP_HUGETLB is EINVAL, as for any other file, or ignored; a revoke ends the mapping."""
    got: list[Mapping] = []
    answer = outcome(lambda: got.append(c_owner.map(buffer, flags=MAP_SHARED_HUGETLB)))
    finding(f"MAP_HUGETLB: {answer}")
    assert answer in ("EINVAL", "success")
    for one in (mapping, *got):
        assert one.pages() == SHOWN
    c_owner.revoke(buffer)
    for one in (mapping, *got):
        assert one.pages() == GONE


# -- the descriptor --------------------------------------------------------------------

CALLS = ("read", "write", "pread", "pwrite", "spliceout", "splicein", "sendfile", "copy", "truncate", "punch")


@requirement("FLAG-21")
@pytest.mark.parametrize("end", ["alive", "revoked"])
def test_file_io_on_the_descriptor_is_refused(
    c_owner: Actor, buffer: Buffer, ram_witness: RamBar, end: str, finding: Finding
) -> None:
    """read(), write() and similar calls fail on the descriptor; lseek() goes to the ends only."""
    if end == "revoked":
        c_owner.revoke(buffer)
    answers = {how: outcome(partial(c_owner.say, "fdio", buffer.name, how)) for how in CALLS}
    finding(f"a DMABUF's descriptor, {end}: {answers}")
    allowed = {how for how, answer in answers.items() if answer == "success"}
    assert allowed == set(), "bytes can be moved through the descriptor"
    require_answers(answers, "EINVAL", "read", "write")
    assert outcome(lambda: buffer.seek("cur")) == "EINVAL"
    assert outcome(lambda: buffer.seek("set", PAGE)) == "EINVAL"
    assert buffer.seek("end") == LENGTH
    assert ram_witness.pages(START * PAGE, LENGTH) == SHOWN
