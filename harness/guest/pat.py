"""The memory types that x86 reserves for ranges of physical addresses; they decide how a BAR is cached."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.guest.answers import understood
from harness.guest.guest import Guest, PciFunction
from harness.lib.errors import HarnessError

LIST = "/sys/kernel/debug/x86/pat_memtype_list"
# arch/x86/mm/pat/memtype.c: memtype_seq_show(); the end is exclusive.
_LINE = re.compile(r"PAT: \[mem 0x(?P<start>[0-9a-f]+)-0x(?P<end>[0-9a-f]+)\] (?P<mode>\S+)")


@dataclass(frozen=True)
class MemoryType:
    """A range of physical addresses and its reserved mode (``write-combining``); ``end`` is exclusive."""

    start: int
    end: int
    mode: str


def parse(text: str) -> tuple[MemoryType, ...]:
    """Parse the kernel's list.  Raises HarnessError if a line has another form."""
    first, *lines = text.splitlines() or [""]
    found = [_LINE.fullmatch(line) for line in lines]
    if first != "PAT memtype list:" or None in found:
        raise HarnessError(f"{LIST} begins with {text[:200]!r}, which is not known here.")
    return tuple(MemoryType(int(one["start"], 16), int(one["end"], 16), one["mode"]) for one in found if one)


def of_bar(guest: Guest, device: PciFunction, bar: int) -> frozenset[str]:
    """Return the modes that parts of a BAR are reserved for.  Raises HarnessError on a kernel without PAT."""
    resources = guest.read(f"/sys/bus/pci/devices/{device.address}/resource").splitlines()
    with understood("list of resources"):
        start = int(resources[bar].split()[0], 16)
    end = start + device.bars[bar]
    return frozenset(one.mode for one in parse(guest.read(LIST)) if one.start < end and one.end > start)
