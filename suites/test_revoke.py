"""REV: what a revoked DMABUF no longer does, and what it leaves alone."""

from __future__ import annotations

import pytest

from harness.guest import Device as Function
from harness.plugin import requirement
from harness.probe import BUS_ADRERR, PAGE, Actor, Range, Refused, Sigbus
from harness.witness import RamBar

RAM_BAR = 2
PAGES = 16
SPAN = [Range(3 * PAGE, PAGES * PAGE)]
ALL_GONE = [Sigbus(BUS_ADRERR, page * PAGE) for page in range(PAGES)]


@requirement("REV-01", "REV-09")
def test_every_page_of_every_mapping_is_gone(c_owner: Actor, ram: Function) -> None:
    """After a revoke each load and store is SIGBUS at its address, whether the page was touched or not."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, SPAN)
    touched, untouched = c_owner.map(buffer), c_owner.map(buffer)
    touched.pages()
    assert not c_owner.page_table(touched).is_empty()
    c_owner.revoke(buffer)
    assert c_owner.page_table(touched).is_empty()
    assert touched.pages() == untouched.pages() == ALL_GONE
    for mapping in (touched, untouched):
        assert [mapping.store32(page * PAGE, 0) for page in range(PAGES)] == ALL_GONE
        mapping.unmap()


@requirement("REV-01")
def test_the_second_opinion_sees_sigbus_too(owner: Actor, registers: Function) -> None:
    """A register that answered before the revoke is SIGBUS after it."""
    device = owner.open(registers.address)
    buffer = owner.export(device, 0, [Range(0, PAGE)])
    mapping = owner.map(buffer)
    assert mapping.load32(0) == 0x010000ED
    owner.revoke(buffer)
    assert isinstance(mapping.load32(0), Sigbus)


@requirement("REV-03", "REV-04")
def test_a_revoked_buffer_is_refused(owner: Actor, ram: Function) -> None:
    """A revoked DMABUF is not mapped again (ENODEV) and not revoked again (EBADFD)."""
    buffer = owner.export(owner.open(ram.address), RAM_BAR, SPAN)
    owner.revoke(buffer)
    with pytest.raises(Refused) as mapped:
        owner.map(buffer)
    with pytest.raises(Refused) as revoked:
        owner.revoke(buffer)
    assert (mapped.value.errno, revoked.value.errno) == ("ENODEV", "EBADFD")


@requirement("REV-06", "ALIAS-05")
def test_a_client_is_cut_off_and_the_owner_is_not(c_owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """A revoke through a duplicate cuts off a client; what the owner then writes stays as written."""
    device = c_owner.open(ram.address)
    view = c_owner.map(device, PAGES * PAGE, 3 * PAGE, bar=RAM_BAR)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    client = c_owner.spawn("client", uid=65534)
    lent = client.map(c_owner.give(buffer, client))
    assert lent.stamp(seed=0xBAD00000) is None
    c_owner.revoke(buffer.dup())
    assert view.stamp(seed=0x600D0000) is None
    assert [lent.store32(page * PAGE, 0xBAD) for page in range(PAGES)] == ALL_GONE
    kept = [0x600D0000 + page for page in range(PAGES)]
    assert view.pages() == ram_witness.pages(3 * PAGE, PAGES * PAGE) == kept


@requirement("ALIAS-04", "ALIAS-06")
def test_another_buffer_of_the_same_bytes_stays(owner: Actor, ram: Function, ram_witness: RamBar) -> None:
    """A revoke leaves alone a second DMABUF over the same bytes, and a new one can be made."""
    device = owner.open(ram.address)
    first, second = (owner.export(device, RAM_BAR, SPAN) for _ in range(2))
    doomed, other = owner.map(first), owner.map(second)
    ram_witness.stamp()
    owner.revoke(first)
    fresh = owner.map(owner.export(device, RAM_BAR, SPAN))
    assert other.pages() == fresh.pages() == list(range(3, 3 + PAGES))
    assert isinstance(doomed.load32(0), Sigbus)
