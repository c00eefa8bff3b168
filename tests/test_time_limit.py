"""A run whose time is limited: it ends in order, says what it did not reach, and can be resumed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import SUITES, Built, Invocation, assert_locks_free, events, junit, make_checkout, run

from harness.cli import prefixes
from harness.cli.prefixes import PrefixResult
from harness.journal.reader import read
from harness.journal.resume import EarlierRun
from harness.journal.writer import JournalWriter
from harness.lib import interruption, time_limit
from harness.lib.errors import ExitCode
from harness.lib.interruption import Interruption
from harness.run.request import Request
from harness.verdict.interruption import how
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Verdict

BUILD = Entry("build", Kind.STAGE, "the kernel builds")
ONE, TWO, THREE = (
    Entry(f"suites/test_map.py::test_{name}", Kind.SCENARIO, name, ("MAP-01",))
    for name in ("one", "two", "three")
)
LIMIT = f"{time_limit.REASON}45m"


@pytest.fixture
def state() -> Iterator[None]:
    """No time limit and no interruption, also after the test."""
    interruption.dismiss()
    yield
    time_limit.start("")
    interruption.dismiss()


@pytest.mark.parametrize(("limit", "seconds"), [("90s", 90), ("45m", 2700), ("2h", 7200)])
def test_limit_is_a_number_with_a_unit(limit: str, seconds: int) -> None:
    assert time_limit.seconds_of(limit) == seconds


@pytest.mark.parametrize("limit", ["", "45", "0m", "-1s", "1.5h", "45 m", "1d", "9999999s", "٣s"])
def test_limit_that_is_no_time_is_refused(limit: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="such as 90s, 45m or 2h"):
        time_limit.seconds_of(limit)


def test_command_line_refuses_what_is_no_time(tmp_path: Path) -> None:
    code, output = run("run", "--time-limit", "45", mark=tmp_path)
    assert code == ExitCode.HARNESS
    assert "argument --time-limit: '45' is not a time: a number with s, m or h" in output


def test_limit_interrupts_with_its_reason(state: None) -> None:
    time_limit.start("1s")
    with pytest.raises(Interruption) as caught:
        interruption.until(lambda _: False, timeout=60)
    assert how(caught.value.reason) == "was ended by its time limit of 1s"


def test_what_is_left_of_a_limit_goes_to_the_next_run(state: None) -> None:
    assert time_limit.left() == ""
    time_limit.start("2h")
    assert time_limit.left() in {f"{n}s" for n in range(6000, 7200)}
    time_limit.start("1s")
    with pytest.raises(Interruption):
        time_limit.left()


# The journal


@pytest.fixture
def journal(tmp_path: Path) -> JournalWriter:
    made = JournalWriter(tmp_path)
    made.plan([BUILD, ONE, TWO, THREE])
    made.run_started()
    return made


def end(journal: JournalWriter, first: Verdict) -> dict[str, str]:
    """End a run by its time limit during its second scenario; return the verdicts."""
    with journal.stage("build"):
        pass
    journal.started(ONE.id)
    journal.ended(ONE.id, first)
    journal.started(TWO.id)
    journal.interrupted(LIMIT)
    journal.run_ended()
    journal.unlock()
    return {one.entry.id: str(one.verdict) for one in read(journal.directory).results}


@pytest.mark.parametrize(
    ("first", "code"), [(Verdict.CONFORMS, ExitCode.HARNESS), (Verdict.VIOLATES, ExitCode.SERIES)]
)
def test_limited_run_has_a_true_exit_code(journal: JournalWriter, first: Verdict, code: ExitCode) -> None:
    verdicts = end(journal, first)
    assert verdicts[ONE.id] == first
    assert {verdicts[one.id] for one in (TWO, THREE)} == {"not-reached"}
    record = read(journal.directory)
    assert record.exit_code is code
    assert [one.reason for one in record.results[-2:]] == [
        "The run was ended by its time limit of 45m during this scenario.",
        "The run was ended by its time limit of 45m before it.",
    ]


def test_limited_run_is_not_green_if_all_was_reached(journal: JournalWriter) -> None:
    with journal.stage("build"):
        pass
    for one in (ONE, TWO, THREE):
        journal.started(one.id)
        journal.ended(one.id, Verdict.CONFORMS)
    journal.interrupted(LIMIT)
    journal.run_ended()
    assert read(journal.directory).exit_code is ExitCode.HARNESS


def test_limited_run_leaves_its_rest_to_be_resumed(tmp_path: Path, journal: JournalWriter) -> None:
    (tmp_path / "run.json").write_text("{}")
    end(journal, Verdict.CONFORMS)
    earlier = EarlierRun.of(tmp_path)
    assert earlier.left == (TWO.id, THREE.id)
    assert not earlier.finished
    earlier.journal.resume(earlier.record)
    for one in (TWO, THREE):
        earlier.journal.started(one.id)
        earlier.journal.ended(one.id, Verdict.CONFORMS)
    earlier.journal.run_ended()
    record = read(tmp_path)
    assert not record.damage
    assert record.exit_code is ExitCode.OK


def test_stage_cut_off_by_the_limit_begins_again(tmp_path: Path, journal: JournalWriter) -> None:
    journal.started("build")
    journal.interrupted(LIMIT)
    journal.run_ended()
    assert read(tmp_path).results[0].verdict is Verdict.NOT_REACHED
    journal.resume(read(tmp_path))
    with journal.stage("build"):
        pass
    assert read(tmp_path).results[0].verdict is Verdict.CONFORMS
    assert not read(tmp_path).damage


# Commands


@pytest.mark.build
def test_limit_ends_a_build_and_its_programs(tmp_path: Path) -> None:
    """The build waits for ever; a resumed run finds it done."""
    held = tmp_path / "held"
    held.touch()
    checkout = make_checkout(tmp_path / "linux", hold=str(held))
    cache, results = tmp_path / "cache", tmp_path / "results"
    cache.mkdir()
    (cache / "image").touch()  # a file where a folder belongs: no run gets past the stage
    asked = (
        "run",
        "suites/test_map.py",
        "--tree",
        checkout,
        "--results",
        results,
        "-k",
        "reaches_the_memory",
        "--sandbox=off",  # in which the file that is waited for is not seen
    )
    with Invocation(*asked, "--time-limit", "20s", mark=tmp_path, cache=cache) as limited:
        assert limited.end() == ExitCode.HARNESS, limited.output
        assert limited.children() == {}
        assert "The run was ended by its time limit of 20s." in limited.output
    assert_locks_free(cache)
    cases = junit(results)
    assert {one.verdict for name, one in cases.items() if name.startswith("test_")} == {"not-reached"}
    assert cases["run"].outcome == "error"
    told = events(results)
    assert [one["event"] for one in told[-2:]] == ["interrupted", "run-ended"]
    held.unlink()
    code, output = run(
        "run", "--resume", results / "latest", "--time-limit", "1h", mark=tmp_path, cache=cache
    )
    assert code == ExitCode.HARNESS, output
    assert junit(results)["build"].verdict == "conforms", output


def test_limit_of_prefixes_leaves_the_rest_unreached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: None
) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/seen\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    time_limit.start("1h")
    rows = [PrefixResult(1, "first"), PrefixResult(2, "second")]
    prefixes.run(rows[:1], Request(series="mine", results=tmp_path, time_limit="1h"), [])
    (line,) = (tmp_path / "seen").read_text().splitlines()
    assert line.split()[-1].removeprefix("--time-limit=") in {f"{n}s" for n in range(3000, 3600)}
    prefixes.cut_off(rows, LIMIT)
    assert rows[1].outcome == "not reached: the command was ended by its time limit of 45m"
    assert prefixes.exit_code(rows) is ExitCode.HARNESS


def test_limit_of_another_command_is_told(tmp_path: Path) -> None:
    """A command without a journal ends with a sentence, and is not green."""
    script = (
        "from harness.cli import commands, main; from harness.lib import interruption, time_limit;"
        "commands.doctor = lambda args: (time_limit.start('1s'), interruption.until(lambda _: False));"
        "raise SystemExit(main.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.HARNESS
    assert done.stderr == "patchproof: it was ended by its time limit of 1s\n"


@pytest.mark.vm
def test_limited_run_keeps_what_it_found(tmp_path: Path) -> None:
    """Three parts of a run are cut off: in a body, in the clean-up of a violation, after a complaint."""
    results = tmp_path / "results"
    kernel = Built(tmp_path).arguments
    suite = SUITES / "time_limit.py"

    def verdicts() -> list[str]:
        return [one.verdict for name, one in junit(results).items() if name.startswith("test_")]

    code, output = run("run", *kernel, "--no-base", "--results", results, suite, mark=tmp_path)
    assert code == ExitCode.HARNESS, output
    assert verdicts() == ["conforms", *["not-reached"] * 4]
    assert (results / "latest" / "report.html").read_text().count("its time limit of 45m") > 1
    for found, code in (
        (["conforms", "conforms", "violates", "not-reached", "not-reached"], ExitCode.SERIES),
        (["conforms", "conforms", "violates", "violates", "not-reached"], ExitCode.SERIES),
        (["conforms", "conforms", "violates", "violates", "conforms"], ExitCode.SERIES),
    ):
        resumed, output = run("run", "--resume", results / "latest", mark=tmp_path)
        assert (resumed, verdicts()) == (code, found), output
