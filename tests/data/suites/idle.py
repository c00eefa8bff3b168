"""A scenario that asks nothing of the guest."""

from __future__ import annotations

from harness.guest.guest import Guest
from harness.plugin.markers import requirement


@requirement("MAP-01")
def test_guest_boots(guest: Guest) -> None:
    pass
