"""Runs of a small kernel, without a machine, that are cut off and resumed, repeated and shuffled."""

from __future__ import annotations

import copy
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from small_run import (
    Invocation,
    assert_locks_free,
    events,
    facts,
    is_open,
    junit,
    leftovers,
    make_checkout,
    make_series,
    run,
    until,
)

from harness.lib.errors import ExitCode

SUITE = "suites/test_map.py"
SELECTION = "a_dmabuf_reaches_the_memory"


class SmallRun:
    """A checkout of a small kernel, a cache and a results folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = make_checkout(folder / "linux", hold=str(folder / "held"))
        self.cache = folder / "cache"
        self.results = folder / "results"
        self.latest = self.results / "latest"
        self.cache.mkdir()
        (self.cache / "image").touch()  # a file where a folder belongs: no run gets past the stage

    def arguments(self, *more: str | Path) -> list[str | Path]:
        return ["run", SUITE, "--tree", self.checkout, "--results", self.results, "-k", SELECTION, *more]

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        return run(*arguments, mark=self.folder, cache=self.cache)

    def resume(self, *more: str | Path) -> tuple[int, str]:
        return self.run("run", "--resume", self.latest, *more)

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.latest.iterdir() if path.is_file()}

    def cut_off(self, number: signal.Signals) -> None:
        """Start a run and end it with the signal ``number`` in the middle of the build."""
        (self.folder / "held").touch()
        # In a sandbox the build does not see the file that it waits for.
        with Invocation(*self.arguments("--sandbox=off"), mark=self.folder, cache=self.cache) as invocation:
            until(lambda: is_open(self.results, "build"), "the stage build")
            invocation.process.send_signal(number)
            invocation.end()
        (self.folder / "held").unlink()


@pytest.fixture
def small(tmp_path: Path) -> SmallRun:
    return SmallRun(tmp_path)


@pytest.fixture(scope="session")
def cut_off_once(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    small = SmallRun(tmp_path_factory.mktemp("small"))
    small.cut_off(signal.SIGKILL)
    return small


@pytest.fixture
def cut_off(cut_off_once: SmallRun, tmp_path: Path) -> SmallRun:
    """A run that was killed in the middle of the build; its folder is the test's own."""
    small = copy.copy(cut_off_once)
    small.folder, small.results = tmp_path, tmp_path / "results"
    small.latest = small.results / "latest"
    shutil.copytree(cut_off_once.results, small.results, symlinks=True)
    return small


@pytest.mark.build
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_resume_begins_a_cut_off_stage_again(small: SmallRun, number: signal.Signals) -> None:
    small.cut_off(number)
    first = small.latest.resolve()
    code, output = small.resume()
    assert small.latest.resolve() == first
    assert code == ExitCode.HARNESS
    assert "This host refused something that the run needs" in output
    # A stage that failed begins again with each resume.
    code, output = small.resume()
    assert code == ExitCode.HARNESS
    cases = junit(small.results)
    assert {
        name: cases[name].verdict for name in ("fetch", "apply", "build", "interface", "image", "probes")
    } == {
        **dict.fromkeys(("fetch", "apply", "build", "interface"), "conforms"),
        "image": "harness-error",
        "probes": "not-reached",
    }, output
    assert [event["event"] for event in events(small.results)].count("run-started") == 3
    begun = [event["id"] for event in events(small.results) if event["event"] == "started"]
    assert begun == ["fetch", "apply", "build", "build", "interface", "image", "image"]
    assert len(facts(small.results)["resumed"]) == 2
    assert not leftovers(small.cache, "kernel", "work")
    assert_locks_free(small.cache)


@pytest.mark.build
def test_resume_of_a_failed_series_changes_nothing(small: SmallRun) -> None:
    series = make_series(small.folder / "series", "int nowhere;", "int line_0;")
    code, output = small.run(*small.arguments("--series", series))
    assert code == ExitCode.SERIES, output
    before = small.contents()
    code, output = small.resume()
    assert code == ExitCode.SERIES
    assert "no scenarios are left to run" in output
    assert "0001-change.patch" in output  # from the stored report
    assert small.contents() == before


@pytest.mark.build
def test_resume_with_a_changed_checkout_is_refused(cut_off: SmallRun) -> None:
    """The refusal comes before the new tree is built, and changes nothing in the folder."""
    changed = cut_off.checkout / "core.txt"
    before = cut_off.contents()
    changed.write_text("changed")
    try:
        code, output = cut_off.resume()
    finally:
        changed.unlink()  # the checkout is not the test's own
    assert code == ExitCode.HARNESS
    assert "cannot be resumed, because the git tree of the kernel is " in output
    assert "Start a new run." in output
    assert {name: text for name, text in cut_off.contents().items() if name != "apply.log"} == {
        name: text for name, text in before.items() if name != "apply.log"
    }
    assert "scenarios:" not in output  # the stored report is that of another kernel


def another_series(small: SmallRun) -> list[str | Path]:
    return ["--series", make_series(small.folder / "series", "int line_10;", "int other;")]


@pytest.mark.build
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["-k", "einval"],
            "because of entries that no longer exist or are not selected: suites/test_map.py::",
        ),
        (["-k", f"{SELECTION} or einval"], "because of entries that are not in its plan: suites/test_"),
        (["--repeat", "2"], "[python] #2. It was started with `suites/test_map.py --tree "),
        (another_series, "because the name of the series is series now, and was linux then"),
    ],
)
def test_resume_with_another_plan_is_refused(cut_off: SmallRun, given: Any, said: str) -> None:
    before = cut_off.contents()
    code, output = cut_off.resume(*(given if isinstance(given, list) else given(cut_off)))
    assert code == ExitCode.HARNESS
    assert said in output
    assert cut_off.contents() == before


@pytest.mark.build
def test_resume_without_a_planned_scenario_is_refused(cut_off: SmallRun) -> None:
    path = cut_off.latest / "plan.json"
    path.write_text(path.read_text().replace("reaches_the_memory[c]", "reached_the_memory[c]"))
    code, output = cut_off.resume()
    assert code == ExitCode.HARNESS
    assert "no longer exist or are not selected: suites/test_map.py::test_a_dmabuf_reached_the_mem" in output


@pytest.mark.build
def test_resume_with_another_expectation_is_refused(cut_off: SmallRun) -> None:
    path = cut_off.latest / "plan.json"
    plan = json.loads(path.read_text())
    plan["entries"][-1]["expected"] = "violates"
    path.write_text(json.dumps(plan))
    code, output = cut_off.resume()
    assert code == ExitCode.HARNESS
    assert f"describes or expects otherwise: {plan['entries'][-1]['id']}" in output


@pytest.mark.build
def test_resume_with_the_same_options_goes_on(cut_off: SmallRun) -> None:
    _, output = cut_off.run(*cut_off.arguments("--resume", cut_off.latest))
    assert junit(cut_off.results)["build"].verdict == "conforms", output


def test_resume_of_a_running_run_is_refused(small: SmallRun) -> None:
    (small.folder / "held").touch()
    with Invocation(*small.arguments("--sandbox=off"), mark=small.folder, cache=small.cache) as invocation:
        until(lambda: is_open(small.results, "build"), "the stage build")
        second = small.folder / "second"
        second.mkdir()
        code, output = run("run", "--resume", small.latest, mark=second, cache=small.cache)
        invocation.process.send_signal(signal.SIGINT)
        invocation.end()
    assert code == ExitCode.HARNESS
    assert "is still going on" in output


def test_resume_of_no_run_is_refused(tmp_path: Path) -> None:
    code, output = run("run", "--resume", tmp_path, mark=tmp_path)
    assert code == ExitCode.HARNESS
    assert "is not the results folder of a run" in output


def test_resume_of_a_contradictory_journal_is_refused(cut_off: SmallRun) -> None:
    events_file = cut_off.latest / "events.jsonl"
    events_file.write_text(events_file.read_text() + '{"event": "vanished"}\n')
    code, output = cut_off.resume()
    assert code == ExitCode.HARNESS
    assert "its journal contradicts itself" in output


def test_resume_of_a_moved_folder_goes_on(cut_off: SmallRun) -> None:
    moved = cut_off.folder / "elsewhere"
    shutil.move(cut_off.latest.resolve(), moved)
    (moved / ".run.json.abcdef").write_text("{")  # left by a run that was killed while it replaced run.json
    _, output = cut_off.run("run", "--resume", moved)
    assert "This host refused something" in output
    assert not list(moved.glob(".run*"))
    assert '"resumed": true' in (moved / "events.jsonl").read_text()


def collected(tmp_path: Path, *arguments: str) -> list[str]:
    selection = ("--collect-only", "-q", SUITE, "-k", "reaches or einval")
    code, output = run("run", *selection, *arguments, mark=tmp_path)
    assert code == ExitCode.OK, output
    return [line for line in output.splitlines() if line.startswith("suites/")]


def test_repeat_and_random_order_arrange_the_selection(tmp_path: Path) -> None:
    """Repetitions have the order of the suites, or orders that depend on the seed of --random-order alone."""
    plain = collected(tmp_path, "--repeat", "3")
    once = plain[: len(plain) // 3]
    assert len(once) > 3
    assert plain == [*once, *(f"{name} #2" for name in once), *(f"{name} #3" for name in once)]
    order = collected(tmp_path, "--repeat", "3", "--random-order", "7")
    rounds = [order[n : n + len(once)] for n in range(0, len(order), len(once))]
    names = [[name.partition(" #")[0] for name in each] for each in rounds]
    assert all(sorted(each) == sorted(once) for each in names)
    assert len({tuple(each) for each in [once, *names]}) == 4
    assert collected(tmp_path, "--random-order", "7") == rounds[0]
