"""Count the objects of a slab cache."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from harness.guest.answers import understood
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

_SHRINK = r"""
for cache; do echo 1 >"/sys/kernel/slab/$cache/shrink"; done
"""
#: kfree_rcu(), by which a dma_resv frees its list, may wait 5 s for more objects (KFREE_DRAIN_JIFFIES in
#: mm/slab_common.c); then there is a grace period.
RECLAIM_SECONDS = 15.0


@dataclass(frozen=True)
class Slabs:
    """The number of objects in use, for each of the kernel's slab caches.

    Free objects in per-CPU slabs count as used (mm/slub.c, get_slabinfo()):
    the number of a cache varies by some hundreds without a leak.
    """

    used: Mapping[str, int]

    @classmethod
    def of(cls, guest: Guest) -> Slabs:
        """Read /proc/slabinfo of the guest.  Raises HarnessError; the kernel needs CONFIG_SLUB_DEBUG."""
        return cls.parse(guest.read("/proc/slabinfo"))

    @classmethod
    def settled(cls, guest: Guest) -> Slabs:
        """Shrink the general caches, and then read as of() does: without what KASAN keeps in quarantine."""
        names = [name for name in cls.of(guest).used if name.startswith("kmalloc-")]
        guest.script(_SHRINK, *names)
        return cls.of(guest)

    @classmethod
    def parse(cls, text: str) -> Slabs:
        """Parse /proc/slabinfo, version 2.1.  Raises HarnessError for any other."""
        lines = text.splitlines()
        if lines[:1] != ["slabinfo - version: 2.1"]:
            raise HarnessError(f"/proc/slabinfo begins with {text[:80]!r}, which is not known here.")
        with understood("/proc/slabinfo"):
            return cls({name: int(used) for name, used, *_ in map(str.split, lines[2:])})

    def growth(self, guest: Guest, bound: int) -> dict[str, int]:
        """Return the caches that stay grown by more than ``bound`` objects, see grown().

        Waits up to RECLAIM_SECONDS for RCU to free objects, and shrinks the caches:
        KASAN keeps freed objects in quarantine for a while, where they count as used.
        """
        deadline = time.monotonic() + RECLAIM_SECONDS
        while grown := self.grown(Slabs.of(guest), bound):
            if time.monotonic() > deadline:
                break
            guest.script(_SHRINK, *grown)
        return grown

    def grown(self, now: Slabs, bound: int) -> dict[str, int]:
        """Return the growth in objects of each cache that grew by more than ``bound`` until ``now``."""
        more = {name: used - self.used.get(name, 0) for name, used in now.used.items()}
        return {name: count for name, count in more.items() if count > bound}
