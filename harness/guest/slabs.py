"""Count the objects of a slab cache."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

_SHRINK = r"""
for cache; do echo 1 >"/sys/kernel/slab/$cache/shrink"; done
"""
RECLAIM_SECONDS = 5.0  # a grace period of RCU and what is freed after it, on a busy host


@dataclass(frozen=True)
class Slabs:
    """How many objects of each of the kernel's slab caches are in use.

    Free objects that a processor keeps at hand count as used (mm/slub.c,
    get_slabinfo()): some hundreds of a cache come and go without being lost.
    """

    used: Mapping[str, int]

    @classmethod
    def of(cls, guest: Guest) -> Slabs:
        """Ask the guest.  Raises HarnessError if it does not say; the kernel needs CONFIG_SLUB_DEBUG."""
        return cls.parse(guest.read("/proc/slabinfo"))

    @classmethod
    def parse(cls, text: str) -> Slabs:
        """From /proc/slabinfo, version 2.1.  Raises HarnessError."""
        lines = text.splitlines()
        if lines[:1] != ["slabinfo - version: 2.1"]:
            raise HarnessError(f"/proc/slabinfo begins with {text[:80]!r}, which is not known here.")
        return cls({name: int(used) for name, used, *_ in map(str.split, lines[2:])})

    def growth(self, guest: Guest, bound: int) -> dict[str, int]:
        """What has grown by more than ``bound`` objects, see grown().

        Waits for what RCU is yet to free, and has the kernel let go of what is free
        already: KASAN keeps that for a while, and it counts as used.
        """
        deadline = time.monotonic() + RECLAIM_SECONDS
        while grown := self.grown(Slabs.of(guest), bound):
            if time.monotonic() > deadline:
                break
            guest.script(_SHRINK, *grown)
        return grown

    def grown(self, now: Slabs, bound: int) -> dict[str, int]:
        """The caches that have grown by more than ``bound`` objects until ``now``, by how many."""
        more = {name: used - self.used.get(name, 0) for name, used in now.used.items()}
        return {name: count for name, count in more.items() if count > bound}
