"""RACE-10, RACE-11: the order of the locks of a device, of the memory management and of the IOMMU.

Lockdep has to see each order of two locks once, in any process, at any time, so these
scenarios only walk through the calls.  On a kernel without lockdep they find nothing but
a call that does not end.
"""

from __future__ import annotations

from functools import partial

from harness.actor.actor import Actor
from harness.actor.expect import require_data
from harness.actor.handles import PCI_COMMAND, Buffer, Device, Range
from harness.actor.late_page import FreshPages, copy_region
from harness.actor.reply import Refused, outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import machine, needs_option, requirement
from harness.vm.hardware import PAGE
from suites.support.constants import IOVA, RAM_BAR, VIRTIO_BAR
from suites.support.fixtures import Finding

PAGES = 16
SPAN = [Range(0, PAGES * PAGE)]
ROUNDS = 20  # resets, and mappings meanwhile
PCI_EXT_CAP_START, PCI_EXT_CAP_ID_ATS = 0x100, 0x0F  # include/uapi/linux/pci_regs.h


def tell_without_lockdep(owner: Actor, finding: Finding) -> None:
    """Record that this kernel cannot show a wrong order of locks, if it has no lockdep."""
    if reason := owner.absent("PROVE_LOCKING"):
        finding(f"a wrong order of locks would be seen only as a hang: the scenario {reason}")


def touch(device: Device, bar: int, buffer: Buffer) -> None:
    """Fault in a page of the BAR through the device, and one through the DMABUF where it can be mapped."""
    owner = device.actor
    with owner.map(device, PAGE, bar=bar) as view:
        require_data(view)
    try:
        mapping = owner.map(buffer)
    except Refused:
        return  # a base without mmap()
    with mapping:
        require_data(mapping)


def read_into_fresh_pages(device: Device, bar: int) -> None:
    """Have reads of the BAR and of configuration space fault in the page that they copy to."""
    pages = FreshPages.of(device.actor, 4)
    assert pages.read(0, device, bar, 0, 8) == 8
    assert pages.read(1, device, "config", 0, 64) == 64
    # A page of the device itself: the copy faults on the BAR that it reads.
    with device.actor.map(device, PAGE, bar=bar) as view:
        assert copy_region(view, 0, device, "config", PCI_COMMAND, 2, write=False) == 2


def write_from_fresh_pages(device: Device) -> None:
    """Have a write of the command register fault in the page that it copies from."""
    owner = device.actor
    file = owner.make("memfd", PAGE)
    with owner.map(file) as ours:
        ours.store(16, 0, device.read("config", PCI_COMMAND, 2))
    assert copy_region(owner.map(file), 0, device, "config", PCI_COMMAND, 2, write=True) == 2


@requirement("RACE-10")
def test_every_call_takes_the_locks_in_one_order(
    c_owner: Actor, ram: Function, via: str, finding: Finding
) -> None:
    """Faults, accesses to BAR and configuration space that fault, toggles and resets have one lock order."""
    tell_without_lockdep(c_owner, finding)
    device = c_owner.open(ram.address, via)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    touch(device, RAM_BAR, buffer)
    read_into_fresh_pages(device, RAM_BAR)
    write_from_fresh_pages(device)
    for event in (device.reset, device.hot_reset):
        event()
        touch(device, RAM_BAR, buffer)
    device.decode_memory(False)
    device.decode_memory(True)
    device.enter_low_power()
    device.exit_low_power()
    touch(device, RAM_BAR, buffer)
    device.close()


@requirement("RACE-10")
def test_an_import_takes_the_locks_in_the_same_order(
    c_owner: Actor, ram: Function, importer: Device, finding: Finding
) -> None:
    """Import by iommufd, faults, memory off and on, and the close of the exporter have one lock order."""
    tell_without_lockdep(c_owner, finding)
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    importer.import_buffer(buffer, IOVA)
    touch(device, RAM_BAR, buffer)
    read_into_fresh_pages(device, RAM_BAR)
    device.decode_memory(False)
    device.decode_memory(True)
    touch(device, RAM_BAR, buffer)
    device.close()
    importer.close()


@requirement("RACE-10")
def test_faulting_reads_during_resets_end(c_owner: Actor, ram: Function) -> None:
    """A process whose reads of the BAR fault in other pages of the BAR, and one that resets, do not hang."""
    reader = c_owner.spawn("reader")
    device = c_owner.open(ram.address)
    lent = c_owner.lend(device, reader)
    outcomes = set()
    with device.resetting(ROUNDS):
        for _ in range(ROUNDS):
            with reader.map(lent, PAGES * PAGE, bar=RAM_BAR) as target:
                for page in range(PAGES):
                    place = page * PAGE
                    outcomes.add(outcome(partial(copy_region, target, place, lent, RAM_BAR, place, 4)))
    # EFAULT while nothing can be accessed
    assert outcomes <= {"success", "EFAULT"}, "reads that fault were refused with another errno"
    with reader.map(lent, PAGE, bar=RAM_BAR) as target:
        assert copy_region(target, 0, lent, RAM_BAR, 0, 4) == 4


def has_ats(guest: Guest, function: Function) -> bool:
    """Tell whether a device has the extended capability of address translation."""
    space = guest.read_bytes(f"/sys/bus/pci/devices/{function.address}/config")
    at = PCI_EXT_CAP_START
    while PCI_EXT_CAP_START <= at <= len(space) - 4:
        header = int.from_bytes(space[at : at + 4], "little")
        if header & 0xFFFF == PCI_EXT_CAP_ID_ATS:
            return True
        at = header >> 20
    return False


@requirement("RACE-11")
@machine(ats=True)
@needs_option("PCI_MMCONFIG")
def test_a_reset_takes_the_locks_in_the_same_order(
    c_owner: Actor, rng: Function, guest: Guest, via: str, finding: Finding
) -> None:
    """A reset of a device with ATS keeps the order of the locks that faults, perf and sysfs have shown."""
    tell_without_lockdep(c_owner, finding)
    if not has_ats(guest, rng):
        raise HarnessError(f"The device {rng.address} was to have ATS, and its configuration space has none.")
    device = c_owner.open(rng.address, via)
    buffer = c_owner.export(device, VIRTIO_BAR, [Range(0, PAGE)])
    touch(device, VIRTIO_BAR, buffer)
    pages = FreshPages.of(c_owner, 2)
    assert pages.copy(0, "perf") == 8
    assert pages.copy(1, "folder") > 0
    for event in (device.reset, device.hot_reset, device.reset_function):
        event()
    touch(device, VIRTIO_BAR, buffer)
    device.close()
