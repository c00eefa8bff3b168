"""A limit of time for a command: when it is over, the command is interrupted, in order."""

from __future__ import annotations

import re
import threading
import time

from harness.lib import interruption

#: The reason of such an interruption begins with this; the limit follows.
REASON = "time limit "
#: With less time than this (seconds), a command does not begin another run.
LEAST = 2.0
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class _Running:
    """The limit that was started, its end on the clock of time.monotonic(), and what waits for that."""

    def __init__(self) -> None:
        self.limit = ""
        self.end = 0.0
        self.timer: threading.Timer | None = None


_running = _Running()


def seconds_of(limit: str) -> int:
    """Return the seconds of a limit such as ``90s``, ``45m`` or ``2h``.  Raises ValueError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", limit)
    if found is None:
        raise ValueError(f"{limit!r} is not a time: a number with s, m or h, such as 90s, 45m or 2h")
    return int(found[1]) * _SECONDS[found[2]]


def start(limit: str) -> None:
    """Interrupt the program when the ``limit`` is over; an empty one is none, and replaces one as well."""
    if _running.timer is not None:
        _running.timer.cancel()
    _running.limit, _running.timer = limit, None
    if not limit:
        return
    seconds = seconds_of(limit)
    _running.end = time.monotonic() + seconds
    _running.timer = threading.Timer(seconds, _over)
    _running.timer.daemon = True
    _running.timer.start()


def left() -> str:
    """Return what is left of the limit, as another run takes it; empty without a limit.

    Raises Interruption if that is next to nothing.
    """
    if not _running.limit:
        return ""
    seconds = _running.end - time.monotonic()
    if seconds < LEAST:
        _over()
        interruption.check()
    return f"{max(1, int(seconds))}s"


def _over() -> None:
    interruption.request(REASON + _running.limit)
