"""The speed of the guests of a run: measured now and then, recorded, and applied to their deadlines."""

from __future__ import annotations

import time

from harness.guest import speed
from harness.guest.guest import Guest
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.vm.accelerator import Accelerator


class Speeds:
    """How much slower than usual the guests ran; ``latest`` is the last factor that was measured."""

    def __init__(self, results: ResultsFolder, journal: JournalWriter) -> None:
        self.latest = 1.0
        self._results = results
        self._journal = journal
        self._largest: dict[str, float] = {}  # by the name of the machine
        self._measured = 0.0  # on the clock of time.monotonic()

    @property
    def outdated(self) -> bool:
        """Return whether the last measurement says little about the load of the host now."""
        return time.monotonic() - self._measured > speed.OUTDATED_SECONDS

    def apply(self, guest: Guest, usual: Accelerator) -> None:
        """Set the deadlines of a guest by the last measurement, or by a new one if that is outdated.

        Raises HarnessError, SshTimeoutError, SshLostError.
        """
        if self.outdated:
            self.measure(guest, usual)
        else:
            guest.machine.slowdown, guest.machine.accelerator = self.latest, usual.slower(self.latest)

    def measure(self, guest: Guest, usual: Accelerator) -> None:
        """Measure how fast the guest runs, and set its deadlines; ``usual`` has those of an idle host.

        The largest factor of each machine is in run.json.  The journal gets a note of the first one, and
        of each that is twice as large as all before.  Raises HarnessError, SshTimeoutError, SshLostError.
        """
        running = guest.machine
        self.latest = running.slowdown = speed.measure(guest)
        running.accelerator = usual.slower(self.latest)
        self._measured = time.monotonic()
        before = max(self._largest.values(), default=1.0)
        self._largest[running.name] = max(self._largest.get(running.name, 1.0), self.latest)
        self._results.write_run(slowdowns={running.name: self._largest[running.name]})
        if self.latest >= min(2 * before, speed.LIMIT) > before:
            self._journal.note(
                f"The guest of {running.name} ran {self.latest:g} times slower than usual, so its deadlines "
                f"were that much longer (at most {speed.LIMIT:g} times). This host was busy, or is slow."
            )
