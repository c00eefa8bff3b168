"""The ways to reset a device, and the DMA of QEMU's edu."""

from __future__ import annotations

from harness.actor.handles import PCI_COMMAND, Device
from harness.lib.errors import HarnessError
from suites.support.constants import EDU_BAR, PCI_COMMAND_MASTER

RESETS = {"reset": Device.reset, "hot reset": Device.hot_reset, "function-level reset": Device.reset_function}

# QEMU docs/specs/edu.rst: the DMA engine.
_SOURCE, _DESTINATION, _COUNT, _COMMAND = 0x80, 0x88, 0x90, 0x98
_START, _TO_MEMORY = 1, 2
_BUFFER = 0x40000  # the device's own memory, as its DMA engine addresses it
_POLLS = 2000  # QEMU begins a transfer 100 ms after the command


def write_by_dma(edu: Device, address: int) -> None:
    """Have an edu write 4 bytes of its buffer to a DMA address below 256 MiB.

    The buffer's content is unknown.  A write that the IOMMU refuses is lost, and the
    device does not report that.  HarnessError if the transfer does not end.
    """
    command = edu.read("config", PCI_COMMAND, 2)
    edu.write("config", PCI_COMMAND, 2, command | PCI_COMMAND_MASTER)
    for register, value in ((_SOURCE, _BUFFER), (_DESTINATION, address), (_COUNT, 4)):
        edu.write(EDU_BAR, register, 8, value)
    edu.write(EDU_BAR, _COMMAND, 8, _START | _TO_MEMORY)
    for _ in range(_POLLS):
        if not edu.read(EDU_BAR, _COMMAND, 8) & _START:
            return
    raise HarnessError(f"The DMA of {edu.address} does not end.")
