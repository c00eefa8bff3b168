"""IMP: accesses from within the kernel to an address space that maps a DMABUF."""

from __future__ import annotations

import struct

from harness.actor.actor import Actor
from harness.actor.handles import Device, Range
from harness.actor.ioctl import Anchor, Argument, call_for_data
from harness.actor.iommufd import AddressSpace
from harness.actor.reply import outcome
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import machine, needs_option, requirement
from harness.vm.hardware import PAGE
from suites.support.constants import RAM_BAR

# drivers/iommu/iommufd/iommufd_test.h: _IO(';', 0x80 + 32), its operations, and a flag.
IOMMU_TEST_CMD = 0x3BA0
MOCK_DOMAIN, CREATE_ACCESS, DESTROY_ACCESS_PAGES, ACCESS_PAGES = 2, 5, 6, 7
NEEDS_PIN_PAGES = 1
COMMAND = 128  # bytes, more than struct iommu_test_cmd has; the kernel requires zeros behind it
HEADER = struct.calcsize("=IIII")
APERTURE = 1 << 24  # of the mock domain, and of both maps
OTHER_IOVA = APERTURE + (1 << 20)


class Access:
    """An access that pins pages of an address space, which has a mock domain as well."""

    def __init__(self, space: AddressSpace) -> None:
        self._device = space.device
        self._test(MOCK_DOMAIN, space.number)
        (self._descriptor,) = struct.unpack_from(
            "=I", self._test(CREATE_ACCESS, space.number, struct.pack("=II", 0, NEEDS_PIN_PAGES))
        )

    def pin(self, iova: int) -> int:
        """Pin a page; return the number of the pin.  Raises Refused."""
        reply = self._test(ACCESS_PAGES, self._descriptor, struct.pack("=IIQQQ", 0, 0, iova, PAGE, 0))
        return int(struct.unpack_from("=I", reply, 4)[0])

    def unpin(self, pin: int) -> None:
        """Give a pinned page back."""
        self._test(DESTROY_ACCESS_PAGES, self._descriptor, struct.pack("=I", pin))

    def _test(self, operation: int, number: int, members: bytes = b"") -> bytes:
        """Call an operation of iommufd's test; return its members afterwards."""
        head = struct.pack("=IIII", COMMAND, operation, number, 0)
        data = (head + members).ljust(COMMAND, b"\0")
        anchor = Anchor(self._device)
        return call_for_data(self._device.actor, anchor, IOMMU_TEST_CMD, Argument([data]))[HEADER:]


@requirement("IMP-18")
@needs_option("IOMMUFD_TEST")
@machine(alone=True)
def test_an_access_from_within_the_kernel_cannot_pin_an_import(
    c_owner: Actor, ram: Function, importer: Device
) -> None:
    """An access of iommufd, which pins ordinary memory, is refused the pages of an imported DMABUF."""
    buffer = c_owner.export(c_owner.open(ram.address), RAM_BAR, [Range(0, 4 * PAGE)])
    memory = c_owner.make("memfd", 4 * PAGE)
    space = AddressSpace.of(importer)
    space.map(memory, OTHER_IOVA)
    space.map(buffer, APERTURE)
    access = Access(space)
    access.unpin(access.pin(OTHER_IOVA))
    assert outcome(lambda: access.pin(APERTURE)) == "EINVAL"
