"""Read a run back: join its plan with its events, also those of a killed or resumed run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.journal import plan_file
from harness.journal.rescan import rescan
from harness.journal.writer import EVENTS
from harness.lib import jsonl
from harness.verdict import halving, patch
from harness.verdict.case import Case
from harness.verdict.comparison import BaseAnswer
from harness.verdict.detector import Detector, State, blind_clause, has_kmemleak, unscanned_note
from harness.verdict.deviation import Deviation
from harness.verdict.halving import Try
from harness.verdict.interruption import how, is_time_limit
from harness.verdict.record import ConsoleRange, Entry, Record, Result
from harness.verdict.verdict import IN_GUEST, STAGES, Kind, Verdict

#: What a member of an event raises that no run has written; an OverflowError comes of an infinite number.
_UNREADABLE = (KeyError, TypeError, ValueError, OverflowError)
_LAST_OFFSET = (1 << 63) - 1  # of any file
_NOUNS = {Kind.SCENARIO: "scenario", Kind.SELFTEST: "test program", Kind.PATCH: "patch"}


def read(directory: Path) -> Record:
    """Join plan and events of the run in ``directory``.

    An unfinished last line, which a killed run leaves, is ignored.  Every other
    contradiction becomes a ``harness-error`` of the entry that it is about, or of an
    entry ``events.jsonl`` if that is unknown.

    A resumed run has several parts, each beginning with ``run-started``.  An entry that
    a part left open keeps its provisional verdict.  It is ``harness-error`` if the part
    was interrupted, and ``not-reached`` if the time limit ended it.  Only a stage with
    ``harness-error``, and what is ``not-reached``, may start again in a later part.

    The consoles are searched for splats again, with the present table (see rescan()).

    Raises HarnessError if there is no readable plan, or the events cannot be read.
    """
    planned = plan_file.read(directory)
    joined = _Join(planned.own)
    for number, raw in enumerate(jsonl.whole_lines(directory / EVENTS), 1):
        try:
            event = json.loads(raw)
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict):
            joined.add(event, number)
        else:
            joined.fault(EVENTS, f"line {number} is not a JSON object")
    joined.results = {name: rescan(result, directory) for name, result in joined.results.items()}
    return joined.record(planned.run)


class _Join:
    """The plan and the events that have been read so far."""

    def __init__(self, planned: Iterable[Entry]) -> None:
        self.results = {entry.id: Result(entry) for entry in planned}
        self.open: set[str] = set()
        self.started_now: set[str] = set()  # entries that started in this part of the run
        self.machines: list[str] = []
        self.resumed: list[str] = []
        self.faults: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.detectors: dict[str, tuple[Detector, ...]] = {}
        self.ended_machines: set[str] = set()
        self.interrupted = ""
        self.started = ""
        self.complete = False

    def fault(self, entry_id: str, sentence: str) -> None:
        """Note a contradiction about an entry; an entry that is not in the plan is added."""
        self.faults.setdefault(entry_id, []).append(sentence)
        self.results.setdefault(entry_id, Result(Entry(entry_id, Kind.HARNESS, "Not in the plan")))

    def add(self, event: dict[str, Any], number: int) -> None:
        """Apply one event; ``number`` is its line in the file, from 1."""
        match event.get("event"):
            case "started":
                self._started(event)
            case "ended":
                self._ended(event)
            case "finding":
                self._finding(event)
            case "run-started" if not self.started:
                self.started = str(event.get("time", ""))
            case "run-started" if event.get("resumed") is True:
                self._resumed(str(event.get("time", "")))
            case "cases":
                self._cases(event)
            case "compared":
                self._compared(event)
            case "tried":
                self._tried(event)
            case "mended":
                self._mended(event)
            case "note" if (text := str(event.get("text", ""))) not in self.notes:
                self.notes.append(text)
            case "note":
                pass  # several processes of a run may note the same
            case "interrupted":
                self.interrupted = str(event.get("reason", "")) or "interrupted"
            case "run-ended":
                self.complete = True
            case "not-reached":
                self._not_reached(event)
            case "shard-ended":
                self._shard_ended()
            case "machine-up":
                self.detectors.setdefault(str(event.get("machine")), ())
            case "detectors":
                self._detectors(event, number)
            case "machine-started":
                self.machines.append(str(event.get("machine", "")))
            case "machine-ended":
                self._machine_ended(event)
            case other:
                self.fault(EVENTS, f"line {number} holds an event that does not belong there: {other!r}")

    def _machine_ended(self, event: dict[str, Any]) -> None:
        name = str(event.get("machine"))
        self.ended_machines.add(name)
        if "verdict" not in event:
            return
        self.results[name] = Result(
            Entry(name, Kind.MACHINE, "Its kernel has no fault between the scenarios")
        )
        _, verdict = self._entry({**event, "id": name})
        if verdict is not None:
            reason = str(event.get("reason", ""))
            self.results[name] = replace(self.results[name], verdict=verdict, reason=reason, ended=True)

    def _entry_id(self, event: dict[str, Any]) -> str:
        """Return the id of an event's entry; an unknown entry is a contradiction."""
        entry_id = str(event.get("id"))
        if entry_id not in self.results:
            self.fault(entry_id, "the journal has events for it, the plan has no such entry")
        return entry_id

    def _entry(self, event: dict[str, Any]) -> tuple[str, Verdict | None]:
        """Return the id and the verdict of an event; an unreadable verdict is a contradiction, and None."""
        entry_id = self._entry_id(event)
        try:
            return entry_id, Verdict(event.get("verdict", ""))
        except ValueError:
            self.fault(entry_id, f"{event.get('verdict')!r} is not a verdict")
            return entry_id, None

    def _started(self, event: dict[str, Any]) -> None:
        entry_id, verdict = self._entry(event)
        result = self.results[entry_id]
        if result.verdict is not Verdict.NOT_REACHED and not self._may_restart(result):
            self.fault(entry_id, "it was started more than once")
        elif verdict is not None:
            self.open.add(entry_id)
            self.started_now.add(entry_id)
            self.results[entry_id] = Result(result.entry, verdict)

    def _may_restart(self, result: Result) -> bool:
        """Return whether it is a stage that failed in an earlier part through no fault of the series.

        The entry of a patch is taken up again like a stage.
        """
        stage = result.entry.kind in (*STAGES, Kind.PATCH)
        return stage and result.entry.id not in self.started_now and result.verdict is Verdict.HARNESS_ERROR

    def _not_reached(self, event: dict[str, Any]) -> None:
        entry_id = self._entry_id(event)
        if self.results[entry_id].ended:
            self.fault(entry_id, "it was not reached after it had ended")
        self.open.discard(entry_id)
        self.results[entry_id] = Result(
            self.results[entry_id].entry, reason=str(event.get("reason", "")) or "No reason was given."
        )

    def _shard_ended(self) -> None:
        """End a part of the run that another machine ran; its interruption is not that of the whole."""
        self._close_open()
        self.started_now.clear()
        self.interrupted = ""

    def _resumed(self, time: str) -> None:
        """Begin another part of the run; the entries that the last one left open do not end any more."""
        self._close_open()
        self.resumed.append(time)
        self.started_now.clear()
        self.interrupted = ""
        self.complete = False

    def _ended(self, event: dict[str, Any]) -> None:
        entry_id, verdict = self._entry(event)
        result = self.results[entry_id]
        if result.ended:
            self.fault(entry_id, f"it ended more than once, as {result.verdict}, then as {verdict}")
        elif entry_id not in self.open:
            self.fault(entry_id, "it ended without having started")
        elif verdict is not None:
            self.open.remove(entry_id)
            try:
                self.results[entry_id] = replace(
                    result,
                    verdict=result.entry.judge(verdict),
                    reason=str(event.get("reason", "")),
                    details=str(event.get("details", "")),
                    transcript=str(event.get("transcript", "")),
                    console=_span(event.get("console")),
                    without_console=Verdict(event["silent"]) if "silent" in event else None,
                    duration=_duration(event["duration"]),
                    failure=str(event.get("failure", "")),
                    deviation=Deviation.read(event["deviation"]) if "deviation" in event else None,
                    refused=tuple(str(one) for one in event.get("refused", ())),
                    ended=True,
                )
            except _UNREADABLE as error:
                self.fault(entry_id, f"its end cannot be read ({error!r})")

    def _finding(self, event: dict[str, Any]) -> None:
        entry_id = self._entry_id(event)
        result = self.results[entry_id]
        if entry_id not in self.open:
            self.fault(entry_id, "it has a finding while it is not in progress")
        self.results[entry_id] = replace(result, noted=(*result.noted, str(event.get("text", ""))))

    def _cases(self, event: dict[str, Any]) -> None:
        entry_id = self._entry_id(event)
        try:
            cases = tuple(
                Case(str(name), Verdict(verdict), str(reason)) for name, verdict, reason in event["cases"]
            )
        except _UNREADABLE as error:
            self.fault(entry_id, f"its cases cannot be read ({error!r})")
            return
        if entry_id not in self.open:
            self.fault(entry_id, "it has cases while it is not in progress")
        self.results[entry_id] = replace(self.results[entry_id], cases=cases)

    def _compared(self, event: dict[str, Any]) -> None:
        entry_id = self._entry_id(event)
        try:
            base = BaseAnswer.read(event["base"])
        except _UNREADABLE as error:
            self.fault(entry_id, f"its result on the base cannot be read ({error!r})")
            return
        if not self.results[entry_id].ended:
            self.fault(entry_id, "it was compared with the base before it ended")
        self.results[entry_id] = replace(self.results[entry_id], base=base)

    def _tried(self, event: dict[str, Any]) -> None:
        entry_id = self._entry_id(event)
        result = self.results[entry_id]
        try:
            self.results[entry_id] = replace(result, tries=(*result.tries, Try.read(event)))
        except _UNREADABLE as error:
            self.fault(entry_id, f"its result on a prefix of the series cannot be read ({error!r})")
            return
        if not result.ended:
            self.fault(entry_id, "it was run on a prefix of the series before it ended")

    def _mended(self, event: dict[str, Any]) -> None:
        entry_id = self._entry_id(event)
        result = self.results[entry_id]
        by = event.get("by")
        if not isinstance(by, int) or not patch.count_of(result.entry) or not result.ended:
            self.fault(entry_id, "what mends it cannot be read")
            return
        of = sum(one.entry.kind is Kind.PATCH for one in self.results.values())
        self.results[entry_id] = replace(result, reason=patch.mended(result.reason, by, of))

    def _detectors(self, event: dict[str, Any], number: int) -> None:
        try:
            self.detectors[str(event["machine"])] = tuple(
                Detector(str(name), State(state), str(words)) for name, state, words in event["detectors"]
            )
        except _UNREADABLE as error:
            self.fault(EVENTS, f"line {number} has no readable detectors ({error!r})")

    def _void_on_blind_machines(self) -> None:
        """Replace every verdict that was given on a machine with a blind detector by ``harness-error``."""
        for entry_id, result in self.results.items():
            machine = result.console.file.partition("/")[0] if result.console else ""
            if clause := blind_clause(self.detectors.get(machine, ())):
                self.results[entry_id] = replace(
                    result,
                    verdict=Verdict.HARNESS_ERROR,
                    reason=f"On {machine} a detector is blind, so this verdict does not count. {clause}",
                    ended=False,
                )

    def _close_open(self) -> None:
        """Give every open entry the result that it keeps (see _left_open())."""
        for entry_id in self.open:
            self.results[entry_id] = self._left_open(self.results[entry_id])
        self.open.clear()

    def record(self, run: str) -> Record:
        """Return the record, after the last event."""
        self._close_open()
        self._void_on_blind_machines()
        for entry_id, sentences in self.faults.items():
            self.results[entry_id] = replace(
                self.results[entry_id],
                verdict=Verdict.HARNESS_ERROR,
                reason=f"The journal contradicts itself: {'; '.join(sentences)}.",
                ended=False,
            )
        unusable = patch.unusable(self.results.values())
        for entry_id, result in self.results.items():
            if result.tries and result.violated:
                self.results[entry_id] = replace(result, since=halving.since(result.tries, unusable))
        not_reached = self._reason_not_reached()
        if self.complete:
            self.notes += [
                unscanned_note(name)
                for name, detectors in self.detectors.items()
                if name not in self.ended_machines and has_kmemleak(detectors)
            ]
        return Record(
            run=run,
            results=tuple(
                replace(result, reason=result.reason or not_reached)
                if result.verdict is Verdict.NOT_REACHED
                else result
                for result in self.results.values()
            ),
            notes=tuple(self.notes),
            interrupted=self.interrupted,
            complete=self.complete,
            started=self.started,
            resumed=tuple(self.resumed),
            machines=tuple(self.machines),
            damage="; ".join(f"{name}: {', '.join(sentences)}" for name, sentences in self.faults.items()),
            detectors=self.detectors,
        )

    def _left_open(self, result: Result) -> Result:
        """Return the result of an entry that started and did not end."""
        in_guest = result.entry.kind in IN_GUEST
        if self.interrupted:
            # The harness was alive and wrote this event, so the kernel is not to blame.
            noun = _NOUNS.get(result.entry.kind, "stage")
            reason = f"The run {how(self.interrupted)} during this {noun}."
            if is_time_limit(self.interrupted):
                return Result(result.entry, reason=reason)  # a resumed run does it again
            return replace(result, verdict=Verdict.HARNESS_ERROR, reason=reason)
        if in_guest:
            return replace(result, reason="It started and never ended: the kernel died, or the harness did.")
        noun = _NOUNS.get(result.entry.kind, "stage")
        return replace(result, reason=f"The harness ended during this {noun}.")

    def _reason_not_reached(self) -> str:
        """Return why the remaining entries were not reached."""
        if self.interrupted:
            return f"The run {how(self.interrupted)} before it."
        reached = [
            result
            for result in self.results.values()
            if result.entry.kind in STAGES and result.verdict is not Verdict.NOT_REACHED
        ]
        # A run goes on after a stage that only reports, so the last stage that was reached counts.
        if reached and (last := reached[-1]).verdict is not Verdict.CONFORMS:
            return f"The run did not get past the stage {last.entry.id} ({last.verdict})."
        return "The run ended before it."


def _duration(member: Any) -> float:
    """Return an event's ``duration``; raise one of _UNREADABLE if that is malformed."""
    seconds = float(member)
    if not math.isfinite(seconds):
        raise ValueError(f"a duration of {seconds} s")
    return seconds


def _span(member: Any) -> ConsoleRange | None:
    """Return the range of an event's ``console``; raise one of _UNREADABLE if that is malformed."""
    if member is None:
        return None
    file, *offsets = member
    start, end = map(int, offsets)
    if "\0" in str(file) or not 0 <= start <= _LAST_OFFSET or not 0 <= end <= _LAST_OFFSET:
        raise ValueError(f"{member!r} is no part of a console")
    return ConsoleRange(str(file), start, end)
