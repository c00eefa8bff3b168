"""RACE: an import by iommufd, or its end, that is held inside the kernel while the owner revokes."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Range
from harness.actor.iommufd import AddressSpace
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.guest.hold import Hold
from harness.plugin.markers import machine, requirement
from harness.vm.ram_bar import RamBar
from suites.support.constants import IOVA, RAM_BAR
from suites.support.dma import Engine, Faults, HostWord, Path
from suites.support.fixtures import Finding
from suites.support.race import DONE, LENGTH, START, Sides, meet, require_result, told

pytestmark = machine(hold=True)

# Where an import is held: attached, and without an address yet, which it gets after a reset; or about to map.
ATTACHED = "dma_buf_dynamic_attach"
MAPPING = ["iopt_area_fill_domains", "dma_buf_pin"]


@requirement("RACE-12", "IMP-02")
@pytest.mark.parametrize(("at", "event"), [*product(MAPPING, ["revoke", "reset"]), (ATTACHED, "revoke")])
def test_an_import_during_a_revoke_or_reset_gives_no_dma(
    c_owner: Actor,
    ram: Function,
    registers: Function,
    ram_witness: RamBar,
    guest: Guest,
    hold: Hold,
    finding: Finding,
    at: str,
    event: str,
) -> None:
    """The IOMMU refuses DMA through an import that was inside the kernel when its DMABUF was taken away."""
    sides = Sides.of(c_owner, ram, held="client")
    edu = sides.client.open(registers.address, "cdev")
    space = AddressSpace.of(edu)
    control = sides.share(sides.owner.export(sides.device, RAM_BAR, [Range(START, LENGTH)]))
    space.map(control, IOVA + LENGTH)
    space.attach()
    path = Path(Engine(edu), Faults(guest), HostWord(ram_witness, START), IOVA + LENGTH)
    path.load()
    path.require_lands()
    if at == "dma_buf_pin" and not pins(guest):
        pytest.skip("iommufd of this kernel does not pin what it imports")
    take_away = sides.revoke if event == "revoke" else sides.device.reset
    met = meet(
        hold,
        (at,),
        (sides.client, partial(space.map, sides.shared, IOVA)),
        (sides.owner, take_away),
        leaving=at == ATTACHED,
    )
    finding(f"A {event} {met.outcome} during an import at {at}, {told(met.first)}.")
    require_result(met.second, DONE)
    lost = Path(path.engine, path.faults, path.target, IOVA)
    lost.require_lost(f"through an import during a {event}")
    if not met.first.isupper():
        unmapped = space.unmap(IOVA, LENGTH)
        assert unmapped == LENGTH, "IOMMU_IOAS_UNMAP unmapped another length"


@requirement("RACE-12")
def test_an_unmap_during_a_revoke_or_reset_ends_both(
    c_owner: Actor,
    ram: Function,
    registers: Function,
    ram_witness: RamBar,
    guest: Guest,
    hold: Hold,
    finding: Finding,
) -> None:
    """An import that is being detached when its DMABUF is taken away is unmapped, and its DMA is refused."""
    sides = Sides.of(c_owner, ram, held="client")
    edu = sides.client.open(registers.address, "cdev")
    space = AddressSpace.of(edu)
    space.attach()
    path = Path(Engine(edu), Faults(guest), HostWord(ram_witness, START), IOVA)
    # The reset comes first: a base without a revoke can be asked about a complaint of the kernel.
    for event, take_away in (("reset", sides.device.reset), ("revoke", sides.revoke)):
        space.map(sides.shared, IOVA)
        path.load()
        path.require_lands()
        mark = guest.machine.console.mark()
        unmap = partial(space.unmap, IOVA, LENGTH)
        met = meet(hold, ("dma_buf_detach",), (sides.client, unmap), (sides.owner, take_away))
        finding(f"A {event} {met.outcome} during an unmap at dma_buf_detach.")
        require_result(met.first, f"{LENGTH:#x}")
        require_result(met.second, DONE)
        path.require_lost(f"after its unmap and a {event}")
        if any(one.fault for one in guest.machine.console.splats(mark)):
            return


def pins(guest: Guest) -> bool:
    """Tell whether iommufd pins what it imports: the releases whose exporters can be waited for."""
    return guest.symbols.has("dma_buf_invalidate_mappings")
