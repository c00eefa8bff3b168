"""Constants of the ABI, of QEMU's devices and of the test machine, each with its source."""

from __future__ import annotations

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40  # bytes
PMD_SIZE = 2 * MIB  # arch/x86/include/asm/pgtable_64_types.h: what one PMD maps

NOBODY = 65534  # include/linux/highuid.h, DEFAULT_OVERFLOWUID: a user who is neither root nor the owner

# include/linux/pci.h, include/uapi/linux/pci_regs.h; harness.actor.handles has the other bits of PCI_COMMAND.
D0, D3HOT = 0, 3
PCI_COMMAND_MASTER = 0x4

# include/uapi/linux/dma-buf.h of the dialect ``ioctl``
DMA_BUF_IOCTL_REVOKE = 0x6204  # _IO('b', 4)

# include/uapi/linux/vfio.h of the dialect ``device-ioctl``
VFIO_DEVICE_PCI_DMABUF_REVOKE = 0x3B7A  # _IO(';', 100 + 22)

# include/uapi/linux/vfio.h of the series.  Some revisions choose write-combining by a flag of an export,
# others by a device feature that takes a descriptor and the attribute.
WC_FLAG = 1 << 28
NC, WC = 0, 1  # not cached, write-combining
REVOKE_NUMBERS, MEMATTR_NUMBERS = (
    (13,),
    (13, 14),
)  # of the features in the revisions; later kernels have others

# QEMU docs/specs/ivshmem-spec.rst: BAR 2 is the shared memory, BAR 0 has the registers.
RAM_BAR = 2
RAM_BAR_SIZE = 64 * MIB  # harness/vm/pci_devices.py, Layout.ram
FRONT = 8 * MIB  # what a scenario stamps of the RAM BAR if all of its DMABUFs begin and end there
IVSHMEM_BAR, IVSHMEM_INTERRUPT_MASK = 0, 0x00  # a reset clears the interrupt mask

# QEMU docs/specs/edu.rst.  A reset changes none of these registers.
EDU_BAR = 0
EDU_IDENTIFICATION, EDU_MAGIC = 0x00, 0x010000ED  # a read-only register and its value
EDU_LIVENESS = 0x04  # reads back inverted
IOVA = 0x100000  # a DMA address within the 28 bits of an edu's DMA mask

# include/uapi/linux/iommufd.h, IOMMU_IOAS_MAP_*
FIXED_IOVA, WRITEABLE, READABLE = 1, 2, 4

# QEMU hw/virtio/virtio-pci.c: virtio before 1.0 has I/O ports in BAR 0, virtio 1.0 has registers in BAR 4.
VIRTIO_IO_BAR, VIRTIO_BAR = 0, 4
VIRTIO_SELECT = 0x00  # 32 bits: selects which feature bits are shown; reads back what was written last
VIRTIO_VECTOR, VIRTIO_NO_VECTOR = 0x10, 0xFFFF  # of interrupts
VIRTIO_STATUS = 0x14  # 8 bits: a reset clears it
SENTINEL = 0x5A5A0001  # written to VIRTIO_SELECT; not the content of an edu's buffer
