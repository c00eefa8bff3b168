"""Code that scenarios share: constants, QEMU's registers, access to a device's memory, malformed calls."""
