"""Plan and events of a run: a record that stays true when the harness is killed.

``plan.json`` is written once, before the first machine starts.  ``events.jsonl``
grows by one JSON object per line, each on the disk before the run goes on::

    {"time": "2026-02-26T20:22:11+00:00", "event": "started", "id": "boot", "verdict": "harness-error"}

=================  ===========================================================
event              further members
=================  ===========================================================
``run-started``    ``resumed``: true, where an earlier part of the run was cut off
``started``        ``id``, ``verdict`` (what is true until ``ended`` replaces it)
``ended``          ``id``, ``verdict``, ``reason``, ``details``, ``transcript``,
                   ``console`` (file, start, end), ``duration`` (seconds), and
                   ``silent``, the verdict had the console said nothing, if another
``machine-started``  ``machine`` (its name), any facts
``machine-up``       ``machine``, ``seconds`` from its start to the first login
``detectors``        ``machine``, ``detectors``: name, state and words of each, in a list
``machine-ended``  ``machine``, ``reason``; ``verdict`` on a kernel that was not well
                   when no scenario was on
``finding``        ``id``, ``text``: what a scenario in progress observed, judged by nobody
``note``           ``text``
``interrupted``    ``reason``
``run-ended``
=================  ===========================================================

A scenario that started and did not end is ``kernel-died``; a stage is
``harness-error``: only our own death leaves one open.  ``harness.record`` reads it back.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.lib import jsonl
from harness.lib.errors import HarnessError, PatchproofError, SeriesError
from harness.lib.files import write_atomically
from harness.verdict.detector import Detector
from harness.verdict.record import ConsoleRange, Entry, Record
from harness.verdict.words import Kind, Verdict

PLAN = "plan.json"
EVENTS = "events.jsonl"
EVIDENCE_LIMIT = 64 * 1024  # characters; a guest that never stops talking must not fill the journal


class JournalWriter:
    """Writes the plan and the events of one run into its results folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._plan: dict[str, Entry] = {}
        self._began: dict[str, float] = {}
        self._passed: frozenset[str] = frozenset()
        self._noted: set[str] = set()
        self._waiting = False  # resumed, and nothing has happened yet
        self._folder: weakref.finalize[..., JournalWriter] | None = None

    def plan(self, entries: Iterable[Entry]) -> None:
        """Write the plan.  HarnessError if there is one already, or two entries share an id."""
        planned = tuple(entries)
        self._plan = {entry.id: entry for entry in planned}
        if len(self._plan) != len(planned):
            twice = sorted({e.id for e in planned if sum(o.id == e.id for o in planned) > 1})
            raise HarnessError(f"The plan has more than one entry of this name: {', '.join(twice)}.")
        if (self.directory / PLAN).exists():
            raise HarnessError(f"{self.directory / PLAN} exists; a plan is written once. Start a new run.")
        content = {
            "run": self.directory.name,
            "entries": [
                {
                    "id": entry.id,
                    "kind": entry.kind,
                    "title": entry.title,
                    "requirements": entry.requirements,
                    "expected": entry.expected,
                    "strength": entry.strength,
                    "repetition": entry.repetition,
                    "alone": entry.alone,
                    "verdict": Verdict.NOT_REACHED,
                }
                for entry in planned
            ],
        }
        self.lock()
        write_atomically(self.directory / PLAN, json.dumps(content, indent=1) + "\n")

    def lock(self) -> None:
        """Make sure that nobody else writes here until this process ends.

        The kernel drops the lock with its holder, and there is no file to it.  Raises
        HarnessError if another process has it.
        """
        if self._folder is not None:
            return
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise HarnessError(
                f"The run in {self.directory} is still going on. Wait for its end, or end it."
            ) from error
        self._folder = weakref.finalize(self, os.close, folder)

    def unlock(self) -> None:
        """Let others write here."""
        if self._folder is not None:
            self._folder()
            self._folder = None

    def resume(self, record: Record) -> None:
        """Go on with the run of which ``record`` was read after lock().

        A line that was never finished is cut off.  Nothing is written until something
        happens: then first that the run was resumed.  A stage that was passed is gone
        through again without a word.
        """
        self.lock()
        jsonl.cut_torn_line(self.directory / EVENTS)
        self._plan = {result.entry.id: result.entry for result in record.results}
        self._passed = frozenset(
            result.entry.id
            for result in record.results
            if result.entry.kind is not Kind.SCENARIO and result.verdict is Verdict.CONFORMS
        )
        self._noted = set(record.notes)
        self._waiting = True

    def passed(self, stage: str) -> bool:
        """Whether an earlier part of the run got through this stage."""
        return stage in self._passed

    @property
    def silent(self) -> bool:
        """Whether the run was resumed and nothing has been written since."""
        return self._waiting

    def run_started(self) -> None:
        """The run begins."""
        if not self._waiting:
            self._write("run-started")

    def started(self, entry_id: str) -> None:
        """An entry begins; until ``ended`` is called its record holds the worst."""
        entry = self._plan.get(entry_id)
        scenario = entry is None or entry.kind is Kind.SCENARIO
        self._began[entry_id] = time.monotonic()
        self._write(
            "started", id=entry_id, verdict=Verdict.KERNEL_DIED if scenario else Verdict.HARNESS_ERROR
        )

    def ended(
        self,
        entry_id: str,
        observed: Verdict,
        *,
        silent: Verdict | None = None,
        reason: str = "",
        details: str = "",
        transcript: Path | None = None,
        console: ConsoleRange | None = None,
    ) -> Verdict:
        """An entry ended; returns the verdict on what was observed (see ``Entry.judge``).

        ``silent`` is what had been observed if the console had said nothing,
        ``transcript`` a file in the results folder (one elsewhere is not named
        in the journal), ``console`` what the console said meanwhile.
        """
        entry = self._plan.get(entry_id)
        verdict = entry.judge(observed) if entry is not None else observed
        event: dict[str, object] = {"id": entry_id, "verdict": verdict}
        if silent is not None and silent is not observed:
            event["silent"] = silent
        if entry_id in self._began:
            event["duration"] = round(time.monotonic() - self._began[entry_id], 6)
        event |= {name: _shortened(text) for name, text in (("reason", reason), ("details", details)) if text}
        if transcript is not None and transcript.is_relative_to(self.directory):
            event["transcript"] = str(transcript.relative_to(self.directory))
        if console is not None:
            event["console"] = [console.file, console.start, console.end]
        self._write("ended", **event)
        return verdict

    @contextmanager
    def stage(self, entry_id: str) -> Iterator[None]:
        """Run the body as a planned stage; its error becomes the verdict and goes on.

        Anything but an error of ours (Ctrl-C, a defect of the harness) leaves the
        stage open, which is ``harness-error``.
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
        """A machine of this name is about to be started."""
        self._write("machine-started", machine=machine, **facts)

    def machine_up(self, machine: str, seconds: float) -> None:
        """Somebody can log in, ``seconds`` after the machine was started."""
        self._write("machine-up", machine=machine, seconds=round(seconds, 3))

    def detectors(self, machine: str, detectors: Iterable[Detector]) -> None:
        """What each detector made of what it was shown on this machine, before the first scenario there."""
        told = [[one.name, one.state, _shortened(one.words)] for one in detectors]
        self._write("detectors", machine=machine, detectors=told)

    def machine_ended(self, machine: str, reason: str, verdict: Verdict | None = None) -> None:
        """The machine is gone: powered off, panicked, killed.

        ``verdict`` is for what its kernel did when no scenario was on, and so none is to blame.
        """
        judged = {} if verdict is None else {"verdict": verdict}
        self._write("machine-ended", machine=machine, reason=_shortened(reason), **judged)

    def finding(self, entry_id: str, text: str) -> None:
        """What a scenario observed, between its start and its end; no verdict hangs on it."""
        self._write("finding", id=entry_id, text=_shortened(text))

    def note(self, text: str) -> None:
        """Something a reader of the report should know, said by no stage or scenario; said once."""
        if text not in self._noted:
            self._noted.add(text)
            self._write("note", text=_shortened(text))

    def interrupted(self, reason: str) -> None:
        """The user ended the run; ``reason`` says how (``SIGINT``)."""
        self._write("interrupted", reason=reason)

    def run_ended(self) -> None:
        """The run came to its own end, good or bad."""
        self._write("run-ended")

    def _write(self, event: str, **members: object) -> None:
        path = self.directory / EVENTS
        if self._waiting:
            jsonl.append(path, "run-started", resumed=True)
            self._waiting = False
        jsonl.append(path, event, **members)


def _shortened(text: str) -> str:
    """``text`` with its middle left out if it is longer than the journal should hold."""
    if len(text) <= EVIDENCE_LIMIT:
        return text
    half = EVIDENCE_LIMIT // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
