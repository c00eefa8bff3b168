"""Scenarios of requirements that are information only, and one that shares a binding requirement."""

from __future__ import annotations

from collections.abc import Callable

from harness.guest.guest import Guest
from harness.plugin.markers import requirement


@requirement("ATTR-04")
def test_information_violated(guest: Guest, finding: Callable[[str], None]) -> None:
    """The page table says WC."""
    finding(f"The taint is {guest.read('/proc/sys/kernel/tainted').strip()}.")
    assert "PCD" == "PWT"  # type: ignore[comparison-overlap]


@requirement("MAP-12")
def test_information_conforming(guest: Guest) -> None:
    """The default is uncached."""


@requirement("ATTR-04", "MAP-01")
def test_binding_violated(guest: Guest, finding: Callable[[str], None]) -> None:
    """It maps."""
    finding("It said EINVAL.")
    raise AssertionError("EINVAL")
