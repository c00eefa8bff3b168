"""Signals at random moments of whole runs: each run ends in order, and leaves nothing behind.

The ordinary tests send a few.  ``PATCHPROOF_SIGNALS=500`` sends as many to each kind of run, and
``PATCHPROOF_SIGNALS_SEED`` chooses other moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from real import guest_image
from small_run import (
    Built,
    Invocation,
    assert_locks_free,
    is_open,
    junit,
    make_checkout,
    make_series,
    until,
)

from harness.journal.reader import read
from harness.lib.cache import default_root
from harness.lib.errors import ExitCode
from harness.report.junit import RUN
from harness.verdict.interruption import how
from harness.verdict.verdict import Verdict

SELECTION = "a_dmabuf_reaches_the_memory"  # two scenarios, one for each kind of actor
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
IMAGES = 4  # fewer signals to the build of the image, which takes long
FEW = 4  # signals to each kind of run in the ordinary tests
RESUMED = 4  # of so many interrupted runs one is resumed
# timeout(1) sends SIGTERM twice, and tox passes Ctrl-C on.
WAYS: tuple[tuple[signal.Signals, ...], ...] = (
    (signal.SIGINT,),
    (signal.SIGTERM,),
    (signal.SIGHUP,),
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGINT, signal.SIGTERM),
)


@dataclass
class Loop:
    """Runs of one kind, each with a cache and a folder for temporary files of its own in ``folder``.

    ``prepare`` makes the cache before each run.  ``own_code`` is the exit code of a run that no signal ends.
    """

    folder: Path
    arguments: Sequence[str | Path]
    prepare: Callable[[Path], object]
    own_code: ExitCode
    chance: random.Random
    seconds: float = 0.0  # of a whole run
    found: Counter[str] = field(default_factory=Counter)  # where the signals came
    slowest: float = 0.0  # seconds from a signal to the end

    def run(self, count: int) -> None:
        """Send signals to ``count`` runs, after one that shows how long a run takes."""
        number, interrupted = 0, 0
        while number <= count:
            trial = self.folder / f"trial-{number}"
            trial.mkdir()
            self.prepare(trial / "cache")
            reason = self._try(trial, whole=number == 0)
            interrupted += bool(reason)
            if reason and interrupted % RESUMED == 0:
                self._resume(trial)
            number += 1
        places = ", ".join(f"{place} {times}" for place, times in self.found.most_common())
        print(f"{count} signals: {places}; the slowest end took {self.slowest:.1f} s")

    def _try(self, trial: Path, *, whole: bool) -> str:
        """Start a run, and send it signals unless it is to be ``whole``; return what interrupted it."""
        way = self.chance.choice(WAYS)
        results: list[str | Path] = ["--results", trial / "results"] if self.arguments[0] == "run" else []
        with invocation(trial, *self.arguments, *results) as started:
            handled = f"/proc/{started.process.pid}/status"
            until(lambda: started.process.poll() is not None or _catches(handled), "its handlers")
            begun = time.monotonic()
            if not whole:
                time.sleep(self.chance.uniform(0, self.seconds))
                sent = time.monotonic()
                for number in way:
                    started.process.send_signal(number)
                    time.sleep(self.chance.uniform(0, 0.05))
            code = started.end()
            if whole:
                self.seconds = time.monotonic() - begun
            else:
                self.slowest = max(self.slowest, time.monotonic() - sent)
            assert started.children() == {}
            output = started.output
        reason = self._check(trial, code, output)
        assert reason in ("", *(number.name for number in way))
        assert not (whole and reason)
        return reason

    def _check(self, trial: Path, code: int, output: str) -> str:
        """Check what a run has left; return what interrupted it."""
        results = trial / "results"
        reason, place = "", "after the end"
        if (results / "latest" / "plan.json").exists():
            record = read(results / "latest")
            assert not record.damage
            assert record.complete, output
            reason = record.interrupted
            if reason:
                place = next(
                    (
                        str(one.entry.kind if one.entry.id.startswith("suites/") else one.entry.id)
                        for one in record.results
                        if one.reason.startswith(f"The run {how(reason)} during")
                    ),
                    "between two entries",
                )
            cases = junit(results)
            assert cases[RUN].verdict == (Verdict.HARNESS_ERROR if reason else Verdict.CONFORMS)
            assert (results / "latest" / "report.html").exists()
            assert how(reason) in output if reason else "ended by SIG" not in output
        else:
            told = {name: (how(name), f"Interruption: {name}") for name in NAMES}
            reason = next((name for name in NAMES if any(words in output for words in told[name])), "")
            place = "before the plan"
        assert code == (ExitCode.INTERRUPTED if reason else self.own_code), output
        for log in results.rglob("output.txt"):
            assert "Traceback" not in log.read_text(errors="replace")
        self.found[place] += bool(reason)
        self.found["after the end"] += not reason
        assert list((trial / "tmp").iterdir()) == []
        cache = trial / "cache"
        hidden = [*cache.glob("*/.*"), *cache.glob(".*"), *results.rglob(".*")]
        assert [path for path in hidden if path.name != ".config"] == []
        assert_locks_free(cache)
        return reason

    def _resume(self, trial: Path) -> None:
        """Resume an interrupted run: nothing is left that was never reached."""
        if not (trial / "results" / "latest" / "plan.json").exists():
            return
        with invocation(trial, "run", "--resume", trial / "results" / "latest") as resumed:
            code = resumed.end()
        record = read(trial / "results" / "latest")
        assert record.complete
        assert record.interrupted == ""
        # The scenario in which it was interrupted keeps its verdict.
        assert code in (self.own_code, ExitCode.HARNESS), resumed.output
        if self.own_code is ExitCode.OK:
            assert [one for one in record.results if one.verdict is Verdict.NOT_REACHED] == []


@contextlib.contextmanager
def invocation(trial: Path, *arguments: str | Path) -> Iterator[Invocation]:
    """Start the program with a cache and a folder for temporary files of its own."""
    temporary = trial / "tmp"
    temporary.mkdir(exist_ok=True)
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(temporary)
    try:
        with Invocation(*arguments, mark=trial, cache=trial / "cache") as started:
            yield started
    finally:
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before


def _catches(status: str) -> bool:
    """Return whether a process has handlers for the signals, by its status in /proc."""
    with contextlib.suppress(OSError):
        for line in Path(status).read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & 1 << signal.SIGTERM - 1)
    return False


@pytest.fixture
def count() -> int:
    return int(os.environ.get("PATCHPROOF_SIGNALS", FEW))


@pytest.fixture
def chance() -> random.Random:
    return random.Random(int(os.environ.get("PATCHPROOF_SIGNALS_SEED", 1)))


def share(*kinds_and_cache: str | Path) -> None:
    """Make a cache, the last argument, that has these kinds of entries of the default one."""
    *kinds, cache = map(Path, kinds_and_cache)
    cache.mkdir()
    for kind in kinds:
        (cache / kind).symlink_to(default_root() / kind)


@pytest.mark.build
def test_run_ended_in_a_stage_leaves_nothing(tmp_path: Path, count: int, chance: random.Random) -> None:
    """A small kernel is fetched, patched, configured and compiled; its headers have no interface."""
    guest_image()
    checkout = make_checkout(tmp_path / "linux")
    series = make_series(tmp_path / "series", "int line_10;", "int line_0;")
    arguments: list[str | Path] = ["run", "--tree", checkout, "--series", series, "--no-base"]
    arguments += ["-k", SELECTION]
    Loop(tmp_path, arguments, partial(share, "image"), ExitCode.HARNESS, chance).run(count)


@pytest.mark.vm
def test_run_ended_on_a_machine_leaves_nothing(tmp_path: Path, count: int, chance: random.Random) -> None:
    """The probes are compiled, the kernel boots, and scenarios run."""
    guest_image()
    arguments = ["run", *Built(tmp_path).arguments, "-k", SELECTION]
    Loop(tmp_path, arguments, partial(share, "image", "accelerator"), ExitCode.OK, chance).run(count)


@pytest.mark.vm
def test_ended_build_of_the_image_leaves_nothing(tmp_path: Path, count: int, chance: random.Random) -> None:
    """Packages are fetched and installed, with /proc and others mounted for their scripts."""
    Loop(tmp_path, ["image"], partial(share), ExitCode.OK, chance).run(count // IMAGES)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


# --- a run in the background of a script, which has SIGINT and SIGQUIT ignored

BACKGROUND = ("env", "--ignore-signal=INT", "--ignore-signal=QUIT")
# Another instance of the program is started for each prefix, each mutant, and the base alone.
NESTED = """
import sys
from harness.lib import command, interruption
interruption.install()
try:
    command.run_harness([sys.executable, "-m", "harness", *sys.argv[1:]])
except interruption.Interruption as end:
    sys.exit(f"ended by {end.reason}")
"""


def held_build(folder: Path) -> list[str | Path]:
    """Return the arguments of a run whose build waits for ever."""
    checkout = make_checkout(folder / "linux", hold="")
    return ["run", "--tree", checkout, "--results", folder / "results", "-k", SELECTION]


@pytest.mark.build
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_background_run_ends_in_the_build(tmp_path: Path, number: signal.Signals) -> None:
    asked = held_build(tmp_path)
    with Invocation(*asked, mark=tmp_path, cache=tmp_path / "cache", under=BACKGROUND) as started:
        until(lambda: any("-e hold" in one for one in started.children().values()), "make")
        started.process.send_signal(number)
        assert started.end() == ExitCode.INTERRUPTED
        until(lambda: started.children() == {}, "make to end")
    assert read(tmp_path / "results" / "latest").interrupted == number.name


@pytest.mark.build
def test_background_run_ends_the_run_that_it_has_started(tmp_path: Path) -> None:
    asked = held_build(tmp_path)
    environment = {**os.environ, "PATCHPROOF_CACHE": str(tmp_path / "cache")}
    nested = [*BACKGROUND, sys.executable, "-c", NESTED, *map(str, asked)]
    outer = subprocess.Popen(nested, env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: is_open(tmp_path / "results", "build"), "the build")
    outer.send_signal(signal.SIGINT)
    _, said = outer.communicate()
    assert said.splitlines()[-1] == "ended by SIGINT"
    assert "Traceback" not in said
    record = read(tmp_path / "results" / "latest")
    assert (record.complete, record.interrupted) == (True, "SIGTERM")
    assert_locks_free(tmp_path / "cache")


@pytest.mark.vm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_background_run_ends_in_a_scenario(tmp_path: Path, number: signal.Signals) -> None:
    results = tmp_path / "results"
    asked: list[str | Path] = [
        "run",
        *Built(tmp_path).arguments,
        "-k",
        "a_dmabuf_reaches",
        "--results",
        results,
    ]
    with Invocation(*asked, mark=tmp_path, under=BACKGROUND) as started:
        until(lambda: is_open(results, "suites/"), "a scenario")
        started.process.send_signal(number)
        assert started.end() == ExitCode.INTERRUPTED
        until(lambda: started.children() == {}, "QEMU to end")
    assert read(results / "latest").interrupted == number.name
