"""A sweep over the locks of an operation that takes fewer of them than at first."""

from __future__ import annotations

from typing import cast

import pytest

from harness.guest.hold import Hold
from harness.lib.errors import HarnessError
from suites.support.sweep import MISSES, NOT_HELD, Sweep


def swept(outcomes: int) -> Sweep:
    """Return a sweep of three points that was held at so many."""
    sweep = Sweep(cast(Hold, None), "f", points=("a", "b", "c"))
    for _ in range(outcomes):
        sweep._count("waited")
    return sweep


def test_sweep_without_its_last_lock_is_over() -> None:
    sweep = swept(2)
    for _ in range(MISSES):
        assert not sweep.over()
        sweep._count(NOT_HELD)
    assert sweep.over()
    assert sweep.told() == "waited at a, waited at b (4 operations took one lock fewer than the first)"


@pytest.mark.parametrize("outcomes", [0, 1])
def test_sweep_without_two_locks_is_an_error(outcomes: int) -> None:
    sweep = swept(outcomes)
    for _ in range(MISSES - 1):
        sweep._count(NOT_HELD)
    with pytest.raises(HarnessError, match=f"held at lock {outcomes + 1} of 3 in f"):
        sweep._count(NOT_HELD)


def test_sweep_held_after_misses_tells_nothing_of_them() -> None:
    sweep = swept(2)
    sweep._count(NOT_HELD)
    sweep._count("returned")
    assert sweep.over()
    assert sweep.told() == "waited at a, waited at b, returned at c"
