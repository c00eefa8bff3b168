"""ATTR: the memory attribute of a DMABUF, as far as x86 shows it.

With PAT, x86 caches a mapping as its range was first reserved, whatever the attribute:
vfio-pci has reserved the BAR as uncached.  Without PAT there is no write combining.  So
the scenarios check what the calls answer, and that all mappings of a range are cached
alike.  A mapping of sysfs' resource2_wc proves that the page table can show write
combining.
"""

from __future__ import annotations

import struct
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import (
    require,
    require_data,
    require_mapped,
    require_no_page,
    require_pages,
    require_refusal,
)
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.ioctl import (
    GET,
    PROBE,
    SET,
    VFIO_DEVICE_FEATURE,
    Part,
    Target,
    call,
    call_for_data,
    feature,
)
from harness.actor.mm import remap
from harness.actor.reply import BUS_ADRERR, Sigbus, outcome
from harness.actor.words import words
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.guest.pat import of_bar
from harness.kernel.dialect import Interfaces
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, on_attribute, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.cases import attribute_number, descriptor
from suites.support.constants import MEMATTR_NUMBERS, NC, NOBODY, PMD_SIZE, RAM_BAR, WC, WC_FLAG
from suites.support.fixtures import Finding
from suites.support.store_oracle import OURS, THEIRS, Oracle, require_none_landed

LEVELS = pytest.mark.parametrize("level", ["pte", "pmd"])
# The revision whose feature is read as well leaks ENOTSUPP (524), which is no errno of user space.
UNKNOWN_ATTRIBUTE = {"set": ("ENOENT",), "get-set": ("ENOENT", "EOPNOTSUPP", "E524")}
STAMPS = list(range(PMD_SIZE // PAGE))


@pytest.fixture
def device(c_owner: Actor, ram: Function, ram_witness: RamBar) -> Device:
    """The device with the RAM BAR, stamped, on a kernel that can map a DMABUF of it."""
    ram_witness.stamp()
    opened = c_owner.open(ram.address)
    with c_owner.export(opened, RAM_BAR, [Range(0, PAGE)]) as buffer:
        c_owner.map(buffer).unmap()
    return opened


def uncached(device: Device, ranges: list[Range]) -> Buffer:
    """Export a DMABUF without an attribute."""
    return device.actor.export(device, RAM_BAR, ranges)


def combining(device: Device, ranges: list[Range]) -> Buffer:
    """Export a DMABUF with the attribute WC, by flag or feature as this kernel offers it."""
    owner = device.actor
    if owner.attribute_via == "none":
        pytest.skip("this kernel offers no interface for a memory attribute: neither flags nor a feature")
    if owner.attribute_via == "flags":
        return owner.export(device, RAM_BAR, ranges, flags=WC_FLAG)
    buffer = uncached(device, ranges)
    owner.set_attribute(buffer, "wc")
    return buffer


KINDS = {"default": uncached, "WC": combining}


def placed(level: str, source: Buffer | Device, bar: int | None = None) -> Mapping:
    """Map and touch 2 MiB at an address that allows a huge page, or at one that does not."""
    congruent = 0 if level == "pmd" else PAGE
    mapping = source.actor.map(source, PMD_SIZE, align=PMD_SIZE, congruent=congruent, bar=bar)
    mapping.advise("hugepage")
    mapping.touch()
    return mapping


def caching(mapping: Mapping, level: str | None = None) -> str:
    """Return the caching of a mapping, all of whose pages the page table has (at this level)."""
    (mode,) = require_mapped(mapping, level).caching()
    return mode


def control(device: Device, level: str) -> str:
    """Return the caching of a device-fd mapping.  HarnessError if it is not mapped at this level."""
    mapping = placed(level, device, bar=RAM_BAR)
    if mapping.page_table().mapped(level) != PMD_SIZE:
        raise HarnessError(f"The control, a device-fd mapping, is not mapped at {level} level.")
    return caching(mapping)


# -- the default -----------------------------------------------------------------------


@requirement("ATTR-01")
@LEVELS
def test_a_mapping_without_an_attribute_is_uncached(device: Device, level: str) -> None:
    """Without an attribute a DMABUF is uncached like a device-fd mapping, by pages and by huge pages."""
    mapping = placed(level, uncached(device, [Range(0, PMD_SIZE)]))
    assert caching(mapping, level) == "uncached-minus"
    assert control(device, level) == "uncached-minus"
    assert mapping.pages() == STAMPS


@requirement("ATTR-01")
@machine(kernel="nopat")
@LEVELS
def test_without_pat_a_default_mapping_is_uncached(device: Device, level: str) -> None:
    """Without PAT a DMABUF without an attribute is uncached like a device-fd mapping."""
    mapping = placed(level, uncached(device, [Range(0, PMD_SIZE)]))
    assert caching(mapping, level) == "uncached-minus"
    assert control(device, level) == "uncached-minus"
    assert mapping.pages() == STAMPS


# -- setting it ------------------------------------------------------------------------


@requirement("ATTR-02")
@on_attribute("flags")
def test_export_flags_choose_the_attribute(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """The flags 0 and 1 << 28 of an export are accepted, and every other value is EINVAL."""
    ram_witness.stamp()
    device = owner.open(ram.address)
    others = [value << 28 for value in range(2, 16)]
    others += [1 << bit for bit in range(28)] + [WC_FLAG | 1, WC_FLAG | 1 << 27, 0xFFFFFFFF]
    for flags in (0, WC_FLAG):
        with owner.export(device, RAM_BAR, [Range(0, 2 * PAGE)], flags=flags) as buffer:
            assert owner.map(buffer).pages() == [0, 1]
    for flags in others:
        errno = outcome(partial(owner.export, device, RAM_BAR, [Range(0, PAGE)], flags=flags))
        assert errno == "EINVAL", f"the export with the flags {flags:#x} was not refused with EINVAL"


@requirement("ATTR-03")
@on_attribute("set", "get-set")
def test_setting_the_attribute_keeps_existing_mappings(
    c_owner: Actor, device: Device, ram: Function, guest: Guest
) -> None:
    """Setting the attribute succeeds repeatedly, and leaves the pages of existing mappings in place."""
    buffer, other = (uncached(device, [Range(0, 4 * PAGE)]) for _ in range(2))
    mappings = [c_owner.map(buffer), c_owner.map(other)]
    for attribute in ("wc", "wc", "nc", NC, WC):
        require_pages([0, 1, 2, 3], *mappings)
        faults = c_owner.minor_faults()
        c_owner.set_attribute(buffer, attribute)
        require_pages([0, 1, 2, 3], *mappings)
        assert c_owner.minor_faults() - faults < 4, "existing mappings lost pages"
        mappings += [c_owner.map(buffer), c_owner.map(other)]
    for mapping in mappings:
        mapping.touch()
        assert caching(mapping) == control(device, "pte")
    assert of_bar(guest, ram, RAM_BAR) == {"uncached-minus"}


@requirement("ATTR-05")
@on_attribute("set", "get-set")
def test_an_unknown_attribute_is_refused(c_owner: Actor, device: Device, finding: Finding) -> None:
    """An unknown attribute is refused; afterwards the DMABUF can be mapped, and a known attribute be set."""
    buffer = uncached(device, [Range(0, PAGE)])
    mapping = c_owner.map(buffer)
    errnos = set()
    for attribute in (2, 3, 0x100, 1 << 28, 1 << 31, 0xFFFFFFFF):
        errnos.add(require_refusal(partial(c_owner.set_attribute, buffer, attribute)))
        require_pages([0], mapping, c_owner.map(buffer))
    c_owner.set_attribute(buffer, "wc")
    errnos.add(require_refusal(lambda: c_owner.set_attribute(buffer, 2)))
    assert c_owner.map(buffer).pages() == [0]
    finding(f"an unknown attribute is {', '.join(sorted(errnos))}")
    (errno,) = errnos
    assert errno in UNKNOWN_ATTRIBUTE[c_owner.attribute_via]


def setting(target: Target, attribute: int = WC) -> tuple[Part, Part]:
    """Return the members of struct vfio_device_feature_dma_buf_memattr."""
    return descriptor(target), struct.pack("=I", attribute)


@requirement("ATTR-06")
@on_attribute("set", "get-set")
@pytest.mark.parametrize(
    "way", [pytest.param(SET, id="SET"), pytest.param(GET, marks=on_attribute("get-set"), id="GET")]
)
def test_the_attribute_of_a_wrong_descriptor_is_refused(
    c_owner: Actor, device: Device, second_ram: Function, ram: Function, way: int
) -> None:
    """The attribute of a bad descriptor is EBADF, of no DMABUF EINVAL, of another's DMABUF ENODEV."""
    number = attribute_number(c_owner)
    buffer = uncached(device, [Range(0, PAGE)])
    other = c_owner.open(second_ram.address)
    foreign = c_owner.export(other, RAM_BAR, [Range(0, PAGE)])
    mapping = c_owner.map(foreign)
    word = mapping.load32(0)
    for target, errno in (
        (-1, "EBADF"),
        (1 << 30, "EBADF"),
        (c_owner.make("memfd", PAGE), "EINVAL"),
        (device, "EINVAL"),
        (c_owner.make("udmabuf", PAGE), "ENODEV"),
        (c_owner.make("heap", PAGE), "ENODEV"),
        (foreign, "ENODEV"),
    ):
        argument = feature(way | number, *setting(target))
        said = outcome(partial(call, c_owner, device, VFIO_DEVICE_FEATURE, argument))
        assert said == errno, f"the attribute of {words(target)} was not refused as it should be"
    assert mapping.load32(0) == word
    assert c_owner.map(foreign).load32(0) == word
    call(c_owner, other, VFIO_DEVICE_FEATURE, feature(way | number, *setting(foreign)))
    device.close()
    again = c_owner.open(ram.address)
    argument = feature(way | number, *setting(buffer))
    assert outcome(lambda: call(c_owner, again, VFIO_DEVICE_FEATURE, argument)) == "ENODEV"


@requirement("ATTR-06")
@on_attribute("set", "get-set")
def test_the_attribute_feature_takes_its_ways_only(c_owner: Actor, device: Device) -> None:
    """The feature takes SET, in some revisions GET, PROBE of these, and no argument that is too short."""
    number = attribute_number(c_owner)
    payload = setting(uncached(device, [Range(0, PAGE)]))
    get = "success" if c_owner.attribute_via == "get-set" else "EINVAL"
    for flags, argsz, errno in (
        (GET, None, get),
        (GET, 15, "EINVAL"),
        (GET, 24, get),
        (GET | PROBE, None, get),
        (GET | SET | PROBE, None, get),
        (GET | SET, None, "EINVAL"),
        (0, None, "EINVAL"),
        (SET, 8, "EINVAL"),
        (SET, 15, "EINVAL"),
        (SET, 16, "success"),
        (SET, 24, "success"),
        (SET | PROBE, None, "success"),
    ):
        argument = feature(flags | number, *payload, argsz=argsz)
        said = outcome(partial(call, c_owner, device, VFIO_DEVICE_FEATURE, argument))
        assert said == errno, f"the feature with the flags {flags:#x} and argsz {argsz} answered otherwise"


@requirement("ATTR-06")
@on_attribute("get-set")
def test_the_attribute_that_was_set_is_read(c_owner: Actor, device: Device) -> None:
    """GET returns the attribute that was set last on this DMABUF, and not cached for a new one."""
    number = attribute_number(c_owner)
    buffer, other = (uncached(device, [Range(0, PAGE)]) for _ in range(2))

    def read(of: Buffer, before: int) -> tuple[int, int]:
        """Return the descriptor's member and the attribute's after GET, which had ``before``."""
        argument = feature(GET | number, *setting(of, before))
        data = call_for_data(c_owner, device, VFIO_DEVICE_FEATURE, argument)
        fd, attribute = struct.unpack("=iI", data[8:])
        return fd, attribute

    fds = {one.name: read(one, WC)[0] for one in (buffer, other)}
    assert read(buffer, WC) == (fds[buffer.name], NC)
    for attribute in (WC, WC, NC, WC):
        c_owner.set_attribute(buffer, attribute)
        for before in (NC, WC, 7):
            assert read(buffer, before) == (fds[buffer.name], attribute)
            assert read(other, before) == (fds[other.name], NC)
    require_refusal(lambda: c_owner.set_attribute(buffer, 2))
    assert read(buffer, NC) == (fds[buffer.name], WC)
    for present in (0, 8, 12, 15):
        argument = feature(GET | number, *setting(buffer)).cut(present)
        assert outcome(partial(call, c_owner, device, VFIO_DEVICE_FEATURE, argument)) == "EFAULT"


@requirement("ATTR-08")
@on_attribute("none", "set", "get-set")
def test_unknown_export_flags_are_einval(owner: Actor, ram: Function) -> None:
    """Every flag of an export is EINVAL where flags choose no attribute."""
    device = owner.open(ram.address)
    span = [Range(0, PAGE)]
    require_data(owner.map(owner.export(device, RAM_BAR, span)))
    for flags in (WC_FLAG, 2 << 28, 0xF << 28, 1, 1 << 27, 0xFFFFFFFF):
        errno = outcome(partial(owner.export, device, RAM_BAR, span, flags=flags))
        assert errno == "EINVAL", f"the export with the flags {flags:#x} was not refused with EINVAL"


@requirement("ATTR-08")
@on_attribute("none", "flags")
def test_a_missing_attribute_feature_is_enotty(
    c_owner: Actor, device: Device, interfaces: Interfaces, finding: Finding
) -> None:
    """Without a feature for the attribute, GET, SET and PROBE of a number that it had are ENOTTY."""
    number = interfaces.unused_feature(*MEMATTR_NUMBERS)
    finding(f"the headers have no feature {number}")
    payload = setting(uncached(device, [Range(0, PAGE)]))
    for flags in (SET, GET, SET | PROBE, GET | PROBE):
        argument = feature(flags | number, *payload)
        errno = outcome(partial(call, c_owner, device, VFIO_DEVICE_FEATURE, argument))
        assert errno == "ENOTTY", f"the feature with the flags {flags:#x} is known"


# -- the page table --------------------------------------------------------------------


def require_write_combining_visible(owner: Actor, second_ram: Function) -> None:
    """Raise HarnessError unless the page table shows a mapping of sysfs' resource2_wc as write-combining."""
    mapping = owner.map(owner.resource(second_ram.address, RAM_BAR, write_combining=True), PMD_SIZE)
    mapping.touch()
    seen = caching(mapping)
    if seen != "write-combining":
        raise HarnessError(f"A mapping of resource2_wc is {seen} in the page table, not write-combining.")


@requirement("ATTR-04")
@pytest.mark.parametrize(
    "pat", [True, pytest.param(False, marks=machine(kernel="nopat"))], ids=["PAT", "nopat"]
)
def test_wc_and_default_mappings_are_cached_alike(
    device: Device,
    ram: Function,
    second_ram: Function,
    guest: Guest,
    pat: bool,
    finding: Finding,
) -> None:
    """A WC mapping is cached like one without an attribute and like a device-fd mapping, at either level."""
    if pat:
        require_write_combining_visible(device.actor, second_ram)
    for level in ("pte", "pmd"):
        seen = {
            name: caching(placed(level, make(device, [Range(0, PMD_SIZE)])), level)
            for name, make in KINDS.items()
        }
        seen["device fd"] = control(device, level)
        told = ", ".join(f"{name} {mode}" for name, mode in seen.items())
        finding(f"{'With' if pat else 'Without'} PAT, at {level} level: {told}.")
        assert seen == dict.fromkeys(seen, seen["device fd"])
    if pat:
        types = of_bar(guest, ram, RAM_BAR)
        finding(f"The BAR is reserved as {', '.join(sorted(types))}.")
        require(
            "write-combining" not in types,
            "the BAR is reserved as write-combining",
            expected="uncached",
            seen=words(types),
        )


@requirement("ATTR-04")
def test_the_first_reservation_decides_the_caching(
    c_owner: Actor, second_ram: Function, guest: Guest, finding: Finding
) -> None:
    """All mappings of a BAR are cached alike where sysfs reserved it as write-combining before vfio."""
    require_write_combining_visible(c_owner, second_ram)
    device = c_owner.open(second_ram.address)
    for level in ("pte", "pmd"):
        mapping = placed(level, uncached(device, [Range(0, PMD_SIZE)]))
        seen = caching(mapping, level)
        finding(f"After a mapping of resource2_wc, at {level} level: default {seen}.")
        assert seen == control(device, level)
    assert len(of_bar(guest, second_ram, RAM_BAR)) == 1, "the BAR is reserved as more than one type"


# -- revocation, and changes of a mapping ----------------------------------------------


@requirement("ATTR-07")
@LEVELS
def test_wc_stores_reach_the_device_until_a_revoke(
    c_owner: Actor, device: Device, ram_witness: RamBar, level: str
) -> None:
    """Stores through a WC mapping arrive after a fence; memory off and a revoke end its access."""
    buffer = combining(device, [Range(0, PMD_SIZE)])
    mapping = placed(level, buffer)
    assert mapping.pages() == STAMPS
    assert mapping.fill(THEIRS) is None
    c_owner.fence()
    assert set(ram_witness.words(0, PMD_SIZE)) == {THEIRS}, "stores did not reach the device's memory"
    ram_witness.fill(0x5A, 0, PMD_SIZE)
    assert mapping.differs(0x5A5A5A5A) == ""
    device.decode_memory(False)
    require_no_page(mapping)
    assert mapping.touch(value=0) == Sigbus(BUS_ADRERR, 0)
    device.decode_memory(True)
    assert mapping.differs(0x5A5A5A5A) == ""
    require_mapped(mapping)
    c_owner.revoke(buffer)
    require_no_page(mapping)
    require_refusal(lambda: c_owner.map(buffer))
    assert set(ram_witness.read(0, PMD_SIZE)) == {0x5A}, "a store still reached the device's memory"


@requirement("ATTR-07")
@machine(kernel="nopat")
@LEVELS
def test_without_pat_a_wc_mapping_is_uncached(device: Device, level: str) -> None:
    """Without PAT there is no write combining: a WC mapping is uncached, and never write-back."""
    mapping = placed(level, combining(device, [Range(0, PMD_SIZE)]))
    assert caching(mapping, level) == "uncached-minus"
    assert control(device, level) == "uncached-minus"
    assert mapping.pages() == STAMPS


@requirement("ATTR-07")
@machine(parallel=True)
def test_no_wc_store_lands_after_a_revoke(c_owner: Actor, device: Device, ram_witness: RamBar) -> None:
    """None of 50 000 stores that a client tries through a WC mapping after a revoke reaches the range."""
    length = 16 * PAGE
    oracle = Oracle(c_owner.map(device, length, bar=RAM_BAR), ram_witness, 0)
    buffer = combining(device, [Range(0, length)])
    client = c_owner.spawn("client", uid=NOBODY)
    hammer = client.map(c_owner.give(buffer, client)).hammer(THEIRS, threads=2)
    oracle.require_reach(hammer)
    assert c_owner.reclaim(buffer, oracle.view, OURS) is None
    before = hammer.counts(more=1)
    after = hammer.counts(more=25_000)
    require_none_landed(before, after)
    oracle.require_undisturbed()


@requirement("ATTR-09")
@LEVELS
@pytest.mark.parametrize("kind", KINDS)
def test_the_caching_survives_changes_of_a_mapping(
    c_owner: Actor, device: Device, kind: str, level: str
) -> None:
    """A mapping keeps its caching through memory off and on, fork(), mremap() and a split."""
    mapping = placed(level, KINDS[kind](device, [Range(0, PMD_SIZE)]))
    mode = caching(mapping, level)
    device.decode_memory(False)
    require_no_page(mapping)
    device.decode_memory(True)
    assert mapping.pages() == STAMPS
    assert caching(mapping, level) == mode
    child = c_owner.fork("child")
    inherited = child.adopt(mapping)
    assert inherited.pages() == STAMPS
    assert caching(inherited, level) == mode
    moved = remap(mapping, PMD_SIZE, "maymove,fixed")
    assert moved.pages() == STAMPS
    assert caching(moved) == mode
    moved.protect("r", 7 * PAGE, PAGE)
    moved.unmap(9 * PAGE, PAGE)
    assert moved.pages(0, 9 * PAGE) + moved.pages(10 * PAGE) == STAMPS[:9] + STAMPS[10:]
    assert require_mapped(moved, length=PMD_SIZE - PAGE).caching() == {mode}
