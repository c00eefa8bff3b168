"""Write the plan and the events of a run: a record that stays true if the harness is killed.

``plan.json`` is written once, before the first machine starts.  ``events.jsonl``
grows by one JSON object per line; each is synced to the disk before the run goes on::

    {"time": "2026-02-26T20:22:11+00:00", "event": "started", "id": "boot", "verdict": "harness-error"}

=================  ===========================================================
event              further members
=================  ===========================================================
``run-started``    ``resumed``: true, where an earlier part of the run was cut off
``started``        ``id``, ``verdict`` (provisional, until ``ended`` replaces it)
``ended``          ``id``, ``verdict``, ``reason``, ``details``, ``transcript``,
                   ``console`` (file, start, end), ``duration`` (seconds), and
                   ``silent``, the verdict without the console's evidence, if another;
                   ``failure`` and ``deviation`` (its members), see Result, if there were any
``machine-started``  ``machine`` (its name), any facts
``machine-up``       ``machine``, ``seconds`` from its start to the first login
``detectors``        ``machine``, ``detectors``: name, state and words of each, in a list
``machine-ended``  ``machine``, ``reason``; ``verdict`` if the kernel had a fault
                   while no scenario ran
``finding``        ``id``, ``text``: an observation of a running scenario, not judged
``cases``          ``id``, ``cases``: name, verdict and reason of each result that a test program
                   of the kernel reported, in a list
``compared``       ``id``, ``base``: the members of a BaseAnswer, the result on the base alone
``note``           ``text``
``interrupted``    ``reason``: a signal's name, or ``time limit 45m``
``not-reached``    ``id``, ``reason``: why an entry has no verdict, also one that has started
``shard-ended``    ``shard`` (``2/4``), ``run`` (its name): merge() ends each shard's events with it
``run-ended``
=================  ===========================================================

A scenario or test program that started and did not end is ``kernel-died``.  A stage that did not end
is ``harness-error``, because only the harness's own death leaves a stage open.
``harness.journal.reader`` reads the files back.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.journal import plan_file
from harness.journal.plan_file import PLAN
from harness.lib import jsonl
from harness.lib.errors import HarnessError, PatchproofError, SeriesError
from harness.lib.shard import Shard
from harness.verdict.case import Case
from harness.verdict.comparison import BaseAnswer
from harness.verdict.detector import Detector
from harness.verdict.deviation import Deviation
from harness.verdict.halving import Try
from harness.verdict.record import ConsoleRange, Entry, Record
from harness.verdict.verdict import IN_GUEST, Verdict

EVENTS = "events.jsonl"
#: Characters of one text in an event; endless output of a guest must not fill the journal.
EVIDENCE_LIMIT = 64 * 1024
CASE_LIMIT = 2048  # characters of the reason of one of many cases
REFUSED_LIMIT = 64  # operations of a scenario that the kernel refused


class JournalWriter:
    """Writes the plan and the events of one run into its results folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._plan: dict[str, Entry] = {}
        self._start_times: dict[str, float] = {}  # by entry id, of time.monotonic()
        self._passed: frozenset[str] = frozenset()
        self._noted: set[str] = set()
        self._unwritten = False  # resumed, and no event has been written since
        self._lock: weakref.finalize[..., JournalWriter] | None = None

    def plan(self, entries: Iterable[Entry], shard: Shard | None = None) -> None:
        """Write the plan, all entries ``not-reached``, and take the lock.

        A run of a ``shard`` writes the whole plan, so that each shard has the same, and names
        its own number: merge() can check that the shards are those of one selection.

        Raises HarnessError if the folder has a plan already, or two entries share an id.
        """
        planned = tuple(entries)
        self._plan = {entry.id: entry for entry in planned}
        if len(self._plan) != len(planned):
            twice = sorted({e.id for e in planned if sum(o.id == e.id for o in planned) > 1})
            raise HarnessError(f"The plan has more than one entry of this name: {', '.join(twice)}.")
        if (self.directory / PLAN).exists():
            raise HarnessError(f"{self.directory / PLAN} exists; a plan is written once. Start a new run.")
        self.lock()
        plan_file.write(self.directory, planned, shard)

    def lock(self) -> None:
        """Keep other processes from writing this journal until this process ends.

        The folder itself is locked (flock()), so there is no lock file, and the kernel
        releases the lock when its holder dies.

        Raises HarnessError if another process holds the lock.
        """
        if self._lock is not None:
            return
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise HarnessError(
                f"The run in {self.directory} is still going on. Wait for its end, or end it."
            ) from error
        self._lock = weakref.finalize(self, os.close, folder)

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock()
            self._lock = None

    def resume(self, record: Record) -> None:
        """Continue the run of ``record``, which was read after lock().

        An unfinished last line is removed.  The first event that is written afterwards
        is preceded by ``run-started`` with ``resumed``.  A stage that an earlier part
        passed runs again without events.
        """
        self.lock()
        jsonl.remove_unfinished_line(self.directory / EVENTS)
        self._plan = {result.entry.id: result.entry for result in record.results}
        self._passed = frozenset(
            result.entry.id
            for result in record.results
            if result.entry.kind not in IN_GUEST and result.verdict is Verdict.CONFORMS
        )
        self._noted = set(record.notes)
        self._unwritten = True

    @classmethod
    def beside(cls, directory: Path, entries: Iterable[Entry]) -> JournalWriter:
        """Return a writer for another process of a run, whose own writer keeps the lock, see share()."""
        writer = cls(directory)
        writer._plan = {entry.id: entry for entry in entries}
        return writer

    def share(self) -> None:
        """Let other processes write, too: a resumed run gets its first event now, not twice."""
        self._write_resumption()

    def take_over(self, entry_id: str) -> None:
        """Go on with an entry that another process has started, so that it can be ended here."""
        self._start_times[entry_id] = time.monotonic()

    def passed(self, stage: str) -> bool:
        """Return whether an earlier part of the run passed this stage."""
        return stage in self._passed

    @property
    def unwritten(self) -> bool:
        """Return whether the run was resumed and no event has been written since."""
        return self._unwritten

    def run_started(self) -> None:
        """Record the start of the run; a resumed run gets this event with its first other one."""
        if not self._unwritten:
            self._write("run-started")

    def started(self, entry_id: str) -> None:
        """Record the start of an entry, with the pessimistic verdict that holds until ended() is called."""
        entry = self._plan.get(entry_id)
        in_guest = entry is None or entry.kind in IN_GUEST
        self._start_times[entry_id] = time.monotonic()
        self._write(
            "started", id=entry_id, verdict=Verdict.KERNEL_DIED if in_guest else Verdict.HARNESS_ERROR
        )

    def ended(
        self,
        entry_id: str,
        observed: Verdict,
        *,
        without_console: Verdict | None = None,
        reason: str = "",
        details: str = "",
        transcript: Path | None = None,
        console: ConsoleRange | None = None,
        failure: str = "",
        deviation: Deviation | None = None,
        refused: Iterable[str] = (),
    ) -> Verdict:
        """Record the end of an entry; return its verdict, which is ``Entry.judge(observed)``.

        ``without_console`` is the observation without the console's evidence.  ``transcript`` is a
        file in the results folder; one elsewhere is not named in the journal.
        ``console`` is the part of the console that was written meanwhile.  ``failure``,
        ``deviation`` and ``refused`` are as in Result.
        """
        entry = self._plan.get(entry_id)
        verdict = entry.judge(observed) if entry is not None else observed
        event: dict[str, object] = {"id": entry_id, "verdict": verdict}
        if without_console is not None and without_console is not observed:
            event["silent"] = without_console
        if entry_id in self._start_times:
            event["duration"] = round(time.monotonic() - self._start_times[entry_id], 6)
        event |= {name: _shortened(text) for name, text in (("reason", reason), ("details", details)) if text}
        if transcript is not None and transcript.is_relative_to(self.directory):
            event["transcript"] = str(transcript.relative_to(self.directory))
        if console is not None:
            event["console"] = [console.file, console.start, console.end]
        if failure:
            event["failure"] = _shortened(failure)
        if deviation is not None:
            event["deviation"] = deviation.members()
        if operations := [_shortened(one, CASE_LIMIT) for one in refused][:REFUSED_LIMIT]:
            event["refused"] = operations
        self._write("ended", **event)
        return verdict

    def not_reached(self, entry_id: str, reason: str) -> None:
        """Record that an entry, which may have started, gets no verdict; a resumed run runs it again."""
        self._write("not-reached", id=entry_id, reason=_shortened(reason))

    @contextmanager
    def stage(self, entry_id: str) -> Iterator[None]:
        """Run the body as a planned stage; a PatchproofError becomes its verdict and is raised again.

        SeriesError gives ``violates``, every other one ``harness-error``.  Another exception
        (Ctrl-C, a defect of the harness) leaves the stage open, which means ``harness-error``.
        """
        if self.passed(entry_id):
            yield
            return
        self.started(entry_id)
        try:
            yield
        except PatchproofError as error:
            fault = Verdict.VIOLATES if isinstance(error, SeriesError) else Verdict.HARNESS_ERROR
            self.ended(entry_id, fault, reason=error.message, details=error.tail, transcript=error.log)
            raise
        self.ended(entry_id, Verdict.CONFORMS)

    def machine_started(self, machine: str, **facts: str | float) -> None:
        """Record that a machine of this name is about to start."""
        self._write("machine-started", machine=machine, **facts)

    def machine_up(self, machine: str, seconds: float, snapshot: str = "") -> None:
        """Record the first login, ``seconds`` after the start of the machine.

        ``snapshot`` is the machine from whose snapshot it was loaded, empty if it was booted.
        """
        members = {"snapshot": snapshot} if snapshot else {}
        self._write("machine-up", machine=machine, seconds=round(seconds, 3), **members)

    def detectors(self, machine: str, detectors: Iterable[Detector]) -> None:
        """Record the detectors' positive controls on this machine, before its first scenario."""
        rows = [[one.name, one.state, _shortened(one.words)] for one in detectors]
        self._write("detectors", machine=machine, detectors=rows)

    def machine_ended(self, machine: str, reason: str, verdict: Verdict | None = None) -> None:
        """Record the end of a machine: powered off, panicked, killed.

        ``verdict`` is given for a fault of its kernel while no scenario ran.
        """
        members = {} if verdict is None else {"verdict": verdict}
        self._write("machine-ended", machine=machine, reason=_shortened(reason), **members)

    def finding(self, entry_id: str, text: str) -> None:
        """Record an observation of a running scenario; no verdict depends on it."""
        self._write("finding", id=entry_id, text=_shortened(text))

    def cases(self, entry_id: str, cases: Iterable[Case]) -> None:
        """Record the results that a test program, which is in progress, has reported."""
        rows = [[one.name, one.verdict, _shortened(one.reason, CASE_LIMIT)] for one in cases]
        self._write("cases", id=entry_id, cases=rows)

    def compared(self, entry_id: str, base: BaseAnswer) -> None:
        """Record the result of a scenario that violated on the base alone."""
        self._write("compared", id=entry_id, base=base.members())

    def tried(self, entry_id: str, one: Try) -> None:
        """Record the state of a scenario that violated on a prefix of the series."""
        self._write("tried", id=entry_id, **{**one.members(), "reason": _shortened(one.reason, CASE_LIMIT)})

    def mended(self, entry_id: str, by: int) -> None:
        """Record the number of the patch with which the series compiles again."""
        self._write("mended", id=entry_id, by=by)

    def note(self, text: str) -> None:
        """Record a note for the reader of the report; the same text is recorded once."""
        if text not in self._noted:
            self._noted.add(text)
            self._write("note", text=_shortened(text))

    def interrupted(self, reason: str) -> None:
        """Record that the run was ended early; ``reason`` is the signal (``SIGINT``), or the time limit."""
        self._write("interrupted", reason=reason)

    def run_ended(self) -> None:
        """Record that the run came to its own end, with whatever result."""
        self._write("run-ended")

    def _write(self, event: str, **members: object) -> None:
        self._write_resumption()
        jsonl.append(self.directory / EVENTS, event, **members)

    def _write_resumption(self) -> None:
        if self._unwritten:
            jsonl.append(self.directory / EVENTS, "run-started", resumed=True)
            self._unwritten = False


def _shortened(text: str, limit: int = EVIDENCE_LIMIT) -> str:
    """Return ``text``; if it is longer than ``limit`` characters, without its middle."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
