"""The command `report`: which format, which folder, and where the report goes."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.lib.errors import ExitCode
from harness.report import junit

REPORTS = Path(__file__).parent / "data" / "reports"


@pytest.fixture(autouse=True)
def undo() -> Iterator[None]:
    """Restore what main() changes in its process: it expects to be called once."""
    handler, level = signal.getsignal(signal.SIGTERM), logging.getLogger("paramiko").level
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger("paramiko").setLevel(level)


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


def test_report_writes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "report.xml"
    assert main.main(["report", "junit", str(REPORTS / "mixed"), "-o", str(path)]) == ExitCode.OK
    assert path.read_bytes() == junit.render(REPORTS / "mixed")
    assert capsys.readouterr().out == ""


def test_report_refuses_an_unknown_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no format 'pdf'; the formats are junit" in refused(capsys, "pdf", REPORTS / "mixed")


@pytest.mark.parametrize("count", [0, 2])
def test_report_refuses_no_or_two_folders(capsys: pytest.CaptureFixture[str], count: int) -> None:
    assert f"not {count}" in refused(capsys, "junit", *[REPORTS / "mixed"] * count)
