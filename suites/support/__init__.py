"""What scenarios share: QEMU's registers, the ways to a device's memory, constants and malformed calls."""
