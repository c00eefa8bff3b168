"""Two runs on one host and one cache: both are right, and the one that waits says so."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_run import (
    CORE,
    PATIENCE,
    Invocation,
    assert_locks_free,
    cases_of,
    make_checkout,
    make_series,
    run,
    until,
)

from harness.kernel import module
from harness.kernel.build import kernel_in_cache, remove_from_cache
from harness.lib import locks
from harness.lib.cache import Store
from harness.lib.errors import ExitCode
from harness.lib.paths import PROJECT

SELECTION = "a_dmabuf_reaches_the_memory"  # no run of a small kernel comes to it
WAITS_TO_BUILD = "waiting for the build folders, held by "


class Held:
    """Checkouts whose build waits as long as ``hold`` exists, and a cache and marks of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.hold = self.cache / "ccache" / "hold"  # a folder that a contained build sees, too
        self.hold.parent.mkdir(parents=True)
        self.hold.touch()

    def checkout(self, name: str) -> Path:
        """Make a checkout of which each has another core.c."""
        return make_checkout(self.folder / name, hold=str(self.hold), **{CORE: f"int {name};\n"})

    def start(self, name: str, *arguments: str | Path) -> Invocation:
        """Start a command whose output is in a folder ``name`` of its own."""
        mark = self.folder / f"run-{name}"
        mark.mkdir()
        return Invocation(*arguments, mark=mark, cache=self.cache)

    def run(self, name: str, *arguments: str | Path) -> tuple[int, str]:
        """Run a command to its end; return its exit code and output."""
        with self.start(name, *arguments) as one:
            return one.end(), one.output

    def builds(self, first: Invocation) -> None:
        """Wait until a run compiles; it then waits for ``hold``."""

        def compiles() -> bool:
            assert first.process.poll() is None, first.output
            logs = [*self.cache.glob("logs/build/*.log"), *self.folder.glob("results/*/build.log")]
            return any("CC      drivers" in path.read_text() for path in logs)

        until(compiles, "the build", 60)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path)


def image_of(output: str) -> bytes:
    """Return the kernel image that a build has named."""
    found = re.search(r"^bzImage: (.*)$", output, re.MULTILINE)
    assert found, output
    return (Path(found[1]).parent / "vmlinux").read_bytes()


def test_second_build_of_another_tree_waits_with_a_word(held: Held) -> None:
    one, two = held.checkout("one"), held.checkout("two")
    with held.start("1", "build", "--tree", one) as first:
        held.builds(first)
        with held.start("2", "build", "--tree", two) as second:
            until(lambda: WAITS_TO_BUILD in second.output, "the word of the second build")
            assert f"the command build (process {first.process.pid}, since" in second.output
            held.hold.unlink()
            assert (first.end(), second.end()) == (0, 0)
            assert b"one" in image_of(first.output)
            assert b"two" in image_of(second.output)
            assert b"one" not in image_of(second.output)
            assert re.search(r"^waited \d+ s for the build folders$", second.output, re.MULTILINE)
    assert_locks_free(held.cache)


def test_second_build_of_the_same_tree_takes_the_first(held: Held) -> None:
    tree = held.checkout("one")
    with held.start("1", "build", "--tree", tree) as first:
        held.builds(first)
        with held.start("2", "build", "--tree", tree) as second:
            until(lambda: "waiting for the build of the same kernel, held by" in second.output, "the word")
            held.hold.unlink()
            assert (first.end(), second.end()) == (0, 0)
            assert image_of(first.output) == image_of(second.output)
    logs = (held.cache / "logs" / "build").glob("*.log")
    assert sum(path.read_text().count("CC      drivers") for path in logs) == 1
    assert_locks_free(held.cache)


def test_waiter_goes_on_when_its_holder_is_killed(held: Held) -> None:
    one, two = held.checkout("one"), held.checkout("two")
    with held.start("1", "build", "--tree", one) as first:
        held.builds(first)
        with held.start("2", "build", "--tree", two) as second:
            until(lambda: WAITS_TO_BUILD in second.output, "the word of the second build")
            first.process.send_signal(signal.SIGKILL)
            held.hold.unlink()
            assert second.end() == 0
            assert b"two" in image_of(second.output)
            assert not first.children()
    assert_locks_free(held.cache)


def test_clean_beside_a_build_deletes_nothing(held: Held) -> None:
    with held.start("1", "build", "--tree", held.checkout("one")) as first:
        held.builds(first)
        code, output = held.run("2", "clean")
        assert code == ExitCode.HARNESS
        assert f"another run uses the cache {held.cache}: process {first.process.pid}." in output
        held.hold.unlink()
        assert first.end() == 0
    assert held.run("3", "clean")[0] == 0
    assert not (held.cache / "kernel").exists()


def test_resume_of_a_run_that_goes_on_is_refused(held: Held) -> None:
    results = held.folder / "results"
    asked = ("run", "--tree", held.checkout("one"), "--results", results, "-k", SELECTION)
    with held.start("1", *asked) as first:
        held.builds(first)
        before = (results / "latest" / "events.jsonl").read_bytes()
        code, output = held.run("2", "run", "--resume", results / "latest")
        assert code == ExitCode.HARNESS
        assert "is still going on" in output
        assert (results / "latest" / "events.jsonl").read_bytes() == before
        first.process.send_signal(signal.SIGINT)
        assert first.end() == ExitCode.INTERRUPTED


def test_runs_of_one_second_have_results_of_their_own(tmp_path: Path) -> None:
    tree = make_checkout(tmp_path / "linux")
    series = make_series(tmp_path / "series", "int nowhere;", "int line_0;")
    results, cache = tmp_path / "results", tmp_path / "cache"
    asked = ("run", "--tree", tree, "--series", series, "--results", results, "-k", SELECTION)
    marks = [tmp_path / f"run-{number}" for number in range(3)]
    for mark in marks:
        mark.mkdir()
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda mark: run(*asked, mark=mark, cache=cache), marks))
    assert [code for code, _ in ended] == [ExitCode.SERIES] * 3
    folders = {path for path in results.iterdir() if not path.is_symlink()}
    assert len(folders) == 3
    assert (results / "latest").resolve() in folders
    assert {path.name.startswith(".") for path in results.iterdir()} == {False}
    for folder in folders:
        assert cases_of(folder / "junit.xml")["apply"].verdict == "violates"
        assert '"run-ended"' in (folder / "events.jsonl").read_text()


def test_second_prefixes_with_these_results_are_refused(held: Held) -> None:
    results = held.folder / "results"
    series = make_series(held.folder / "series", "int line_10;", "int other;")
    with locks.claim(results, ".prefixes.lock", "runs prefixes"):
        code, output = held.run("1", "prefixes", "--series", series, "--results", results)
    assert code == ExitCode.HARNESS
    assert f"Another run runs prefixes in {results}: " in output
    assert f"(process {os.getpid()}, since" in output


# --- packages, with programs in place of Debian's

FAKE_DPKG = """#!/bin/sh
[ -e "$0.installed" ] && echo patchproof-x installed
exit 0
"""
FAKE_APT = """#!/bin/sh
echo "$@" >>"$0.log"
if [ "$1" = update ] && [ -e "$0.locked" ]; then
    rm "$0.locked"
    echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt)"
    exit 100
fi
case "$*" in *install*) while [ -e "$0.hold" ]; do sleep 0.05; done; : >"${0%/*}/dpkg-query.installed" ;; esac
"""
ENSURE = """
import os, sys
from pathlib import Path
from harness.cli import packages
from harness.lib.cache import Store
from harness.lib.progress import Progress
os.geteuid = lambda: 0
store = Store(Path(sys.argv[1], "cache"))
packages.ensure(store, Progress(store), Path(sys.argv[1], "list"))
"""


def start_ensure(folder: Path, *said: Path) -> list[subprocess.Popen[bytes]]:
    """Start a process for each file of ``said`` that installs a package, with fake programs in ``folder``."""
    for name, content in (("dpkg-query", FAKE_DPKG), ("apt-get", FAKE_APT)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    (folder / "list").write_text("patchproof-x -\n")
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    argv = [sys.executable, "-c", ENSURE, str(folder)]
    runs = []
    for path in said:
        with path.open("w") as log:
            runs.append(subprocess.Popen(argv, stderr=log, env=env))
    return runs


def test_update_waits_for_another_program_of_apt(tmp_path: Path) -> None:
    (tmp_path / "apt-get.locked").touch()
    (one,) = start_ensure(tmp_path, tmp_path / "said")
    assert one.wait(PATIENCE) == 0
    assert "waiting for another program of apt: E: Could not get lock" in (tmp_path / "said").read_text()
    said = (tmp_path / "apt-get.log").read_text().splitlines()
    assert [line.split()[0] for line in said] == ["update", "update", "install"]


def test_packages_are_installed_by_one_of_two_runs(tmp_path: Path) -> None:
    hold = tmp_path / "apt-get.hold"
    hold.touch()
    said = [tmp_path / "said-1", tmp_path / "said-2"]
    runs = start_ensure(tmp_path, *said)
    word = "waiting for the installation of host packages, held by"
    until(lambda: word in "".join(path.read_text() for path in said), "the word of the second run")
    hold.unlink()
    assert [one.wait(PATIENCE) for one in runs] == [0, 0]
    assert (tmp_path / "apt-get.log").read_text().count("\ninstall ") == 1


# --- on the real kernel

#: Mutants of reference-feature, each with the only scenario of the two below that it must fail.
FAULTS = {
    "fault-forgets-the-offset-of-the-mapping": "test_the_boundaries_of_ranges_are_exact",
    "close-does-not-tell-importers": "test_an_import_ends_with_the_device_not_with_the_descriptor",
}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """A results folder.  The kernels of its runs are removed, so that the next test builds them again."""
    yield tmp_path / "results"
    store = Store()
    for path in (tmp_path / "results").glob("*Z*/run.json"):
        identity = str(json.loads(path.read_bytes()).get("kernel", ""))
        if (built := kernel_in_cache(store, identity)) is not None:
            module.remove_from_cache(store, built)
            remove_from_cache(store, built)


@pytest.mark.vm
@pytest.mark.build
def test_runs_of_two_mutants_at_once_are_both_right(tmp_path: Path, fresh: Path) -> None:
    """Each run has its own kernel and its own module, although both use one build folder."""
    chosen = " or ".join(FAULTS.values())
    asked = ("run", "--series", "reference-feature", "--no-base", "--selftests", "none", "-k", chosen)
    marks = [tmp_path / name for name in FAULTS]
    for mark in marks:
        mark.mkdir()
    with ThreadPoolExecutor() as pool:
        ended = list(
            pool.map(lambda mark: run(*asked, "--mutant", mark.name, "--results", fresh, mark=mark), marks)
        )
    assert [code for code, _ in ended] == [ExitCode.SERIES] * 2, "\n".join(output for _, output in ended)
    for name, failing in FAULTS.items():
        (folder,) = fresh.glob(f"reference-feature+{name}-*Z")
        cases = {one: case for one, case in cases_of(folder / "junit.xml").items() if one.startswith("test_")}
        violated = {one.partition("[")[0] for one, case in cases.items() if case.verdict == "violates"}
        assert violated == {failing}
        assert {case.verdict for case in cases.values()} <= {"violates", "conforms", "not-applicable"}
        facts = json.loads((folder / "run.json").read_bytes())
        built = kernel_in_cache(Store(), facts["kernel"])
        assert built is not None
        assert module.is_built(Store(), built)
