"""Count the objects of a slab cache."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from harness.guest.answers import understood
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

# kfree_rcu(), by which a dma_resv frees its list, waits up to 5 s for more objects, unless shrinkers run
# (mm/slab_common.c, kfree_rcu_shrink_scan()).  Then it waits for a grace period, as call_rcu() does;
# rcu_barrier() returns after that (kernel/rcu/tree.c, do_rcu_barrier).
_SHRINK = r"""
echo 2 >/proc/sys/vm/drop_caches
echo 1 >/sys/module/rcutree/parameters/do_rcu_barrier
for cache; do echo 1 >"/sys/kernel/slab/$cache/shrink"; done
"""
#: The time that a kernel may take to free what was given back, on a busy host.
RECLAIM_SECONDS = 15.0
#: Objects are left over if their number has not changed for so long, over this many calls to free them.
UNCHANGED_SECONDS = 2.0
UNCHANGED_CALLS = 5


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
        """Shrink the general caches, and then read as of() does: without what waits to be freed."""
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

        Has the kernel free what waits to be freed, until the numbers stay as they are, or for
        RECLAIM_SECONDS: kfree_rcu() and KASAN's quarantine keep freed objects for a while.
        """
        began = changed = time.monotonic()
        last: dict[str, int] = {}
        calls = 0  # since the numbers changed
        while grown := self.grown(Slabs.of(guest), bound):
            now = time.monotonic()
            if grown != last:
                last, changed, calls = grown, now, 0
            settled = calls >= UNCHANGED_CALLS and now - changed > UNCHANGED_SECONDS
            if settled or now - began > RECLAIM_SECONDS:
                break
            guest.script(_SHRINK, *grown)
            calls += 1
        return grown

    def grown(self, now: Slabs, bound: int) -> dict[str, int]:
        """Return the growth in objects of each cache that grew by more than ``bound`` until ``now``."""
        more = {name: used - self.used.get(name, 0) for name, used in now.used.items()}
        return {name: count for name, count in more.items() if count > bound}
