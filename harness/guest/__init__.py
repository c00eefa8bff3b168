"""The booted system, seen from inside: commands, devices, and the health of the kernel."""
