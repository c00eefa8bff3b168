"""Host programs: their output in a log, their failure as a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import command
from harness.command import CommandError
from harness.errors import HarnessError


def test_all_that_is_said_is_in_the_log_and_in_the_answer(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "stage.log"
    lines: list[str] = []
    said = command.run(["sh", "-c", "echo one; echo two >&2"], log=log, line=lines.append)
    assert said.splitlines() == lines == ["one", "two"]
    assert log.read_text() == "$ sh -c 'echo one; echo two >&2'\none\ntwo\n"


def test_a_program_that_fails_says_how(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as failed:
        command.run(["sh", "-c", "echo why; exit 3"], log=tmp_path / "log")
    assert (failed.value.returncode, failed.value.tail) == (3, "why")
    assert failed.value.log == tmp_path / "log"


def test_a_log_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match=r"The log .*/file/log cannot be written: .* Make room"):
        command.run(["true"], log=tmp_path / "file" / "log")


def test_a_full_disk_is_a_sentence() -> None:
    with pytest.raises(HarnessError, match="The log /dev/full cannot be written: No space left on device"):
        command.run(["true"], log=Path("/dev/full"))
