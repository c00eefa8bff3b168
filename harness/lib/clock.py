"""Notice that the clock of this host was set back: make goes by time stamps, and then keeps what is old."""

from __future__ import annotations

import time
from pathlib import Path

from harness.lib.errors import HarnessError

#: A smaller step is taken for the steady correction of a clock.
STEP_SECONDS = 2.0


def offset() -> float:
    """Return the seconds between the clock of the day and the time since the host's start.

    Only setting the clock of the day changes it by more than a little.
    """
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def is_from_the_future(path: Path) -> bool:
    """Return whether the time stamp of a file is later than now; false if there is no file."""
    return path.exists() and path.stat().st_mtime > time.time()


def require_not_set_back(before: float, work: str) -> None:
    """Raise HarnessError if the clock was set back during the ``work``, which goes by time stamps.

    ``before`` is the offset() at its begin.
    """
    back = before - offset()
    if back > STEP_SECONDS:
        raise HarnessError(
            f"The clock of this host was set back by {back:.0f} s during the {work}, and make goes by time "
            "stamps: the result may hold objects of another tree. Nothing is said about the series. Run it "
            "again, once the clock is right."
        )
