"""How much slower than usual the guest runs now, by which deadlines are made longer.

A loop in the guest's shell is timed by the host's clock.  It makes no system calls, so it measures the
processor, its emulation and the load of the host, and hardly the kernel under test.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from harness.guest.guest import Guest

#: A guest below this factor runs as usual: what is measured of an idle host differs by as much.
NOTICEABLE = 1.5
#: The largest factor, so that a guest cannot ask for any time that it likes.
LIMIT = 8.0
#: Seconds after which the speed of a machine is measured again: the load of a host changes.
OUTDATED_SECONDS = 60.0
SAMPLES = 3  # of which the one in the middle counts: a busy host stops a guest for a moment now and then

_LOOP = 'n=0; while [ "$n" -lt "$1" ]; do n=$((n + 1)); done'


@dataclass(frozen=True)
class Loop:
    """A loop of ``rounds``, which usually takes ``seconds``: on an idle host."""

    rounds: int
    seconds: float


LOOPS = {"kvm": Loop(50_000, 0.12), "tcg": Loop(2_000, 0.1)}  # by the name of the accelerator


def slowdown(seconds: float, usual: float) -> float:
    """Return the factor for deadlines, from 1 to LIMIT, of a guest in which the loop took ``seconds``."""
    factor = seconds / usual
    return 1.0 if factor < NOTICEABLE else min(round(factor, 1), LIMIT)


def measure(guest: Guest) -> float:
    """Return the factor for deadlines in this guest, at the load that the host has now.

    Raises HarnessError if the shell cannot count, SshTimeoutError, SshLostError.
    """
    loop = LOOPS[guest.machine.accelerator.name]
    taken = []
    for _ in range(SAMPLES):
        started = time.monotonic()
        guest.script(_LOOP, str(loop.rounds))
        taken.append(time.monotonic() - started)
    return slowdown(statistics.median(taken), loop.seconds)
