"""`judge` of a folder that is cut off, damaged, of another version, or not the results of a run at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.journal.reader import read
from harness.lib.errors import ExitCode
from harness.verdict.verdict import Verdict

MIXED = Path(__file__).parent / "data" / "reports" / "mixed"


pytestmark = pytest.mark.usefixtures("main_undone")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Return a copy of the results of a run."""
    folder: Path = shutil.copytree(MIXED, tmp_path / "stored")
    (folder / "junit.xml").unlink()
    return folder


def refused(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """Judge the folder, which must end with exit code 2 and one sentence; return that."""
    assert main.main(["judge", str(folder)]) == ExitCode.HARNESS
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("patchproof: ")
    assert said.err.endswith(".\n")
    assert said.err.count("\n") == 1
    assert len(said.err) < 500
    assert said.err.isascii()
    assert not (folder / "junit.xml").exists()
    return said.err


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Change the JSON in a file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# Not a run


def test_judge_of_nothing_names_the_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert f"There is no folder {tmp_path / 'gone'}." in refused(capsys, tmp_path / "gone")
    (tmp_path / "latest").symlink_to("gone")
    assert f"There is no folder {tmp_path / 'latest'}." in refused(capsys, tmp_path / "latest")


@pytest.mark.parametrize("kind", ["file", "loop"])
def test_judge_of_no_folder_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_text("{}")
    else:
        path.symlink_to(kind)
    assert f"{path} cannot be read as the results folder of a run" in refused(capsys, path)


def test_judge_of_a_folder_without_plan_says_so(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    (stored / "plan.json").unlink()
    assert f"{stored} holds no plan.json" in refused(capsys, stored)


# Cut off or damaged


@pytest.mark.parametrize(
    "content", [b"", b'{"run": "x", "entr', b"\xff\xfe\x00", b"[" * 100_000, b"\0" * 100]
)
def test_judge_of_a_cut_off_plan_says_so(
    capsys: pytest.CaptureFixture[str], stored: Path, content: bytes
) -> None:
    (stored / "plan.json").write_bytes(content)
    assert f"{stored / 'plan.json'} is damaged, or cut off" in refused(capsys, stored)


@pytest.mark.parametrize("name", ["plan.json", "events.jsonl", "run.json"])
def test_judge_of_a_folder_in_a_files_place_says_so(
    capsys: pytest.CaptureFixture[str], stored: Path, name: str
) -> None:
    (stored / name).unlink()
    (stored / name).mkdir()
    said = refused(capsys, stored)
    assert f"{stored / name}" in said
    assert "Is a directory" in said


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_judge_of_damaged_facts_says_so(
    capsys: pytest.CaptureFixture[str], stored: Path, content: bytes
) -> None:
    (stored / "run.json").write_bytes(content)
    assert "Remove the file to have reports without them." in refused(capsys, stored)
    (stored / "run.json").unlink()
    assert main.main(["judge", str(stored)]) == ExitCode.SERIES
    capsys.readouterr()


@pytest.mark.parametrize("lines", [0, 1, 5, 19])
def test_judge_of_cut_off_events_tells_what_was_lost(
    capsys: pytest.CaptureFixture[str], stored: Path, lines: int
) -> None:
    events = (stored / "events.jsonl").read_bytes().splitlines(keepends=True)
    (stored / "events.jsonl").write_bytes(b"".join(events[:lines]) + events[lines][:40])
    code = main.main(["judge", str(stored)])
    assert code == (ExitCode.SERIES if lines == 19 else ExitCode.HARNESS)
    capsys.readouterr()
    record = read(stored)
    assert not record.complete
    assert record.results[-1].verdict is Verdict.NOT_REACHED
    assert 'name="run"' in (stored / "junit.xml").read_text()


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b"{}", b"[" * 100_000, b'{"event": "future"}'])
def test_judge_of_damaged_events_is_a_harness_error(
    capsys: pytest.CaptureFixture[str], stored: Path, line: bytes
) -> None:
    with (stored / "events.jsonl").open("ab") as stream:
        stream.write(line + b"\n")
    main.main(["judge", str(stored)])
    capsys.readouterr()
    (damaged,) = (one for one in read(stored).results if one.entry.id == "events.jsonl")
    assert damaged.verdict is Verdict.HARNESS_ERROR


DEVIATION = {"expected": "a", "seen": "b", "operation": "c", "wanted": "d"}


@pytest.mark.parametrize(
    ("members", "damaged"),
    [
        ({"console": ["console.log\0", 0, 5]}, True),
        ({"console": ["console.log", -5, 5]}, True),
        ({"console": ["console.log", 0, 1 << 70]}, True),
        ({"console": ["console.log", 1 << 70, 1 << 71]}, True),
        ({"console": ["console.log", float("inf"), 5]}, True),
        ({"console": ["console.log"]}, True),
        ({"console": ["c" * 5000, 0, 5]}, False),
        ({"console": ["console.log", 1 << 60, 1 << 62]}, False),
        ({"deviation": DEVIATION | {"line": float("inf")}}, True),
        ({"duration": float("inf")}, True),
    ],
)
def test_judge_of_a_damaged_end_tells_or_ignores_it(
    capsys: pytest.CaptureFixture[str], stored: Path, members: dict[str, object], damaged: bool
) -> None:
    path = stored / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    ended = next(one for one in events if one["event"] == "ended" and "::" in one["id"])
    ended.update(members)
    path.write_text("".join(f"{json.dumps(one)}\n" for one in events).replace("Infinity", "1e999"))
    main.main(["judge", str(stored)])
    capsys.readouterr()
    record = read(stored)
    assert ("its end cannot be read" in record.damage) is damaged
    (result,) = (one for one in record.results if one.entry.id == ended["id"])
    assert (result.verdict is Verdict.HARNESS_ERROR) is damaged


def test_judge_of_a_damaged_try_is_a_harness_error(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    (one, *_) = (one for one in read(stored).results if one.ended and "::" in one.entry.id)
    members = '"count": 1, "of": 1e999, "state": "violates", "reason": "", "subject": ""'
    with (stored / "events.jsonl").open("a") as stream:
        stream.write(f'{{"event": "tried", "id": {json.dumps(one.entry.id)}, {members}}}\n')
    main.main(["judge", str(stored)])
    capsys.readouterr()
    assert "its result on a prefix of the series cannot be read" in read(stored).damage


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000])
def test_damaged_report_of_lines_is_told(
    capsys: pytest.CaptureFixture[str], stored: Path, content: bytes
) -> None:
    (stored / "coverage").mkdir()
    (stored / "coverage" / "report.json").write_bytes(content)
    assert main.main(["report", "markdown", str(stored)]) == ExitCode.HARNESS
    assert "report.json is damaged" in capsys.readouterr().err


def test_judge_without_the_evidence_keeps_the_verdicts(
    capsys: pytest.CaptureFixture[str], stored: Path
) -> None:
    before = [one.verdict for one in read(stored).results]
    shutil.rmtree(stored / "transcripts")
    (stored / "console.log").unlink()
    assert main.main(["judge", str(stored)]) == ExitCode.SERIES
    capsys.readouterr()
    assert [one.verdict for one in read(stored).results] == before


# Of another version


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda plan: plan["entries"][0].pop("strength"), "there is no member 'strength'"),
        (lambda plan: plan.pop("run"), "there is no member 'run'"),
        (lambda plan: plan["entries"][0].update(kind="future"), "'future' is not a valid Kind"),
        (lambda plan: plan["entries"][0].update(expected="works"), "'works' is not a valid Verdict"),
        (lambda plan: plan.update(entries=None), "'NoneType' object is not iterable"),
        (lambda plan: plan.update(entries=["a"]), "string indices must be integers"),
    ],
)
def test_judge_of_another_versions_plan_says_so(
    capsys: pytest.CaptureFixture[str], stored: Path, edit: Callable[[Any], object], words: str
) -> None:
    change(stored / "plan.json", edit)
    said = refused(capsys, stored)
    assert "is not a plan that this version of the program can read" in said
    assert words in said


def test_judge_of_an_older_run_needs_no_newer_members(
    capsys: pytest.CaptureFixture[str], stored: Path
) -> None:
    """Members that came later have a default; the recorded run has no deviations either."""

    def older(plan: Any) -> None:
        for entry in plan["entries"]:
            for name in ("repetition", "alone"):
                entry.pop(name, None)

    change(stored / "plan.json", older)
    assert main.main(["judge", str(stored)]) == ExitCode.SERIES
    capsys.readouterr()
    assert (stored / "junit.xml").read_bytes() == (MIXED / "junit.xml").read_bytes()
