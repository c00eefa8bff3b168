"""Scenarios that find what is not so, and one that conforms, to be done again by their transcripts.

tests/test_reproduce.py runs this suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Mapping, Range
from harness.guest.guest import Guest, PciFunction
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar

Start = Callable[[str], Actor]
RAM_BAR = 2


@pytest.fixture
def ram(guest: Guest) -> Iterator[PciFunction]:
    with guest.bind("ram") as function:
        yield function


def mapped(owner: Actor, function: PciFunction) -> Mapping:
    device = owner.open(function.address)
    return owner.map(owner.export(device, RAM_BAR, [Range(0, PAGE)]))


@requirement("MAP-01")
def test_everything_conforms(start: Start, guest: Guest, ram: PciFunction, ram_witness: RamBar) -> None:
    """Two actors, the host and the guest each have a part."""
    ram_witness.stamp(0x10)
    first, second = start("c"), start("python")
    mapping = mapped(first, ram)
    second.descriptors()
    assert mapping.load32(0) == ram_witness.word(0) == 0x10
    mapping.store32(0, 0x11)
    assert ram_witness.pages(0, 2 * PAGE) == [0x11, 0x11]
    first.close()
    guest.unbind(ram)
    guest.rebind(ram)
    mapped(second, ram)


@requirement("MAP-02")
def test_reply_is_wrong(start: Start, ram: PciFunction, ram_witness: RamBar) -> None:
    """The page has another word than this says."""
    ram_witness.stamp(0x10)
    assert mapped(start("c"), ram).load32(0) == 0x77


@requirement("MAP-03")
def test_host_sees_the_wrong_word(start: Start, ram_witness: RamBar) -> None:
    """The memory has another word than this says."""
    ram_witness.fill(0xA5)
    start("c").descriptors()
    assert ram_witness.word(8) == 0x77


@requirement("LIFE-01")
@machine(alone=True)
def test_kernel_complains(start: Start, guest: Guest) -> None:
    """The kernel warns, because it is asked to."""
    start("c").descriptors()
    guest.write("/sys/kernel/debug/provoke-crash/DIRECT", "WARNING")


@requirement("LIFE-03")
def test_scenario_alone_can_do_it(start: Start, guest: Guest) -> None:
    """A step that no transcript can have."""
    start("c").descriptors()
    guest.recorder.step("other a debugger holds processor 1")
