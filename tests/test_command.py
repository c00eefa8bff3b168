"""Host programs: their output in a log, their failure as an error with a message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_run import PATIENCE

from harness.lib import command
from harness.lib.command import CommandError
from harness.lib.errors import HarnessError


def test_run_output_is_logged_and_returned(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "stage.log"
    lines: list[str] = []
    said = command.run(["sh", "-c", "echo one; echo two >&2"], log=log, line=lines.append)
    assert said.splitlines() == lines == ["one", "two"]
    assert log.read_text() == "$ sh -c 'echo one; echo two >&2'\none\ntwo\n"


def test_run_of_a_failing_program_has_status_and_tail(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as failed:
        command.run(["sh", "-c", "echo why; exit 3"], log=tmp_path / "log")
    assert (failed.value.returncode, failed.value.tail) == (3, "why")
    assert failed.value.log == tmp_path / "log"


def test_run_without_a_log_folder_is_a_harness_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match=r"The log .*/file/log cannot be written: .* Make room"):
        command.run(["true"], log=tmp_path / "file" / "log")


def test_run_with_a_full_disk_is_a_harness_error() -> None:
    with pytest.raises(HarnessError, match="The log /dev/full cannot be written: No space left on device"):
        command.run(["true"], log=Path("/dev/full"))


# A signal that another thread receives does not interrupt a read() of the main thread.
SIGNAL_IN_A_THREAD = """
import signal, threading
from harness.lib import command

def interrupt():
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    command.run(["sh", "-c", "echo; exec sleep 3600"], line=lambda _: threading.Timer(0.5, interrupt).start())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_signal_in_another_thread_interrupts_run() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_IN_A_THREAD],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout == "interrupted\n"
