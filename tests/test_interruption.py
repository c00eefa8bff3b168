"""Interruptions: when they are taken, what they wait for, and what a second Ctrl-C does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_run import PATIENCE, until

from harness.kernel.build import Kernel
from harness.lib import command, interruption, locks, standard_input
from harness.lib.errors import ExitCode
from harness.lib.interruption import Interruption
from harness.lib.paths import PATCHES
from harness.mutants.jobs import Builder, Job, job_of
from harness.series import mutant
from harness.verdict import requirements
from harness.verdict.interruption import how

HOURS = "36000"  # seconds


@pytest.fixture(autouse=True)
def state() -> Iterator[None]:
    interruption.dismiss()
    yield
    interruption.dismiss()


def test_check_raises_once_and_names_the_first_reason() -> None:
    interruption.check()
    interruption.request("SIGTERM")
    interruption.request("SIGINT")
    assert interruption.taken() == ""
    with pytest.raises(Interruption) as caught:
        interruption.check()
    assert caught.value.reason == interruption.taken() == "SIGTERM"
    interruption.check()  # in the clean-up


def fail_to_clean_up() -> None:
    try:
        interruption.check()
    finally:
        raise OSError("of the clean-up")


def test_again_raises_what_a_clean_up_has_lost() -> None:
    interruption.request("SIGINT")
    interruption.again()  # not taken yet
    with pytest.raises(OSError, match="clean-up"):
        fail_to_clean_up()
    with pytest.raises(Interruption, match="SIGINT"):
        interruption.again()


def test_dismiss_lets_the_next_one_be_taken() -> None:
    for reason in ("SIGINT", "SIGTERM"):
        interruption.request(reason)
        with pytest.raises(Interruption, match=reason):
            interruption.check()
        interruption.dismiss()
    interruption.check()


def test_check_in_another_thread_does_nothing() -> None:
    interruption.request("SIGINT")
    ended = []

    def work() -> None:
        interruption.check()
        with interruption.worker():
            interruption.check()
            ended.append("a worker that went on")
        ended.append("left")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["left"]
    assert interruption.taken() == ""


def wait_for_a_lock(folder: Path) -> None:
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with locks.hold(folder / "lock", "workbench"):
            pass


def build_kernels(_folder: Path) -> None:
    def build(_job: Job) -> Kernel:
        command.run(SLEEP)
        raise AssertionError("it was not ended")

    mutants = mutant.load(PATCHES, requirements.load())
    with Builder([job_of(one) for one in mutants[:2]], build) as builder:
        list(builder)


def read_an_open_pipe(_folder: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb"):
        standard_input.read(source, 10)


SLEEP = ["sleep", HOURS]
WAITS: dict[str, Callable[[Path], object]] = {
    "until": lambda _: interruption.until(threading.Event().wait),
    "call": lambda _: interruption.call(time.sleep, float(HOURS)),
    "run": lambda _: command.run(SLEEP),
    "run-that-reads-nothing": lambda _: command.run(SLEEP, stdin=bytes(1 << 20)),
    "run-without-output": lambda _: command.run(["sh", "-c", f"exec >/dev/null 2>&1 sleep {HOURS}"]),
    "capture": lambda _: command.capture(SLEEP),
    "run-harness": lambda _: command.run_harness(SLEEP),
    "lock": wait_for_a_lock,
    "builder-of-mutants": build_kernels,
    "standard-input": read_an_open_pipe,
}


@pytest.mark.parametrize("name", WAITS)
def test_wait_of_hours_ends(tmp_path: Path, name: str) -> None:
    timer = threading.Timer(0.1, interruption.request, ["SIGTERM"])
    timer.daemon = True
    timer.start()
    with pytest.raises(Interruption, match="SIGTERM"):
        WAITS[name](tmp_path)
    assert not [one for one in children() if "sleep" in one]


def children() -> list[str]:
    """Return the command lines of this process's children."""
    listed = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.splitlines() if not line.startswith("ps ")]


def test_call_passes_value_and_error_on() -> None:
    assert interruption.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        interruption.call(divmod, 7, 0)


def test_until_returns_what_a_wait_never_found() -> None:
    assert interruption.until(threading.Event().wait, 0.0) is False


# --- signals

PROGRAM = """
import sys, time
from pathlib import Path
from harness.kernel.build import Kernel
from harness.lib import command, interruption
from harness.lib.interruption import Interruption

interruption.install()
folder = Path(sys.argv[1])
try:
    command.run(["sh", "-c", f"{sys.argv[2]} touch started; while :; do sleep 1; done"], cwd=folder)
except Interruption as end:
    print(end.reason, flush=True)
    interruption.close()
    sys.exit(130)
"""


class Program:
    """A program that waits for another one, a script that begins with ``first``."""

    def __init__(self, folder: Path, *prefix: str, first: str = "") -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", PROGRAM, str(folder), first],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        until((folder / "started").exists, "the program")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the output."""
        said, _ = self.process.communicate(timeout=PATIENCE)
        until(lambda: not processes_in(self.folder), "the program that it had started to end")
        return self.process.returncode, said


def processes_in(folder: Path) -> list[Path]:
    """Return the folders in /proc of the processes that work in ``folder``."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if place.readlink() == folder:
                found.append(place.parent)
    return found


@pytest.mark.parametrize("number", interruption.SIGNALS)
@pytest.mark.parametrize("prefix", [(), ("env", "--ignore-signal=INT", "--ignore-signal=QUIT")])
def test_signal_ends_a_background_job_as_well(
    tmp_path: Path, number: signal.Signals, prefix: tuple[str, ...]
) -> None:
    program = Program(tmp_path, *prefix)
    program.send(number)
    assert program.end() == (ExitCode.INTERRUPTED, f"{number.name}\n")


def test_hangup_does_not_end_a_program_below_nohup(tmp_path: Path) -> None:
    program = Program(tmp_path, "env", "--ignore-signal=HUP")
    program.send(signal.SIGHUP)
    program.send(signal.SIGTERM)
    assert program.end() == (ExitCode.INTERRUPTED, "SIGTERM\n")


def test_second_ctrl_c_ends_the_program_at_once(tmp_path: Path) -> None:
    # The clean-up takes five seconds, as the script does not end at SIGTERM.
    program = Program(tmp_path, first="trap '' TERM;")
    program.send(signal.SIGINT)
    time.sleep(interruption.SAME_CTRL_C + 0.5)
    program.send(signal.SIGINT)
    code, said = program.end()
    assert (code, "ended at once, by a second Ctrl-C" in said) == (ExitCode.INTERRUPTED, True)
    assert "SIGINT" not in said


def test_ctrl_c_that_tox_passes_on_is_one(tmp_path: Path) -> None:
    program = Program(tmp_path)
    for _ in range(3):
        program.send(signal.SIGINT)
        time.sleep(0.2)
    assert program.end() == (ExitCode.INTERRUPTED, "SIGINT\n")


# --- words


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("SIGINT", "was interrupted by Ctrl-C (SIGINT)"),
        ("SIGTERM", "was ended by SIGTERM (a CI system's cancel, or `kill`)"),
        ("SIGHUP", "was ended by SIGHUP (its terminal or connection was closed)"),
        ("pytest", "was interrupted (pytest)"),
        ("a\nb", "was interrupted (a b)"),
        ("", "was interrupted"),
    ],
)
def test_how_tells_the_reasons_apart(reason: str, told: str) -> None:
    assert how(reason) == told
