"""Notice when a guest did not run: stopped by a signal, held by a debugger, a host that slept or was busy.

A guest that did not run misses its deadlines.  When it goes on, its clock has jumped, so its kernel may
report a lockup.  Neither is a fault of that kernel.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

TICK_SECONDS = 0.5
#: A shorter pause counts for nothing: a busy host makes those.
PAUSE_SECONDS = 5.0
#: A processor that a debugger holds for less counts for nothing: the kernel reports a processor that waits
#: for it after 20 s (kernel/watchdog.c, get_softlockup_thresh), and no operation has a shorter deadline.
HOLD_SECONDS = 15.0
#: The time after a pause in which the guest's kernel may still report it (kernel/watchdog.c).
ECHO_SECONDS = 10.0

_STOPPED = ("T", "t")  # of /proc/PID/stat


def now() -> float:
    """Return the present time on the clock that also counts while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PauseWatch:
    """Watches from its construction until close() for pauses of this program and of the process ``pid``."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pauses: list[tuple[float, str]] = []  # the end of each, and what it was
        self._last = now()
        self._stopped_at: float | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        threading.Thread(target=self._watch, name="pauses", daemon=True).start()

    def since(self, moment: float) -> str:
        """Describe, as a clause, a pause that reaches into the time since ``moment``; empty if none does.

        ``moment`` is on the clock of now().
        """
        self._look()
        with self._lock:
            found = [words for end, words in self._pauses if end > moment - ECHO_SECONDS]
        return found[0] if found else ""

    def add_hold(self, cpu: int, begun: float) -> None:
        """Count that a debugger has held a processor from ``begun``, a time of now(), until now.

        A hold shorter than HOLD_SECONDS is none.
        """
        end = now()
        if end - begun >= HOLD_SECONDS:
            with self._lock:
                self._pauses.append((end, f"a debugger held processor {cpu} for {end - begun:.0f} s"))

    def close(self) -> None:
        """End the watch."""
        self._closing.set()

    def _watch(self) -> None:
        while not self._closing.wait(TICK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Compare the time with that of the last look, and see whether QEMU is stopped."""
        with self._lock:
            time_now = now()
            gap, self._last = time_now - self._last, time_now
            if gap >= PAUSE_SECONDS:
                words = f"this program did not run for {gap:.0f} s: it was stopped, or the host slept"
                self._pauses.append((time_now, f"{words} or was overloaded"))
            if _is_stopped(self._pid):
                if self._stopped_at is None:
                    self._stopped_at = time_now
                seconds = max(time_now - self._stopped_at, TICK_SECONDS)
                if self._pauses and self._pauses[-1][1].startswith("QEMU"):
                    self._pauses.pop()
                self._pauses.append((time_now, f"QEMU was stopped by a signal, for {seconds:.0f} s or more"))
            else:
                self._stopped_at = None


def _is_stopped(pid: int) -> bool:
    """Return whether a signal has stopped the process, and nothing has continued it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in _STOPPED
