"""One QEMU machine, seen from the host."""
