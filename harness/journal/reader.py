"""Read a run back: plan joined with events, whatever became of the run that wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.journal.rescan import rescan
from harness.journal.writer import EVENTS, PLAN
from harness.lib import jsonl
from harness.lib.errors import HarnessError
from harness.verdict.detector import Detector, State, blind, counts_leaks, unasked
from harness.verdict.record import ConsoleRange, Entry, Record, Result
from harness.verdict.words import STAGES, Kind, Strength, Verdict


def read(directory: Path) -> Record:
    """Join plan and events of the run in ``directory``.

    A torn last line is what a killed run leaves, and is as if never written.  All
    else that does not fit together becomes a ``harness-error`` of the entry it is
    about, or of an entry ``events.jsonl`` if that cannot be told.

    A run that was resumed has several parts, each beginning with ``run-started``.
    What a part left open keeps the verdict that is true then; only a stage that got
    none, through no fault of the series, may begin again in a later part.

    What the consoles hold is looked at again, with the detectors of today (see rescan()).

    Raises HarnessError if there is no readable plan.
    """
    run, planned = _read_plan(directory)
    joined = _Joined(planned)
    for number, raw in enumerate(jsonl.whole_lines(directory / EVENTS), 1):
        try:
            event = json.loads(raw)
        except ValueError:
            event = None
        if isinstance(event, dict):
            joined.add(event, number)
        else:
            joined.fault(EVENTS, f"line {number} is not a JSON object")
    joined.results = {name: rescan(result, directory) for name, result in joined.results.items()}
    return joined.record(run)


def _read_plan(directory: Path) -> tuple[str, tuple[Entry, ...]]:
    path = directory / PLAN
    try:
        content = json.loads(path.read_bytes())
        entries = tuple(
            Entry(
                id=str(entry["id"]),
                kind=Kind(entry["kind"]),
                title=str(entry["title"]),
                requirements=tuple(str(requirement) for requirement in entry["requirements"]),
                expected=Verdict(entry["expected"]),
                strength=Strength(entry["strength"]),
                repetition=int(entry.get("repetition", 1)),
                alone=entry.get("alone") is True,
            )
            for entry in content["entries"]
        )
        return str(content["run"]), entries
    except FileNotFoundError as error:
        raise HarnessError(
            f"{directory} holds no {PLAN}: it is not the results folder of a run, or the run was ended "
            "before its plan was made."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{path} is not a plan that can be read ({error!r}).") from error


class _Joined:
    """Plan joined with events, while the events are being read."""

    def __init__(self, planned: Iterable[Entry]) -> None:
        self.results = {entry.id: Result(entry) for entry in planned}
        self.open: set[str] = set()
        self.begun: set[str] = set()  # in this part
        self.machines: list[str] = []
        self.resumed: list[str] = []
        self.faults: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.detectors: dict[str, tuple[Detector, ...]] = {}
        self.spent: set[str] = set()  # machines
        self.interrupted = ""
        self.started = ""
        self.complete = False

    def fault(self, entry_id: str, sentence: str) -> None:
        self.faults.setdefault(entry_id, []).append(sentence)
        self.results.setdefault(entry_id, Result(Entry(entry_id, Kind.HARNESS, "Not in the plan")))

    def add(self, event: dict[str, Any], number: int) -> None:
        """Take in one event; ``number`` is its line."""
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
            case "note":
                self.notes.append(str(event.get("text", "")))
            case "interrupted":
                self.interrupted = str(event.get("reason", "")) or "interrupted"
            case "run-ended":
                self.complete = True
            case "machine-up":
                self.detectors.setdefault(str(event.get("machine")), ())
            case "detectors":
                self._shown(event, number)
            case "machine-started":
                self.machines.append(str(event.get("machine", "")))
            case "machine-ended":
                self._machine_ended(event)
            case other:
                self.fault(EVENTS, f"line {number} holds an event that does not belong there: {other!r}")

    def _machine_ended(self, event: dict[str, Any]) -> None:
        name = str(event.get("machine"))
        self.spent.add(name)
        if "verdict" not in event:
            return
        self.results[name] = Result(Entry(name, Kind.MACHINE, "Its kernel is well when no scenario is on"))
        _, verdict = self._entry({**event, "id": name})
        if verdict is not None:
            reason = str(event.get("reason", ""))
            self.results[name] = replace(self.results[name], verdict=verdict, reason=reason, ended=True)

    def _known(self, event: dict[str, Any]) -> str:
        entry_id = str(event.get("id"))
        if entry_id not in self.results:
            self.fault(entry_id, "the journal has events for it, the plan does not know it")
        return entry_id

    def _entry(self, event: dict[str, Any]) -> tuple[str, Verdict | None]:
        entry_id = self._known(event)
        try:
            return entry_id, Verdict(event.get("verdict", ""))
        except ValueError:
            self.fault(entry_id, f"{event.get('verdict')!r} is not a verdict")
            return entry_id, None

    def _started(self, event: dict[str, Any]) -> None:
        entry_id, verdict = self._entry(event)
        result = self.results[entry_id]
        if result.verdict is not Verdict.NOT_REACHED and not self._may_begin_again(result):
            self.fault(entry_id, "it was started more than once")
        elif verdict is not None:
            self.open.add(entry_id)
            self.begun.add(entry_id)
            self.results[entry_id] = Result(result.entry, verdict)

    def _may_begin_again(self, result: Result) -> bool:
        """Whether it is a stage that an earlier part did not get through, through no fault of the series."""
        stage = result.entry.kind in STAGES
        return stage and result.entry.id not in self.begun and result.verdict is Verdict.HARNESS_ERROR

    def _resumed(self, time: str) -> None:
        """Another part begins: what the last one left open has the verdict that it keeps."""
        self._settle()
        self.resumed.append(time)
        self.begun.clear()
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
                    silent=Verdict(event["silent"]) if "silent" in event else None,
                    duration=float(event["duration"]),
                    ended=True,
                )
            except (KeyError, TypeError, ValueError) as error:
                self.fault(entry_id, f"its end cannot be read ({error!r})")

    def _finding(self, event: dict[str, Any]) -> None:
        entry_id = self._known(event)
        result = self.results[entry_id]
        if entry_id not in self.open:
            self.fault(entry_id, "it has a finding while it is not in progress")
        self.results[entry_id] = replace(result, noted=(*result.noted, str(event.get("text", ""))))

    def _shown(self, event: dict[str, Any], number: int) -> None:
        try:
            self.detectors[str(event["machine"])] = tuple(
                Detector(str(name), State(state), str(words)) for name, state, words in event["detectors"]
            )
        except (KeyError, TypeError, ValueError) as error:
            self.fault(EVENTS, f"line {number} does not say what the detectors saw ({error!r})")

    def _unseen(self) -> None:
        """No verdict stands that was given on a machine with a blind detector."""
        for entry_id, result in self.results.items():
            machine = result.console.file.partition("/")[0] if result.console else ""
            if unseen := blind(self.detectors.get(machine, ())):
                self.results[entry_id] = replace(
                    result,
                    verdict=Verdict.HARNESS_ERROR,
                    reason=f"On {machine} a detector is blind, so this says nothing. {unseen}",
                    ended=False,
                )

    def _settle(self) -> None:
        for entry_id in self.open:
            self.results[entry_id] = self._left_open(self.results[entry_id])
        self.open.clear()

    def record(self, run: str) -> Record:
        self._settle()
        self._unseen()
        for entry_id, sentences in self.faults.items():
            self.results[entry_id] = replace(
                self.results[entry_id],
                verdict=Verdict.HARNESS_ERROR,
                reason=f"The journal contradicts itself: {'; '.join(sentences)}.",
                ended=False,
            )
        why = self._why_not_reached()
        if self.complete:
            self.notes += [
                unasked(name)
                for name, detectors in self.detectors.items()
                if name not in self.spent and counts_leaks(detectors)
            ]
        return Record(
            run=run,
            results=tuple(
                replace(result, reason=why) if result.verdict is Verdict.NOT_REACHED else result
                for result in self.results.values()
            ),
            notes=tuple(self.notes),
            interrupted=self.interrupted,
            complete=self.complete,
            started=self.started,
            resumed=tuple(self.resumed),
            machines=tuple(self.machines),
            damage="; ".join(f"{name}: {', '.join(said)}" for name, said in self.faults.items()),
            detectors=self.detectors,
        )

    def _left_open(self, result: Result) -> Result:
        what = "scenario" if result.entry.kind is Kind.SCENARIO else "stage"
        if self.interrupted:
            # Written by a harness that was alive and in charge: the kernel is not to blame.
            reason = f"The run was interrupted ({self.interrupted}) during this {what}."
            return replace(result, verdict=Verdict.HARNESS_ERROR, reason=reason)
        if what == "scenario":
            return replace(result, reason="It started and never ended: the kernel died, or the harness did.")
        return replace(result, reason="The harness ended during this stage.")

    def _why_not_reached(self) -> str:
        if self.interrupted:
            return f"The run was interrupted ({self.interrupted}) before it."
        for result in self.results.values():
            if result.entry.kind in STAGES and result.verdict not in (
                Verdict.CONFORMS,
                Verdict.NOT_REACHED,
            ):
                return f"The run did not get past the stage {result.entry.id} ({result.verdict})."
        return "The run ended before it."


def _span(written: Any) -> ConsoleRange | None:
    if written is None:
        return None
    file, start, end = written
    return ConsoleRange(str(file), int(start), int(end))
