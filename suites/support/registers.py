"""The ways to reset a device, the registers of QEMU's that show it, and the DMA of its edu."""

from __future__ import annotations

from harness.errors import HarnessError
from harness.probe import PCI_COMMAND, Device

RESETS = {"reset": Device.reset, "hot reset": Device.hot_reset, "function-level reset": Device.reset_function}

# docs/specs/edu.rst: identification.  A reset changes none of its registers.
EDU_BAR = 0
EDU_IDENTIFICATION, EDU_MAGIC = 0x00, 0x010000ED
_SOURCE, _DESTINATION, _COUNT, _COMMAND = 0x80, 0x88, 0x90, 0x98
_START, _TO_MEMORY = 1, 2
_BUFFER = 0x40000  # where the engine sees the device's own memory
_LOOKS = 2000  # a transfer begins 100 ms after it was asked for

# docs/specs/ivshmem-spec.rst, BAR 0: a reset clears it.
IVSHMEM_BAR, IVSHMEM_INTERRUPT_MASK = 0, 0x00

# hw/virtio/virtio-pci.c, the registers of virtio 1.0 in BAR 4 of virtio-rng-pci.
VIRTIO_BAR = 4
VIRTIO_SELECT = 0x00  # which features are shown: what was written last
VIRTIO_VECTOR, VIRTIO_NO_VECTOR = 0x10, 0xFFFF  # of interrupts
VIRTIO_STATUS = 0x14  # 8 bits: a reset clears it

IOVA = 0x100000  # a DMA address that an edu reaches: it has 28 bits of them
_MASTER = 0x4  # include/uapi/linux/pci_regs.h: PCI_COMMAND_MASTER


def write_by_dma(edu: Device, address: int) -> None:
    """Have an edu write 4 bytes of its own, which nobody knows, to a DMA address below 256 MiB.

    What its IOMMU refuses is lost, and the device does not tell.  HarnessError if
    the transfer does not end.
    """
    command = edu.read("config", PCI_COMMAND, 2)
    edu.write("config", PCI_COMMAND, 2, command | _MASTER)
    for register, value in ((_SOURCE, _BUFFER), (_DESTINATION, address), (_COUNT, 4)):
        edu.write(EDU_BAR, register, 8, value)
    edu.write(EDU_BAR, _COMMAND, 8, _START | _TO_MEMORY)
    for _ in range(_LOOKS):
        if not edu.read(EDU_BAR, _COMMAND, 8) & _START:
            return
    raise HarnessError(f"The DMA of {edu.address} does not end.")
