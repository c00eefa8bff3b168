"""Plan, events and verdicts: writing the journal, and reading it back however the run ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.journal.reader import read
from harness.journal.writer import EVIDENCE_LIMIT, JournalWriter
from harness.lib.errors import BuildError, ExitCode, HarnessError
from harness.verdict.comparison import BaseAnswer
from harness.verdict.record import ConsoleRange, Entry, Record, Result, repetition_mark
from harness.verdict.verdict import Kind, Strength, Verdict

FETCH = Entry("fetch", Kind.HARNESS, "the base source is at hand")
BUILD = Entry("build", Kind.STAGE, "the kernel builds")
ONE = Entry("suites/test_map.py::test_one", Kind.SCENARIO, "one", ("MAP-01", "MAP-13"))
INFORMATION = Entry(
    "suites/test_attr.py::test_told", Kind.SCENARIO, "It is.", ("ATTR-04",), Verdict.VIOLATES, Strength.INFO
)
TWO = Entry("suites/test_map.py::test_two", Kind.SCENARIO, "two", ("MAP-02",), Verdict.VIOLATES)


@pytest.fixture
def journal(tmp_path: Path) -> JournalWriter:
    made = JournalWriter(tmp_path)
    made.plan([FETCH, BUILD, ONE, TWO])
    made.run_started()
    return made


def verdicts(directory: Path) -> dict[str, str]:
    return {result.entry.id: str(result.verdict) for result in read(directory).results}


def result_of(directory: Path, entry: Entry) -> Result:
    return next(result for result in read(directory).results if result.entry.id == entry.id)


def append(journal: JournalWriter, *lines: str) -> None:
    with (journal.directory / "events.jsonl").open("a") as stream:
        stream.writelines(f"{line}\n" for line in lines)


# The plan


def test_planned_entries_are_not_reached(tmp_path: Path) -> None:
    JournalWriter(tmp_path).plan([BUILD, ONE])
    assert verdicts(tmp_path) == {"build": "not-reached", ONE.id: "not-reached"}
    assert [result.entry for result in read(tmp_path).results] == [BUILD, ONE]


def test_plan_on_disk_says_not_reached(journal: JournalWriter) -> None:
    plan = json.loads((journal.directory / "plan.json").read_text())
    assert {entry["verdict"] for entry in plan["entries"]} == {"not-reached"}


def test_second_plan_is_refused(journal: JournalWriter) -> None:
    with pytest.raises(HarnessError, match="a plan is written once"):
        journal.plan([ONE])


def test_plan_with_a_repeated_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="more than one entry of this name: build"):
        JournalWriter(tmp_path).plan([BUILD, ONE, BUILD])
    assert not (tmp_path / "plan.json").exists()


def test_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="is not the results folder of a run"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": "x", "entries": [{"id": "x"}]}'])
def test_damaged_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(
        HarnessError, match=r"plan\.json is (damaged, or cut off|not a plan that this version)"
    ):
        read(tmp_path)


# Verdicts


@pytest.mark.parametrize(
    ("expected", "observed", "verdict"),
    [
        ("conforms", "conforms", "conforms"),
        ("conforms", "violates", "violates"),
        ("violates", "violates", "violates"),
        ("violates", "conforms", "unexpectedly-conforms"),
        ("violates", "unexpectedly-conforms", "unexpectedly-conforms"),
        ("not-applicable", "conforms", "unexpectedly-conforms"),
        ("kernel-died", "conforms", "unexpectedly-conforms"),
        ("violates", "kernel-died", "kernel-died"),
        ("conforms", "not-applicable", "not-applicable"),
        ("violates", "harness-error", "harness-error"),
    ],
)
def test_judge_compares_observed_with_expected(expected: str, observed: str, verdict: str) -> None:
    entry = Entry("one", Kind.SCENARIO, "", (), Verdict(expected))
    assert entry.judge(Verdict(observed)) == verdict


def test_judge_of_an_information_entry_keeps_the_verdict() -> None:
    assert {INFORMATION.judge(verdict) for verdict in Verdict} == set(Verdict)
    assert INFORMATION.judge(Verdict.CONFORMS) is Verdict.CONFORMS


def test_ended_judges_an_unexpected_pass(journal: JournalWriter) -> None:
    journal.started(TWO.id)
    assert journal.ended(TWO.id, Verdict.CONFORMS) is Verdict.UNEXPECTEDLY_CONFORMS
    assert result_of(journal.directory, TWO).verdict is Verdict.UNEXPECTEDLY_CONFORMS


def test_ended_keeps_the_evidence(journal: JournalWriter) -> None:
    journal.started(ONE.id)
    journal.ended(
        ONE.id,
        Verdict.VIOLATES,
        reason="two\nlines, \udcff and \x1b",
        details="evidence",
        transcript=journal.directory / "transcripts" / "one.txt",
        console=ConsoleRange("console.log", 17, 4711),
    )
    result = result_of(journal.directory, ONE)
    assert (result.reason, result.details) == ("two\nlines, \udcff and \x1b", "evidence")
    assert (result.transcript, result.console) == (
        "transcripts/one.txt",
        ConsoleRange("console.log", 17, 4711),
    )
    assert result.duration is not None
    assert result.ended


def test_ended_cuts_the_middle_of_long_evidence(journal: JournalWriter) -> None:
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.VIOLATES, details="begin" + "x" * 2 * EVIDENCE_LIMIT + "end")
    details = result_of(journal.directory, ONE).details
    assert details.startswith("begin")
    assert details.endswith("end")
    assert f"[{EVIDENCE_LIMIT + 8} characters left out]" in details


# Findings


@pytest.mark.parametrize("verdict", ["violates", "harness-error", "conforms", "not-applicable"])
def test_information_entry_is_reported_and_does_not_fail(tmp_path: Path, verdict: str) -> None:
    journal = JournalWriter(tmp_path)
    journal.plan([ONE, INFORMATION])
    journal.run_started()
    for entry, observed in ((ONE, "conforms"), (INFORMATION, verdict)):
        journal.started(entry.id)
        journal.ended(entry.id, Verdict(observed), reason="why")
    journal.run_ended()
    result = result_of(tmp_path, INFORMATION)
    assert result.entry == INFORMATION
    assert result.verdict == verdict
    assert result.as_expected
    told = (f"{verdict}: It is. (why)",) if verdict not in ("conforms", "not-applicable") else ()
    assert result.findings == told
    assert read(tmp_path).exit_code is ExitCode.OK


@pytest.mark.parametrize("started", [True, False])
def test_information_entry_not_ended_fails_the_run(tmp_path: Path, started: bool) -> None:
    journal = JournalWriter(tmp_path)
    journal.plan([INFORMATION])
    journal.run_started()
    if started:
        journal.started(INFORMATION.id)
    journal.run_ended()
    result = result_of(tmp_path, INFORMATION)
    assert not result.as_expected
    assert not result.is_finding
    assert read(tmp_path).exit_code is ExitCode.HARNESS


def test_findings_keep_their_order(journal: JournalWriter) -> None:
    journal.started(ONE.id)
    journal.finding(ONE.id, "first")
    journal.finding(ONE.id, "second" * EVIDENCE_LIMIT)
    journal.ended(ONE.id, Verdict.VIOLATES)
    first, second = result_of(journal.directory, ONE).findings
    assert first == "first"
    assert "characters left out" in second
    assert not result_of(journal.directory, ONE).as_expected


@pytest.mark.parametrize("when", ["before", "after"])
def test_finding_outside_its_scenario_is_an_error(journal: JournalWriter, when: str) -> None:
    if when == "after":
        journal.started(ONE.id)
        journal.ended(ONE.id, Verdict.CONFORMS)
    journal.finding(ONE.id, "late")
    result = result_of(journal.directory, ONE)
    assert result.verdict is Verdict.HARNESS_ERROR
    assert "a finding while it is not in progress" in result.reason


def test_finding_of_an_unplanned_entry_is_an_error(journal: JournalWriter) -> None:
    journal.finding("suites/test_x.py::test_stray", "who?")
    stray = read(journal.directory).results[-1]
    assert (stray.entry.id, stray.verdict) == ("suites/test_x.py::test_stray", Verdict.HARNESS_ERROR)


# Stages


def test_stage_with_a_series_error_violates(journal: JournalWriter) -> None:
    log = journal.directory / "build.log"
    with pytest.raises(BuildError), journal.stage("build"):
        raise BuildError("It does not compile.", log=log, tail="error: expected ';'")
    result = result_of(journal.directory, BUILD)
    assert (result.verdict, result.reason) == (Verdict.VIOLATES, "It does not compile.")
    assert (result.details, result.transcript) == ("error: expected ';'", "build.log")


def test_stage_with_a_harness_error_does_not_violate(journal: JournalWriter) -> None:
    with pytest.raises(HarnessError), journal.stage("build"):
        raise HarnessError("No space left.", log=Path("/elsewhere/build.log"))
    result = result_of(journal.directory, BUILD)
    assert (result.verdict, result.transcript) == (Verdict.HARNESS_ERROR, "")


def test_stage_that_succeeds_conforms(journal: JournalWriter) -> None:
    with journal.stage("build"):
        assert result_of(journal.directory, BUILD).verdict is Verdict.HARNESS_ERROR
    assert result_of(journal.directory, BUILD).verdict is Verdict.CONFORMS


def test_not_reached_names_the_failed_stage(journal: JournalWriter) -> None:
    with pytest.raises(BuildError), journal.stage("build"):
        raise BuildError("It does not compile.")
    assert result_of(journal.directory, ONE).reason == "The run did not get past the stage build (violates)."


# A run that is cut short

KILLED = """
import os, signal, sys
from pathlib import Path
from harness.journal.writer import JournalWriter
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind
journal = JournalWriter(Path(sys.argv[1]))
scenarios = [Entry("one", Kind.SCENARIO, ""), Entry("two", Kind.SCENARIO, "")]
journal.plan([Entry("build", Kind.STAGE, ""), *scenarios])
journal.run_started()
with journal.stage("build"):
    if sys.argv[2] == "build":
        os.kill(os.getpid(), signal.SIGKILL)
journal.started("one")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("build", {"build": "harness-error", "one": "not-reached", "two": "not-reached"}),
        ("one", {"build": "conforms", "one": "kernel-died", "two": "not-reached"}),
    ],
)
def test_killed_harness_leaves_the_worst_verdict(
    tmp_path: Path, where: str, expected: dict[str, str]
) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), where], check=False)
    assert ended.returncode == -signal.SIGKILL
    record = read(tmp_path)
    assert verdicts(tmp_path) == expected
    assert not record.complete
    assert record.exit_code is ExitCode.HARNESS  # an open scenario proves nothing about the series


FULL = """
import resource, signal, sys
from pathlib import Path
from harness.lib.errors import HarnessError
from harness.journal.writer import JournalWriter
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind
from harness.verdict.verdict import Verdict
journal = JournalWriter(Path(sys.argv[1]))
journal.plan([Entry("one", Kind.SCENARIO, "")])
journal.run_started()
journal.started("one")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = (Path(sys.argv[1]) / "events.jsonl").stat().st_size
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), hard))
try:
    journal.ended("one", Verdict.CONFORMS)
except HarnessError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert (Path(sys.argv[1]) / "events.jsonl").stat().st_size == size, "half a line is left"
journal.ended("one", Verdict.VIOLATES)
journal.run_ended()
"""


@pytest.mark.parametrize("room", ["0", "40"])
def test_full_disk_leaves_the_journal_whole(tmp_path: Path, room: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), room], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "Make room on the disk" in ended.stdout
    assert verdicts(tmp_path) == {"one": "violates"}


def test_journal_cut_at_any_byte_is_read(journal: JournalWriter) -> None:
    with journal.stage("build"):
        pass
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.CONFORMS)
    journal.run_ended()
    events = journal.directory / "events.jsonl"
    whole = events.read_bytes()
    ends = [
        whole.index(b"\n", whole.index(b'"ended", "id": "%s"' % name)) for name in (b"build", ONE.id.encode())
    ]
    for size in range(len(whole)):
        events.write_bytes(whole[:size])
        record = read(journal.directory)
        assert [entry.id for entry in (FETCH, BUILD, ONE, TWO)] == [r.entry.id for r in record.results]
        conforming = [result.verdict is Verdict.CONFORMS for result in record.results]
        assert conforming == [False, size > ends[0], size > ends[1], False]


def test_block_of_zeros_is_a_torn_line(journal: JournalWriter) -> None:
    with (journal.directory / "events.jsonl").open("ab") as stream:
        stream.write(bytes(4096))
    assert set(verdicts(journal.directory).values()) == {"not-reached"}


def test_interrupted_scenario_is_a_harness_error(journal: JournalWriter) -> None:
    journal.started(ONE.id)
    journal.interrupted("SIGINT")
    record = read(journal.directory)
    result = result_of(journal.directory, ONE)
    assert (result.verdict, record.exit_code) == (Verdict.HARNESS_ERROR, ExitCode.INTERRUPTED)
    assert result.reason == "The run was interrupted by Ctrl-C (SIGINT) during this scenario."
    assert result_of(journal.directory, TWO).reason == "The run was interrupted by Ctrl-C (SIGINT) before it."


def test_scenario_given_up_is_not_reached(journal: JournalWriter) -> None:
    journal.started(ONE.id)
    journal.not_reached(ONE.id, "Given up, as machines were lost.")
    journal.run_ended()
    result = result_of(journal.directory, ONE)
    assert (result.verdict, result.reason) == (Verdict.NOT_REACHED, "Given up, as machines were lost.")
    assert read(journal.directory).exit_code == ExitCode.HARNESS
    journal.unlock()
    again = resumed(journal)
    again.started(ONE.id)
    again.ended(ONE.id, Verdict.CONFORMS)
    assert result_of(again.directory, ONE).verdict is Verdict.CONFORMS
    assert not read(again.directory).damage


# Contradictions

STARTED = '{"event": "started", "id": "build", "verdict": "harness-error"}'
ENDED = '{"event": "ended", "id": "build", "verdict": "conforms", "duration": 1}'


@pytest.mark.parametrize(
    ("lines", "entry", "reason"),
    [
        ([STARTED, ENDED, ENDED], "build", "ended more than once, as conforms, then as conforms"),
        ([STARTED, STARTED, ENDED], "build", "started more than once"),
        ([STARTED, ENDED, STARTED], "build", "started more than once"),
        ([ENDED], "build", "ended without having started"),
        ([STARTED, ENDED.replace("conforms", "fine")], "build", "'fine' is not a verdict"),
        ([STARTED, ENDED.replace(', "duration": 1', "")], "build", "its end cannot be read"),
        ([STARTED, ENDED.replace("1}", '1, "console": ["x", 1]}')], "build", "its end cannot be read"),
        ([STARTED.replace("build", "stray")], "stray", "the plan has no such entry"),
        ([STARTED, '{"event": "ended", "id": "bu', ENDED], "events.jsonl", "line 3 is not a JSON object"),
        ([STARTED, "[1]", ENDED], "events.jsonl", "line 3 is not a JSON object"),
        (
            [STARTED, '{"event": "vanished"}', ENDED],
            "events.jsonl",
            "line 3 holds an event that does not belong",
        ),
        (
            [STARTED, '{"event": "run-started", "resumed": true}', ENDED],
            "build",
            "ended without having started",
        ),
        (
            [STARTED, ENDED, '{"event": "not-reached", "id": "build"}'],
            "build",
            "it was not reached after it had ended",
        ),
        (['{"event": "run-started"}'], "events.jsonl", "line 2 holds an event that does not belong there"),
    ],
)
def test_contradictory_events_are_a_harness_error(
    journal: JournalWriter, lines: list[str], entry: str, reason: str
) -> None:
    append(journal, *lines)
    found = next(result for result in read(journal.directory).results if result.entry.id == entry)
    assert found.verdict is Verdict.HARNESS_ERROR
    assert reason in found.reason
    assert not found.as_expected


# A run that is resumed


def resumed(journal: JournalWriter) -> JournalWriter:
    """Open the run's journal to go on with it, as another process does."""
    record = read(journal.directory)
    again = JournalWriter(journal.directory)
    again.resume(record)
    return again


@pytest.fixture
def cut_off(journal: JournalWriter) -> JournalWriter:
    """A journal of a run that was killed in its first scenario; its last line is half written."""
    for stage in (FETCH, BUILD):
        with journal.stage(stage.id):
            pass
    journal.started(ONE.id)
    events = journal.directory / "events.jsonl"
    events.write_bytes(events.read_bytes() + b'{"event": "ended", "id": "suites/test_map')
    return reopened(journal)


def reopened(journal: JournalWriter) -> JournalWriter:
    """Unlock the journal, as the end of its process does, and open it anew."""
    directory = journal.directory
    journal.unlock()
    return JournalWriter(directory)


def test_lock_of_a_running_run_is_refused(journal: JournalWriter) -> None:
    with pytest.raises(HarnessError, match="is still going on"):
        JournalWriter(journal.directory).lock()


def test_resumed_run_completes_what_was_not_reached(cut_off: JournalWriter) -> None:
    again = resumed(cut_off)
    again.run_started()
    assert not read(again.directory).complete
    again.started(TWO.id)
    again.ended(TWO.id, Verdict.VIOLATES)
    again.run_ended()
    record = read(again.directory)
    assert not record.damage
    assert record.complete
    assert len(record.resumed) == 1
    assert verdicts(again.directory) == {
        "fetch": "conforms",
        "build": "conforms",
        ONE.id: "kernel-died",
        TWO.id: "violates",
    }
    assert not result_of(again.directory, ONE).ended
    told = [json.loads(line) for line in (again.directory / "events.jsonl").read_text().splitlines()]
    assert [event.get("resumed") for event in told if event["event"] == "run-started"] == [None, True]


def test_scenario_started_again_is_an_error(cut_off: JournalWriter) -> None:
    again = resumed(cut_off)
    again.started(ONE.id)
    again.ended(ONE.id, Verdict.CONFORMS)
    result = result_of(again.directory, ONE)
    assert result.verdict is Verdict.HARNESS_ERROR
    assert "it was started more than once" in result.reason


def test_resumed_journal_writes_with_its_first_event(cut_off: JournalWriter) -> None:
    again = resumed(cut_off)
    events = again.directory / "events.jsonl"
    before = events.read_bytes()
    assert before.endswith(b"\n")
    again.run_started()
    with again.stage("build"):
        pass  # passed before
    assert again.unwritten
    assert events.read_bytes() == before
    again.note("a host with another accelerator")
    assert not again.unwritten
    assert b"run-started" in events.read_bytes()[len(before) :]


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_stage_not_passed_begins_again(journal: JournalWriter, how: str) -> None:
    if how == "killed":
        journal.started("build")
    else:
        with pytest.raises(HarnessError), journal.stage("build"):
            raise HarnessError("No space left.")
    again = resumed(reopened(journal))
    with again.stage("build"):
        assert verdicts(again.directory)["build"] == "harness-error"
    result = result_of(again.directory, BUILD)
    assert (result.verdict, result.reason) == (Verdict.CONFORMS, "")
    assert not read(again.directory).damage


def test_stage_failed_by_the_series_stays_failed(journal: JournalWriter) -> None:
    with pytest.raises(BuildError), journal.stage("build"):
        raise BuildError("It does not compile.")
    again = resumed(reopened(journal))
    with again.stage("build"):
        pass
    assert verdicts(again.directory)["build"] == "harness-error"
    assert read(again.directory).damage


@pytest.mark.parametrize("last", [True, False])
def test_interruption_of_the_last_part_counts(journal: JournalWriter, last: bool) -> None:
    journal.started(ONE.id)
    journal.interrupted("SIGINT")
    journal.run_ended()
    again = resumed(reopened(journal))
    again.started(TWO.id)
    if last:
        again.interrupted("SIGTERM")
    else:
        again.ended(TWO.id, Verdict.VIOLATES)
        again.run_ended()
    record = read(again.directory)
    assert record.interrupted == ("SIGTERM" if last else "")
    assert record.exit_code is (ExitCode.INTERRUPTED if last else ExitCode.HARNESS)
    # An entry that a part left open has the reason of that part.
    reason = "The run was interrupted by Ctrl-C (SIGINT) during this scenario."
    assert result_of(again.directory, ONE).reason == reason
    told = (
        "The run was ended by SIGTERM (a CI system's cancel, or `kill`) during this scenario." if last else ""
    )
    assert result_of(again.directory, TWO).reason == told


def test_note_is_kept_once(journal: JournalWriter) -> None:
    journal.note("the base is 6.19.6")
    again = resumed(reopened(journal))
    again.note("the base is 6.19.6")
    assert again.unwritten
    assert read(again.directory).notes == ("the base is 6.19.6",)


def test_machines_of_all_parts_are_listed(journal: JournalWriter) -> None:
    journal.machine_started("machine-1")
    again = resumed(reopened(journal))
    again.machine_started("machine-2")
    assert read(again.directory).machines == ("machine-1", "machine-2")


# Repetitions


def repeated(directory: Path, *observed: str, entry: Entry = ONE) -> Record:
    """Record a run of one scenario, once for each verdict; an empty verdict is not reached."""
    journal = JournalWriter(directory)
    entries = [
        replace(entry, id=entry.id + repetition_mark(n), repetition=n) for n, _ in enumerate(observed, 1)
    ]
    journal.plan(entries)
    journal.run_started()
    for each, verdict in zip(entries, observed, strict=True):
        if verdict:
            journal.started(each.id)
            journal.ended(each.id, Verdict(verdict))
    journal.run_ended()
    return read(directory)


def test_repetitions_belong_to_their_scenario(tmp_path: Path) -> None:
    record = repeated(tmp_path, "conforms", "conforms", "conforms")
    assert [r.entry.id for r in record.results] == [ONE.id, f"{ONE.id} #2", f"{ONE.id} #3"]
    assert {r.entry.scenario for r in record.results} == {ONE.id}
    assert record.differing == {}
    assert record.exit_code is ExitCode.OK


@pytest.mark.parametrize(
    ("expected", "strength", "observed", "code"),
    [
        ("conforms", "must", ("conforms", "violates"), ExitCode.SERIES),
        ("violates", "must", ("violates", "conforms"), ExitCode.SERIES),
        # Each of these verdicts alone would be as expected.
        ("conforms", "must", ("conforms", "not-applicable", "conforms"), ExitCode.HARNESS),
        ("conforms", "info", ("violates", "conforms"), ExitCode.HARNESS),
    ],
)
def test_repetitions_that_differ_fail_the_run(
    tmp_path: Path, expected: str, strength: str, observed: tuple[str, ...], code: ExitCode
) -> None:
    entry = replace(ONE, expected=Verdict(expected), strength=Strength(strength))
    record = repeated(tmp_path, *observed, entry=entry)
    assert list(record.differing) == [ONE.id]
    assert [result.entry.repetition for result in record.differing[ONE.id]] == [*range(1, len(observed) + 1)]
    assert record.exit_code is code


def test_repetition_not_reached_does_not_differ(tmp_path: Path) -> None:
    assert repeated(tmp_path, "conforms", "").differing == {}


# The exit code


def run_of(*verdicts: str, complete: bool = True, interrupted: str = "") -> Record:
    """Make a record from ``expected/verdict`` of a stage and scenarios; ``~`` marks one that did not end."""
    results = []
    for number, words in enumerate(verdicts):
        expected, _, verdict = words.lstrip("~").rpartition("/")
        entry = Entry(
            f"entry{number}",
            Kind.SCENARIO if number else Kind.STAGE,
            "",
            expected=Verdict(expected or "conforms"),
        )
        ended = not words.startswith("~") and verdict != "not-reached"
        results.append(Result(entry, Verdict(verdict), ended=ended))
    return Record("run", tuple(results), complete=complete, interrupted=interrupted)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (run_of("conforms", "conforms"), 0),
        (run_of("conforms", "violates/violates", "conforms"), 0),
        (run_of("conforms", "kernel-died/kernel-died"), 0),
        (run_of("conforms", "conforms", "not-applicable"), 0),
        (run_of("conforms", "conforms", "violates/not-applicable"), 0),
        (run_of("conforms", "conforms", "violates"), 1),
        (run_of("conforms", "conforms", "not-applicable/violates"), 1),
        (run_of("conforms", "conforms", "violates/unexpectedly-conforms"), 1),
        (run_of("conforms", "conforms", "kernel-died"), 1),
        (run_of("violates", "not-reached", "not-reached"), 1),
        (run_of("conforms", "violates", "harness-error"), 1),
        (run_of("conforms", "conforms", "harness-error"), 2),
        (run_of("conforms", "conforms", "not-reached"), 2),
        (run_of("conforms", "~kernel-died", complete=False), 2),
        (run_of("conforms", "~kernel-died/kernel-died"), 2),
        (run_of("harness-error", "not-reached"), 2),
        (run_of("conforms", "conforms", complete=False), 2),
        (run_of("conforms", "not-applicable", "not-applicable"), 3),
        (run_of("conforms"), 3),
        (run_of("conforms", "conforms", interrupted="SIGINT"), 130),
        (run_of("conforms", "violates", "harness-error", interrupted="SIGINT"), 130),
    ],
)
def test_exit_code_of_a_record(record: Record, code: int) -> None:
    assert record.exit_code == code


@pytest.mark.parametrize(
    ("other", "code"), [("not-applicable", 2), ("conforms", 0), ("violates/violates", 0)]
)
def test_info_scenarios_without_any_verdict_are_no_pass(other: str, code: int) -> None:
    record = run_of("conforms", "harness-error", other)
    info = replace(record.results[1].entry, strength=Strength.INFO)
    results = (record.results[0], replace(record.results[1], entry=info), record.results[2])
    assert replace(record, results=results).exit_code == code


def test_result_on_the_base_is_kept(journal: JournalWriter) -> None:
    base = BaseAnswer(Verdict.VIOLATES, "EINVAL", "EINVAL", ("0123456789ab",), ("map buf1: EINVAL",))
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.VIOLATES, failure="EINVAL")
    journal.compared(ONE.id, base)
    result = result_of(journal.directory, ONE)
    assert (result.failure, result.base) == ("EINVAL", base)


@pytest.mark.parametrize(
    "line",
    [
        f'{{"event": "compared", "id": "{ONE.id}", "base": {{"verdict": "violates"}}}}',
        f'{{"event": "compared", "id": "{ONE.id}"}}',
    ],
)
def test_unreadable_result_on_the_base_is_an_error(journal: JournalWriter, line: str) -> None:
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.VIOLATES)
    append(journal, line)
    assert result_of(journal.directory, ONE).verdict is Verdict.HARNESS_ERROR


def test_comparison_before_the_end_is_an_error(journal: JournalWriter) -> None:
    journal.started(ONE.id)
    journal.compared(ONE.id, BaseAnswer(Verdict.CONFORMS))
    assert "before it ended" in result_of(journal.directory, ONE).reason
