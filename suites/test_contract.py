"""CONTRACT: what iommufd does with a DMABUF, by the rules of dma_buf_invalidate_mappings().

The scenarios of the test importer (test_importer_*.py) check the exporter's part.
"""

from __future__ import annotations

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Device, Range
from harness.actor.iommufd import AddressSpace
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import requirement
from harness.vm.hardware import PAGE
from suites.support.constants import IOVA, RAM_BAR
from suites.support.fixtures import Finding

SPAN = [Range(0, 4 * PAGE)]


@requirement("CONTRACT-13")
@pytest.mark.parametrize("state", ["live", "suspended", "given back", "closed"])
def test_iommufd_unmaps_with_the_locks_it_needs(
    c_owner: Actor, ram: Function, importer: Device, finding: Finding, state: str
) -> None:
    """iommufd maps a DMABUF and unmaps it, in each state, and lockdep reports nothing."""
    if reason := c_owner.absent("PROVE_LOCKING"):
        finding(f"a lock that is not held would not be seen: the scenario {reason}")
    device = c_owner.open(ram.address)
    buffer = c_owner.export(device, RAM_BAR, SPAN)
    space = AddressSpace.of(importer)
    space.map(buffer, IOVA)
    space.attach()
    if state in ("suspended", "given back"):
        device.decode_memory(False)
    if state == "given back":
        device.decode_memory(True)
    if state == "closed":
        device.close()
    assert space.unmap(IOVA, buffer.size) == buffer.size
