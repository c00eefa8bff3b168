"""Scenarios in which the time limit of their run is over, each time once.

tests/test_time_limit.py runs this suite, and a run that is resumed runs on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.guest.guest import Guest
from harness.lib import interruption
from harness.lib.time_limit import REASON
from harness.plugin.markers import requirement


def be_over(guest: Guest, name: str) -> None:
    """Let the time limit be over, unless an earlier part of the run was ended here."""
    mark = Path(os.environ["PATCHPROOF_TEST_MARK"]) / name
    if not mark.exists():
        mark.touch()
        interruption.request(f"{REASON}45m")
    guest.read("/proc/cmdline")


@requirement("MAP-01")
def test_first(guest: Guest) -> None:
    assert guest.read("/proc/cmdline")


@requirement("MAP-02")
def test_body_is_cut_off(guest: Guest) -> None:
    be_over(guest, "body")


@pytest.fixture
def long_clean_up(guest: Guest) -> Iterator[None]:
    yield
    be_over(guest, "clean-up")


@requirement("MAP-03")
def test_clean_up_of_a_violation_is_cut_off(long_clean_up: None) -> None:
    raise AssertionError("it is not so")


@requirement("MAP-04")
def test_complaint_is_cut_off(guest: Guest) -> None:
    guest.write("/sys/kernel/debug/provoke-crash/DIRECT", "WARNING")
    be_over(guest, "complaint")


@requirement("MAP-05")
def test_last(guest: Guest) -> None:
    assert guest.read("/proc/cmdline")
