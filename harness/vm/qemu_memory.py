"""The memory of a machine's QEMU: what it needs, and the limits that it is started with."""

from __future__ import annotations

from harness.vm.accelerator import TCG_CODE
from harness.vm.hardware import MEMORY, MIB
from harness.vm.pci_devices import Layout

#: QEMU's own memory beside the guest's and the translated code.
OWN = 128 * MIB
#: Address space that QEMU takes and hardly touches: libraries, stacks, arenas of malloc.
ADDRESS_SPACE = 2048 * MIB
#: The largest file that QEMU may write.  Its own messages are the only one: the console is a pipe.
MESSAGES_LIMIT = 16 * MIB


def parts(layout: Layout) -> dict[str, int]:
    """Return the bytes that a machine of this layout can use at most, by what for."""
    return {
        "guest": MEMORY,
        "RAM BARs": sum(layout.memories().values()),
        "display": layout.display,
        "translated code": TCG_CODE,
        "QEMU": OWN,
    }


def needed(layout: Layout) -> int:
    """Return the bytes that a machine of this layout can use at most."""
    return sum(parts(layout).values())


def limited(layout: Layout, command: list[str]) -> list[str]:
    """Return ``command`` under the limits for a machine of this layout.

    A QEMU that would allocate more ends with an error, or by a signal.  It writes no core file,
    which would have the guest's memory in it.  A message beyond MESSAGES_LIMIT is lost.
    """
    limits = [f"--as={needed(layout) + ADDRESS_SPACE}", f"--fsize={MESSAGES_LIMIT}", "--core=0"]
    return ["prlimit", *limits, "env", "--ignore-signal=XFSZ", *command]
