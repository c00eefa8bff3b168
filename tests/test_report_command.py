"""The command `report`: which format, which folder, and where the report goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.cli.report import FORMATS
from harness.journal.results_folder import ResultsFolder
from harness.lib.errors import ExitCode
from harness.report import junit

REPORTS = Path(__file__).parent / "data" / "reports"


pytestmark = pytest.mark.usefixtures("main_undone")


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run the command, which must end with exit code 2 and one sentence; return that."""
    assert main.main(["report", *map(str, words)]) == ExitCode.HARNESS
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("patchproof: ")
    assert "Traceback" not in said.err
    return said.err


def test_report_writes_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main.main(["report", "junit", str(REPORTS / "mixed")]) == ExitCode.OK
    assert capfdbinary.readouterr().out == junit.render(REPORTS / "mixed")


def test_report_keeps_paths_of_the_host_if_asked(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    results.write_run(directory="/home/dev/tree", origin="/home/dev/mails/x.mbox")
    results.write_run(qemu_command=["qemu", "-kernel", str(results.dir / "bzImage")])
    results.journal().plan([])
    paths = (b"/home/dev", str(tmp_path).encode())
    assert main.main(["report", "junit", str(results.dir)]) == ExitCode.OK
    shown = capfdbinary.readouterr().out
    assert not any(path in shown for path in paths)
    assert b'name="origin" value=".../x.mbox"' in shown
    assert b"&#10;bzImage" in shown
    assert main.main(["report", "junit", str(results.dir), "--host-paths"]) == ExitCode.OK
    shown = capfdbinary.readouterr().out
    assert all(path in shown for path in paths)
    assert b'name="directory" value="/home/dev/tree"' in shown


def test_report_writes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "report.xml"
    assert main.main(["report", "junit", str(REPORTS / "mixed"), "-o", str(path)]) == ExitCode.OK
    assert path.read_bytes() == junit.render(REPORTS / "mixed")
    assert capsys.readouterr().out == ""


def test_report_takes_its_options_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    for words in (["-o", path, "junit", REPORTS / "mixed"], ["junit", "-o", path, REPORTS / "mixed"]):
        assert main.main(["report", *map(str, words)]) == ExitCode.OK
        assert path.stat().st_size > 0
        path.unlink()


def test_report_without_a_format_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Name the format of the report: one of junit, " in refused(capsys)


@pytest.mark.parametrize("words", [["pdf", "x"], ["junit"], ["junit", "a", "b"]])
def test_report_refuses_other_words(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["report", *words])
    assert ended.value.code == ExitCode.HARNESS
    assert "usage: python -m harness" in capsys.readouterr().err


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_refuses_what_is_no_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "plan.json").write_text('{"run": "x", "entries": [{"id": "y"}]}')
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "plan.json").write_text('{"run": "x", "entr')
    for folder, says in {
        "missing": "There is no folder",
        "empty": "holds no plan.json",
        "file": "cannot be read as the results folder",
        "old": "is not a plan that",
        "cut": "is damaged, or cut off",
    }.items():
        assert says in refused(capsys, name, tmp_path / folder), folder


@pytest.mark.parametrize("name", ["junit", "html", "kcidb", "markdown", "mail"])  # the others tell no facts
def test_each_format_refuses_damaged_facts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "plan.json").write_text('{"run": "x", "entries": []}')
    (tmp_path / "run.json").write_text('{"ser')
    assert "is not JSON" in refused(capsys, name, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("run", ["mixed", "killed", "apply-failed"])
def test_each_format_reports_a_recorded_run(
    capfdbinary: pytest.CaptureFixture[bytes], name: str, run: str
) -> None:
    assert main.main(["report", name, str(REPORTS / run)]) == ExitCode.OK
    said = capfdbinary.readouterr()
    assert said.out.decode().strip()
    assert b"\x1b" not in said.out
    assert said.err == b""


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_reports_a_run_that_was_cut_off(
    capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, name: str
) -> None:
    for file in ("plan.json", "run.json"):
        (tmp_path / file).write_bytes((REPORTS / "mixed" / file).read_bytes())
    events = (REPORTS / "mixed" / "events.jsonl").read_bytes()
    (tmp_path / "events.jsonl").write_bytes(events[: len(events) // 2])
    assert main.main(["report", name, str(tmp_path)]) == ExitCode.OK
    assert capfdbinary.readouterr().out.strip()
