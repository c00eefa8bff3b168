"""The booted system, seen from inside: commands, PCI devices, and the health of the kernel."""
