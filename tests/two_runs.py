"""Small runs to compare, written by the journal itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.journal.results_folder import ResultsFolder
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import ConsoleRange, Entry, repetition_mark
from harness.verdict.verdict import Kind, Strength, Verdict

PROGRAM = "ab" * 32
STARTED = datetime(2026, 2, 26, tzinfo=UTC)
OOPS = (
    "[    9.100000] BUG: kernel NULL pointer dereference, address: 0000000000000008\n"
    "[    9.200000] RIP: 0010:{where}+0x12/0x40\n"
    "[    9.300000] Call Trace:\n"
    "[    9.300000]  <TASK>\n"
    "[    9.300000]  {where}+0x12/0x40\n"
    "[    9.300000]  vfio_pci_core_ioctl+0x99/0x200\n"
    "[    9.300000]  </TASK>\n"
    "[    9.400000] ---[ end trace 0000000000000000 ]---\n"
)


@dataclass(frozen=True)
class Told:
    """What a run says of one scenario; ``oops`` is the function in which its kernel oopses."""

    verdict: Verdict = Verdict.CONFORMS
    seen: str = ""
    operation: str = "load32 map1 0x0"
    transcript: str = ""
    findings: Sequence[str] = ()
    requirement: str = "REV-01"
    strength: Strength = Strength.MUST
    repetition: int = 1
    expected: Verdict = Verdict.CONFORMS
    oops: str = ""
    base: BaseAnswer | None = None
    reason: str = ""
    ended: bool = True


def make_run(root: Path, told: dict[str, Told], *, complete: bool = True, **facts: Any) -> Path:
    """Write a run that tells this of its scenarios, by their ids, and return its results folder."""
    results = ResultsFolder.create(root, str(facts.get("series", "series")), STARTED)
    known: dict[str, Any] = {"program": PROGRAM, "base": "6.19", "accelerator": "tcg"}
    results.write_run(**{**known, **facts})
    journal = results.journal()
    machine = results.dir / "machine-1"
    machine.mkdir()
    console = machine / "console.log"
    console.touch()
    ids = {name: name.partition("#")[0] + repetition_mark(one.repetition) for name, one in told.items()}
    journal.plan(
        Entry(
            ids[name],
            Kind.SCENARIO,
            f"Title of {name}",
            (one.requirement,),
            one.expected,
            one.strength,
            one.repetition,
        )
        for name, one in told.items()
    )
    journal.run_started()
    for name, one in told.items():
        if one.verdict is Verdict.NOT_REACHED:
            continue
        journal.started(ids[name])
        for text in one.findings:
            journal.finding(ids[name], text)
        if not one.ended:
            continue
        start = console.stat().st_size
        with console.open("a") as stream:
            stream.write(OOPS.format(where=one.oops) if one.oops else "")
        transcript = results.transcript(ids[name])
        transcript.write_text(one.transcript)
        journal.ended(
            ids[name],
            one.verdict,
            reason=one.reason or (f"It saw {one.seen}." if one.seen else ""),
            transcript=transcript,
            console=ConsoleRange("machine-1/console.log", start, console.stat().st_size),
            deviation=Deviation("something else", one.seen, one.operation) if one.seen else None,
            failure=one.seen,
        )
        if one.base is not None:
            journal.compared(ids[name], one.base)
    if complete:
        journal.run_ended()
    journal.unlock()
    return results.dir
