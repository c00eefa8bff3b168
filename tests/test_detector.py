"""The detectors of each machine in the journal and in the reports."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import EVENTS
from harness.lib.errors import ExitCode
from harness.report import junit, terminal
from harness.verdict.detector import Detector, State
from harness.verdict.record import ConsoleRange, Entry
from harness.verdict.verdict import Kind, Verdict

SEEN = Detector("console", State.PROVEN, "a WARN was seen")
UNSEEN = Detector("console", State.BLIND, "a WARN was not seen")
WITHOUT = Detector("kmemleak", State.NOT_BUILT, "the kernel lacks it")


def ran(root: Path, *machines: tuple[Detector, ...]) -> Path:
    """Record a run with one scenario on each machine, each with these detectors."""
    results = ResultsFolder.create(root, "example")
    journal = results.journal()
    journal.plan([Entry(f"one-{number}", Kind.SCENARIO, "one") for number, _ in enumerate(machines)])
    journal.run_started()
    for number, detectors in enumerate(machines):
        journal.machine_up(f"machine-{number}", 1.0)
        if detectors:
            journal.detectors(f"machine-{number}", detectors)
        journal.started(f"one-{number}")
        journal.ended(
            f"one-{number}", Verdict.CONFORMS, console=ConsoleRange(f"machine-{number}/console.log", 0, 10)
        )
    journal.run_ended()
    return results.dir


def shown(folder: Path) -> str:
    stream = io.StringIO()
    terminal.show(folder, stream, every=True)
    return stream.getvalue()


def test_table_has_a_line_for_each_detector(tmp_path: Path) -> None:
    folder = ran(tmp_path, (SEEN, WITHOUT), (SEEN, WITHOUT))
    text = shown(folder)
    assert "Detectors on 2 machines proven: console; not built: kmemleak.\n" in text
    assert "  console   proven: a WARN was seen\n  kmemleak  not built: the kernel lacks it\n" in text
    assert read(folder).exit_code is ExitCode.OK


def test_table_names_machines_that_differ(tmp_path: Path) -> None:
    unproven = Detector("console", State.NOT_PROVEN, "there is no lkdtm")
    text = shown(ran(tmp_path, (SEEN,), (unproven,)))
    variants = "proven: a WARN was seen (machine-0); not proven: there is no lkdtm (machine-1)"
    assert f"  console  {variants}\n" in text
    assert "Detectors on 2 machines proven on 1 of them: console; not proven on 1 of them: console.\n" in text


def test_junit_has_a_property_for_each_detector(tmp_path: Path) -> None:
    root = ET.fromstring(junit.render(ran(tmp_path, (SEEN, WITHOUT))))
    found = {one.get("name"): one.get("value") for one in root.iterfind("testsuite/properties/property")}
    assert found["detector.console"] == "proven: a WARN was seen"
    assert found["detector.kmemleak"] == "not built: the kernel lacks it"


def test_verdict_with_a_blind_detector_is_a_harness_error(tmp_path: Path) -> None:
    record = read(ran(tmp_path, (SEEN,), (UNSEEN,)))
    assert [result.verdict for result in record.results] == [Verdict.CONFORMS, Verdict.HARNESS_ERROR]
    assert "On machine-1 a detector is blind" in record.results[1].reason
    assert "a WARN was not seen" in record.results[1].reason
    assert record.exit_code is ExitCode.HARNESS


def test_table_names_machines_without_a_proof(tmp_path: Path) -> None:
    text = shown(ran(tmp_path, (SEEN,), ()))
    assert "No detector was shown a fault on machine-1, so silence proves nothing there." in text


@pytest.mark.parametrize(
    "damaged", [{}, {"machine": "machine-0"}, {"machine": "machine-0", "detectors": [["x", "y", "z"]]}]
)
def test_malformed_detectors_event_is_a_harness_error(tmp_path: Path, damaged: dict[str, object]) -> None:
    folder = ran(tmp_path, (SEEN,))
    with (folder / EVENTS).open("a") as stream:
        stream.write(json.dumps({"time": "", "event": "detectors", **damaged}) + "\n")
    record = read(folder)
    assert record.exit_code is ExitCode.HARNESS
    assert "has no readable detectors" in record.results[-1].reason


LEAKS = Detector("kmemleak", State.NOT_PROVEN, "the kernel is scanned for leaks when its machine is given up")


def test_machine_cut_off_before_kmemleak_is_noted(tmp_path: Path) -> None:
    assert read(ran(tmp_path / "without", (SEEN, WITHOUT))).notes == ()
    folder = ran(tmp_path / "with", (SEEN, LEAKS))
    expected = "machine-0 was not scanned for leaks: the run was cut off."
    assert read(folder).notes == (expected,)
    assert expected in shown(folder)
    with (folder / EVENTS).open("a") as stream:
        ended = {"event": "machine-ended", "machine": "machine-0", "reason": "the run is over"}
        stream.write(json.dumps({"time": "", **ended}) + "\n")
    assert read(folder).notes == ()
