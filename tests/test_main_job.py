"""The main job from end to end: bad input, interruptions, and verdicts on real kernels.

Without the marker ``vm`` the kernel is a small one that compiles in a moment and
does not boot; the runs end before the machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import (
    CORE,
    PROJECT,
    Built,
    Case,
    Invocation,
    assert_holds_no_lock,
    assert_locks_free,
    cases_of,
    events,
    facts,
    is_open,
    junit,
    leftovers,
    make_checkout,
    make_qemu,
    make_series,
    run,
    until,
)

from harness.journal.facts import Facts
from harness.journal.results_folder import newest_run
from harness.lib import cache
from harness.lib.errors import ExitCode
from harness.verdict.interruption import how

SELECTION = "a_dmabuf_reaches_the_memory"  # two scenarios, one for each kind of actor
CACHE_KINDS = ("base", "kernel", "image", "probe", "trees", "work")


def scenarios(cases: dict[str, Case]) -> dict[str, Case]:
    return {name: case for name, case in cases.items() if name.startswith("test_")}


def outcomes(cases: dict[str, Case]) -> dict[str, str]:
    return {name: case.outcome for name, case in cases.items() if not name.startswith("test_")}


def assert_not_reached(cases: dict[str, Case], *stages: str) -> None:
    rest = [cases[stage] for stage in stages] + list(scenarios(cases).values())
    assert {(case.outcome, case.verdict) for case in rest} == {("error", "not-reached")}


class SmallRun:
    """A checkout of a small kernel, a cache and a results folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "linux"
        self.cache = folder / "cache"
        self.results = folder / "results"
        self.report = folder / "reports" / "junit.xml"  # the copy of --junit

    def arguments(self, *more: str | Path) -> list[str | Path]:
        return ["run", "--tree", self.checkout, "--results", self.results, "-k", SELECTION, *more]

    def run(self, *more: str | Path) -> tuple[int, str]:
        return run(*self.arguments(*more), mark=self.folder, cache=self.cache)


@pytest.fixture
def small(tmp_path: Path) -> SmallRun:
    make_checkout(tmp_path / "linux")
    return SmallRun(tmp_path)


# --- the series' fault


def test_run_of_a_wrong_patch_names_file_and_hunk(small: SmallRun) -> None:
    series = make_series(small.folder / "series", "int nowhere;", "int line_0;")
    code, output = small.run("--series", series, "--junit", small.report)
    assert code == ExitCode.SERIES
    assert small.report.read_bytes() == (small.results / "latest" / "junit.xml").read_bytes()
    cases = junit(small.results)
    assert outcomes(cases) == {
        "fetch": "passed",
        "apply": "failure",
        **dict.fromkeys(("build", "interface", "image", "probes", "boot"), "error"),
        "run": "passed",
    }
    for part in ("0001-change.patch", CORE, "hunk 1 of 1 (line 7)"):
        assert part in cases["apply"].text
        assert part in " ".join(output.split())
    assert_not_reached(cases, "build", "interface", "image", "probes", "boot")
    assert (small.results / "latest" / "plan.json").is_file()
    told = [event["event"] for event in events(small.results)]
    assert (told[0], told[-1]) == ("run-started", "run-ended")
    assert_locks_free(small.cache)


def test_run_beside_a_folder_latest_goes_on(small: SmallRun) -> None:
    """A CI system has unpacked the artifacts of an earlier run, with a copy in place of the link."""
    (small.results / "latest").mkdir(parents=True)
    (small.results / "latest" / "plan.json").write_text("kept")
    series = make_series(small.folder / "series", "int nowhere;", "int line_0;")
    code, output = small.run("--series", series)
    assert code == ExitCode.SERIES, output
    assert f"{small.results / 'latest'} is no link, so it was left as it is" in output
    newest = newest_run(small.results)
    assert newest is not None
    assert str(newest) in output
    assert (newest / "junit.xml").is_file()
    assert "The series does not apply." in (newest / "report.html").read_text()
    assert [path.name for path in (small.results / "latest").iterdir()] == ["plan.json"]


def test_run_of_a_broken_patch_names_the_line(small: SmallRun) -> None:
    series = make_series(small.folder / "series", "int line_10;", "int line_10")
    code, output = small.run("--series", series)
    assert code == ExitCode.SERIES
    cases = junit(small.results)
    assert cases["build"].outcome == "failure"
    for said in (cases["build"].text, output):
        assert f"{CORE}:10:12: error: expected" in said
    assert_not_reached(cases, "interface", "image", "probes", "boot")
    assert not leftovers(small.cache, *CACHE_KINDS)
    assert_locks_free(small.cache)


# --- the machine's fault


def test_run_with_a_qemu_without_edu_is_refused(small: SmallRun) -> None:
    """The run is refused before it builds a kernel."""
    only_the_list = """case "$*" in *"-device help") $qemu "$@" | grep -v '"edu"' ;; *) $qemu "$@" ;; esac"""
    qemu = make_qemu(small.folder / "qemu", only_the_list)
    code, output = small.run("--qemu", qemu)
    assert code == ExitCode.HARNESS
    assert f"{qemu} (QEMU " in output
    assert "does not have the device edu." in output
    assert not small.results.exists()


def test_run_that_is_refused_leaves_no_old_report(small: SmallRun) -> None:
    small.report.parent.mkdir()
    small.report.write_text("of an earlier run")
    code, _ = small.run("--series", small.folder / "nothing", "--junit", small.report)
    assert code == ExitCode.HARNESS
    assert not small.report.exists()
    assert not small.results.exists()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")


WITHOUT_LOOKING = """
import sys
from harness.cli.main import main
from harness.run import run
run.require = lambda _needs: None
sys.exit(main(sys.argv[1:]))
"""


def run_on_a_small_disk(
    small: SmallRun, size: str, mounted: Path, *more: str | Path
) -> tuple[int, str, list[Path]]:
    """Run with a file system of ``size`` at ``mounted``; return code, output, and paths two levels below.

    The run does not look at the room beforehand, as if the disk had become full after that.
    """
    mounted.mkdir()
    command = [sys.executable, "-c", WITHOUT_LOOKING, *map(str, small.arguments(*more))]
    listing = small.folder / "listing"
    script = (
        f"mount -t tmpfs -o size={size} none {mounted} || exit 99\n{shlex.join(command)}\n"
        f"code=$?; find {mounted} -mindepth 2 -maxdepth 2 >{listing}; exit $code\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=PROJECT,
        env={**os.environ, "PATCHPROOF_CACHE": str(small.cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout, done.stdout
    assert "INTERNALERROR" not in done.stdout, done.stdout
    return done.returncode, done.stdout, [Path(line) for line in listing.read_text().splitlines()]


@needs_root
@pytest.mark.parametrize("size", ["4k", "8k", "12k", "16k", "20k"])
def test_run_without_space_for_results_is_an_error(small: SmallRun, size: str) -> None:
    """The run ends with a message wherever the journal breaks off."""
    series = make_series(small.folder / "series", "int nowhere;", "int line_0;")
    code, output, _ = run_on_a_small_disk(small, size, small.results, "--series", series)
    assert code == ExitCode.HARNESS, output
    assert str(small.results) in output
    assert "o space left" in output
    if size == "20k":  # enough for the journal, not for the reports: both errors are reported
        assert "0001-change.patch does not apply" in output


@needs_root
@pytest.mark.parametrize(("size", "stage"), [("32k", "fetch"), ("400k", "build"), ("2500k", "build")])
def test_run_without_space_for_the_cache_is_an_error(tmp_path: Path, size: str, stage: str) -> None:
    small = SmallRun(tmp_path)
    make_checkout(small.checkout, ballast="b" * 1_000_000)
    code, output, left = run_on_a_small_disk(small, size, small.cache)
    assert code == ExitCode.HARNESS, output
    said = junit(small.results)[stage]
    assert said.verdict == "harness-error", output
    assert "space left" in said.text
    assert str(small.cache) in (small.results / "latest" / "events.jsonl").read_text()
    assert str(small.cache) not in said.text  # no path of the host is in the report for a CI system
    assert [path for path in left if path.name.startswith(".")] == []
    assert not [path for path in left if path.parent.name == "kernel"]


# --- ended from outside, without a machine


@pytest.fixture
def building(tmp_path: Path) -> Iterator[Invocation]:
    """A run in the middle of its build; the build waits for ever."""
    small = SmallRun(tmp_path)
    (tmp_path / "held").touch()
    make_checkout(small.checkout, hold=str(tmp_path / "held"))
    small.report.parent.mkdir()
    small.report.write_text("of an earlier run")
    # In a sandbox the build does not see the file that it waits for.
    asked = small.arguments("--junit", small.report, "--sandbox=off")
    with Invocation(*asked, mark=tmp_path, cache=small.cache) as invocation:
        until(lambda: is_open(small.results, "build"), "the stage build")
        until(lambda: any("-e hold" in command for command in invocation.children().values()), "make")
        yield invocation


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_interrupted_in_the_build_ends_in_order(building: Invocation, number: signal.Signals) -> None:
    assert any("make" in command for command in building.children().values())
    building.process.send_signal(number)
    assert_interrupted_in_the_build(building, number)


def test_run_interrupted_repeatedly_ends_in_order(building: Invocation) -> None:
    """timeout(1) sends SIGTERM to its child and to the group, so it comes twice at least."""
    while building.process.poll() is None:
        building.process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert_interrupted_in_the_build(building, signal.SIGTERM)


def test_run_whose_report_cannot_be_copied_says_so(building: Invocation) -> None:
    small = SmallRun(building.mark)
    shutil.rmtree(small.report.parent)
    small.report.parent.write_text("in the way")
    building.process.send_signal(signal.SIGINT)
    assert building.end() == ExitCode.HARNESS
    assert f"{small.report} could not be written" in building.output
    assert cases_of(small.results / "latest" / "junit.xml")["build"].verdict == "harness-error"
    assert [event["event"] for event in events(small.results)][-2:] == ["interrupted", "run-ended"]


def assert_interrupted_in_the_build(building: Invocation, number: signal.Signals) -> None:
    """Require that the run ended in order, and that its record says so."""
    small = SmallRun(building.mark)
    assert building.end() == ExitCode.INTERRUPTED
    assert building.children() == {}
    cases = junit(small.results)
    assert cases["build"].verdict == "harness-error"
    assert f"The run {how(number.name)} during this stage." in cases["build"].text
    assert f"The run {how(number.name)}." in cases["run"].text
    assert f"The run {how(number.name)} during this stage." in building.output
    assert f"!!! Interruption: {number.name} !!!" in building.output
    (event,) = [one for one in events(small.results) if one["event"] == "interrupted"]
    assert event["reason"] == number.name
    assert_not_reached(cases, "interface", "image", "probes", "boot")
    assert small.report.read_bytes() == (small.results / "latest" / "junit.xml").read_bytes()
    assert [path.name for path in small.report.parent.iterdir()] == ["junit.xml"]
    assert [event["event"] for event in events(small.results)][-2:] == ["interrupted", "run-ended"]
    assert not leftovers(small.cache, *CACHE_KINDS)
    assert not list((small.cache / "kernel").iterdir())
    assert_locks_free(small.cache)


def test_run_killed_in_the_build_is_judged_later(building: Invocation) -> None:
    small = SmallRun(building.mark)
    building.process.kill()
    assert building.end() == -signal.SIGKILL
    until(lambda: not building.children(), "the end of make")
    assert_locks_free(small.cache)
    left = {name: case.outcome for name, case in cases_of(small.report).items()}
    assert left.pop("run") == "error"
    assert set(left.values()) == {"error"}
    asked = (small.results / "latest", "--junit", small.report)
    code, output = run("judge", *asked, mark=small.folder)
    assert cases_of(small.report)["build"].outcome == "error"
    assert code == ExitCode.HARNESS
    assert "build: harness-error\n  The harness ended during this stage.\n" in output
    cases = junit(small.results)
    assert cases["build"].verdict == "harness-error"
    assert "The run did not come to its own end" in cases["run"].text
    assert_not_reached(cases, "interface", "image", "probes", "boot")
    # The next build succeeds and removes the leftovers.
    (small.folder / "held").unlink()
    code, output = run("build", "--tree", small.checkout, mark=small.folder, cache=small.cache)
    assert code == ExitCode.OK, output
    assert not leftovers(small.cache, *CACHE_KINDS)


# --- on a real machine


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("build"))


def on_a_machine(built: Built, folder: Path, *more: str | Path) -> list[str | Path]:
    return ["run", *built.arguments, "--results", folder / "results", *more]


def qemu_adding(path: Path, argument: str) -> Path:
    """Write a QEMU wrapper that gives the kernel one more argument."""
    return make_qemu(
        path,
        'for word; do shift; case $before in -append) word="$word ' + argument + '" ;; esac\n'
        'set -- "$@" "$word"; before=$word; done\nexec $qemu "$@"',
    )


@pytest.mark.vm
def test_run_with_a_panic_at_boot_blames_the_series(built: Built, tmp_path: Path) -> None:
    qemu = qemu_adding(tmp_path / "qemu", "rdinit=/nonexistent")
    code, output = run(*on_a_machine(built, tmp_path, "-k", SELECTION, "--qemu", qemu), mark=tmp_path)
    assert code == ExitCode.SERIES, output
    cases = junit(tmp_path / "results")
    passed = dict.fromkeys(("interface", "image", "probes", "run"), "passed")
    assert outcomes(cases) == {**passed, "boot": "failure"}
    for said in (cases["boot"].text, output):
        assert "Kernel panic - not syncing: VFS: Unable to mount root fs" in said
    assert_not_reached(cases)


@pytest.mark.vm
def test_run_without_vfio_names_the_missing_option(built: Built, tmp_path: Path) -> None:
    qemu = qemu_adding(tmp_path / "qemu", "initcall_blacklist=vfio_pci_init")
    code, output = run(*on_a_machine(built, tmp_path, "-k", SELECTION, "--qemu", qemu), mark=tmp_path)
    assert code == ExitCode.SERIES, output
    cases = junit(tmp_path / "results")
    assert cases["boot"].outcome == "failure"
    for said in (cases["boot"].text, output):
        assert "it has no vfio-pci driver" in said
        assert "CONFIG_VFIO_PCI=y" in said
    assert_not_reached(cases)


@pytest.mark.vm
def test_run_with_a_quiet_console_is_a_harness_error(built: Built, tmp_path: Path) -> None:
    """A console that never shows a warning proves nothing, so there are no verdicts."""
    qemu = qemu_adding(tmp_path / "qemu", "quiet")
    code, output = run(*on_a_machine(built, tmp_path, "-k", SELECTION, "--qemu", qemu), mark=tmp_path)
    assert code == ExitCode.HARNESS, output
    cases = junit(tmp_path / "results")
    assert (cases["boot"].outcome, cases["boot"].verdict) == ("error", "harness-error")
    for said in (cases["boot"].text, output):
        assert "console: a WARN was provoked and is not on it" in said
    assert_not_reached(cases)


@pytest.mark.vm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_interrupted_in_the_boot_ends_in_order(
    built: Built, tmp_path: Path, number: signal.Signals
) -> None:
    # -S: the processors wait for the monitor command `cont`, which is never sent.
    qemu = make_qemu(tmp_path / "qemu", 'case "$1" in -accel) set -- -S "$@" ;; esac\nexec $qemu "$@"')
    arguments = on_a_machine(built, tmp_path, "-k", SELECTION, "--qemu", qemu)
    results = tmp_path / "results"
    with Invocation(*arguments, mark=tmp_path) as invocation:
        until(lambda: is_open(results, "boot") and invocation.children(), "the stage boot")
        until(lambda: (results / "latest" / "machine-1" / "console.log").exists(), "QEMU")
        invocation.process.send_signal(number)
        assert invocation.end() == ExitCode.INTERRUPTED
        assert invocation.children() == {}
    cases = junit(results)
    assert cases["boot"].verdict == "harness-error"
    assert f"The run {how(number.name)} during this stage." in cases["boot"].text
    assert_not_reached(cases)
    assert_holds_no_lock(invocation, cache.default_root())


@pytest.fixture
def stopped(built: Built, tmp_path: Path) -> Iterator[Invocation]:
    """A run in the middle of a scenario; QEMU is stopped, so the scenario does not end."""
    results = tmp_path / "results"
    with Invocation(*on_a_machine(built, tmp_path, "-k", "a_dmabuf_reaches"), mark=tmp_path) as invocation:
        until(lambda: is_open(results, "suites/"), "a scenario")
        for number in invocation.children():
            os.kill(number, signal.SIGSTOP)
        yield invocation


@pytest.mark.vm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_interrupted_in_a_scenario_ends_in_order(stopped: Invocation, number: signal.Signals) -> None:
    results = stopped.mark / "results"
    stopped.process.send_signal(number)
    assert stopped.end() == ExitCode.INTERRUPTED
    assert stopped.children() == {}
    told = [event["event"] for event in events(results)]
    assert told[-3:] == ["interrupted", "machine-ended", "run-ended"]
    cases = junit(results)
    assert {name for name, outcome in outcomes(cases).items() if outcome != "passed"} == {"run"}
    assert f"The run {how(number.name)}." in cases["run"].text
    verdicts = [case.verdict for case in scenarios(cases).values()]
    assert verdicts.count("harness-error") == 1
    assert verdicts.count("not-reached") > 1
    assert_holds_no_lock(stopped, cache.default_root())


@pytest.mark.vm
def test_run_killed_in_a_scenario_is_judged_later(stopped: Invocation, built: Built) -> None:
    results = stopped.mark / "results"
    stopped.process.kill()
    assert stopped.end() == -signal.SIGKILL
    until(lambda: not stopped.children(), "QEMU to die with its parent")
    code, output = run("judge", results / "latest", mark=stopped.mark)
    assert code == ExitCode.HARNESS
    assert "The run did not come to its own end" in output
    cases = junit(results)
    verdicts = [case.verdict for case in scenarios(cases).values()]
    assert verdicts.count("kernel-died") == 1
    assert verdicts.count("not-reached") > 1
    assert_holds_no_lock(stopped, cache.default_root())
    code, output = run(*on_a_machine(built, stopped.mark, "-k", SELECTION), mark=stopped.mark)
    assert code == ExitCode.OK, output


@pytest.mark.vm
def test_run_with_an_unwritable_journal_ends(stopped: Invocation) -> None:
    """No scenario starts after one whose verdict could not be recorded."""
    journal = stopped.mark / "results" / "latest" / "events.jsonl"
    journal.rename(journal.with_name("events-so-far.jsonl"))
    journal.mkdir()
    for number in stopped.children():
        os.kill(number, signal.SIGCONT)
    assert stopped.end() == ExitCode.HARNESS
    assert stopped.children() == {}
    assert f"could not be written to {journal.resolve()}" in stopped.output


def log_in(output: str) -> str:
    """Ask for the kernel's release with the SSH line in ``output``."""
    (line,) = [text for text in output.splitlines() if text.startswith("  ssh: ")]
    command = [*shlex.split(line.removeprefix("  ssh: ")), "uname", "-r"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh client on this host")


@pytest.mark.vm
@needs_ssh
def test_run_with_keep_vm_ends_with_ctrl_c(built: Built, tmp_path: Path) -> None:
    """The verdicts are made before Ctrl-C ends the machine, so the run is not interrupted."""
    arguments = on_a_machine(built, tmp_path, "-k", SELECTION, "--keep-vm")
    with Invocation(*arguments, mark=tmp_path) as invocation:
        until(lambda: "Ctrl-C ends the machine" in invocation.output, "the SSH line")
        assert log_in(invocation.output) == facts(tmp_path / "results")["kernel_release"]
        invocation.process.send_signal(signal.SIGINT)
        assert invocation.end() == ExitCode.OK
        assert invocation.children() == {}


@pytest.mark.vm
@needs_ssh
def test_boot_prints_ssh_and_gdb_and_waits(built: Built, tmp_path: Path) -> None:
    """`boot` prints an SSH line and a gdb line, and runs the machine until Ctrl-C."""
    with Invocation("boot", *built.arguments, mark=tmp_path) as invocation:
        until(lambda: "Ctrl-C ends the machine" in invocation.output, "the SSH line")
        assert log_in(invocation.output)
        assert "  gdb: " in invocation.output
        invocation.process.send_signal(signal.SIGINT)
        assert invocation.end() == ExitCode.OK
        assert invocation.children() == {}


# The facts of a series that was posted.
OF_MAILS = {"message_id", "revision", "base_commit", "change_id", "manifest", "previous"} | {
    "prerequisites",
    "prerequisite_messages",
}


@pytest.mark.vm
def test_run_of_the_default_series_conforms(tmp_path: Path) -> None:
    results = tmp_path / "results"
    code, output = run("run", "--results", results, "-k", "a_dmabuf_reaches", mark=tmp_path)
    assert code == ExitCode.OK, output
    cases = junit(results)
    assert {case.outcome for case in cases.values()} == {"passed"}
    assert len(scenarios(cases)) >= 4
    assert all(case.properties["requirements"] for case in scenarios(cases).values())
    told = facts(results)
    assert told.keys() == Facts.__annotations__.keys() - OF_MAILS - {"checkout", "shards"}
    assert (
        told["qemu"]
        in subprocess.run(
            ["qemu-system-x86_64", "-version"], capture_output=True, text=True, check=True
        ).stdout
    )
    for name in ("plan.json", "events.jsonl", "junit.xml", ".config", "machine-1/console.log"):
        assert (results / "latest" / name).stat().st_size
    assert list((results / "latest" / "transcripts").iterdir())
    last = output.strip().splitlines()
    assert any(told["kernel_release"] in line and told["identity"][:12] in line for line in last[-15:])


@pytest.mark.vm
def test_run_of_the_base_violates(tmp_path: Path) -> None:
    """The control of the suites: on the base they must find violations."""
    results = tmp_path / "results"
    selection = "dmabuf_reaches_the_registers or without_the_series_mmap"
    code, output = run("run", "--series", "baseline", "--results", results, "-k", selection, mark=tmp_path)
    assert code == ExitCode.OK, output
    cases = scenarios(junit(results))
    by_requirement = {
        wanted: [case for case in cases.values() if case.properties["requirements"] == wanted]
        for wanted in ("MAP-01", "MAP-02")
    }
    assert {case.verdict for case in by_requirement["MAP-02"]} == {"conforms"}
    assert {(case.verdict, case.outcome) for case in by_requirement["MAP-01"]} == {("violates", "failure")}
    assert all("EINVAL" in case.text for case in by_requirement["MAP-01"])
