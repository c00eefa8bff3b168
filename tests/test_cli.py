"""The command line: refusals, dry runs, single stages, and what `clean` deletes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_run import make_checkout, run

from harness.cli import commands, main, parser, prefixes
from harness.cli.prefixes import PrefixResult
from harness.journal.writer import JournalWriter
from harness.kernel.base import Base
from harness.lib.cache import CACHE_VARIABLE, Store
from harness.lib.errors import ExitCode
from harness.lib.paths import PATCHES, PROJECT
from harness.run.request import Request
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Verdict
from harness.vm.hardware import MIB

REPORTS = Path(__file__).parent / "data" / "reports"
COMMANDS = (
    "run",
    "doctor",
    "fetch",
    "apply",
    "build",
    "check",
    "prefixes",
    "mutants",
    "image",
    "boot",
    "judge",
    "report",
    "compare",
    "matrix",
    "clean",
)


pytestmark = pytest.mark.usefixtures("main_undone")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PATCHPROOF_CACHE", str(folder))
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_text("not a kernel\n")
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run ``main``, which must fail with exit code 2; return its message."""
    assert main.main([str(argument) for argument in arguments]) == ExitCode.HARNESS
    said = capsys.readouterr().err.strip()
    assert said.startswith("patchproof: ")
    return said


# --- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    (example,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("example:")]
    words = shlex.split(example.removeprefix("example:"))
    assert words[:4] == ["python", "-m", "harness", command]


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for command in COMMANDS:
        assert f" {command} " in said
    for code in ExitCode:
        assert f"{int(code)} " in said.partition("Exit codes:")[2]


@pytest.mark.parametrize("arguments", [[], ["nosuch"], ["build", "--nosuch"], ["clean", "nosuch"]])
def test_wrong_word_is_answered_with_the_usage(
    capsys: pytest.CaptureFixture[str], cache: Path, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert ended.value.code == ExitCode.HARNESS
    assert "usage: python -m harness" in capsys.readouterr().err


# --- what cannot be


@pytest.mark.parametrize("command", ["run", "apply", "build", "boot"])
def test_unknown_series_is_refused_with_a_suggestion(
    capsys: pytest.CaptureFixture[str], cache: Path, command: str
) -> None:
    said = refused(capsys, command, "--series", "refrence-feature")
    assert "There is no series 'refrence-feature'" in said
    assert "Did you mean reference-feature?" in said


@pytest.mark.parametrize("command", ["run", "apply", "build", "boot"])
def test_empty_series_folder_is_refused(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path, command: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    said = refused(capsys, command, "--series", empty)
    assert f"The folder {empty} holds no patches." in said


@pytest.mark.parametrize("first", ["0", "15"])
def test_prefixes_from_outside_the_series_are_refused(
    capsys: pytest.CaptureFixture[str], cache: Path, first: str
) -> None:
    said = refused(capsys, "prefixes", "--series", "reference-feature", "--from", first)
    assert f"--from counts patches, 1 to 14; it is {first}." in said


def test_prefixes_of_one_kernel_are_refused(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    given = ("--series", "reference-feature", "--kernel", "bzImage", "--headers", "include")
    said = refused(capsys, "prefixes", *given)
    assert "is the same for each prefix: leave --kernel out" in said


def test_check_without_patches_is_refused(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert "there are none: name a series with patches" in refused(capsys, "check", "--series", "baseline")


def test_series_with_too_long_a_name_is_unknown(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert "disk" not in refused(capsys, "apply", "--series", "x" * 300)


def test_prefixes_of_a_mutant_are_refused(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    name = "a-revoked-dmabuf-hides-those-behind-it"
    said = refused(capsys, "prefixes", "--series", "reference-feature", "--mutant", name)
    assert "has no prefixes" in said


@pytest.mark.parametrize("command", ["run", "prefixes"])
def test_option_before_the_command_is_refused(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["-v", command, "--series", "baseline"])
    assert ended.value.code == ExitCode.HARNESS
    assert "unrecognized arguments: -v" in capsys.readouterr().err


def test_run_collects_from_any_folder(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "harness", "run", "--collect-only", "-q", "--requirement", "MAP-03"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.OK, done.stdout
    assert "suites/test_map.py::" in done.stdout


@pytest.mark.parametrize("word", [["--from", "2"], ["--from=2"]])
def test_prefixes_do_not_pass_from_to_their_runs(
    cache: Path, monkeypatch: pytest.MonkeyPatch, word: list[str]
) -> None:
    seen: list[tuple[Any, ...]] = []
    rows = [PrefixResult(count, f"patch {count}") for count in (1, 2, 3)]
    found = Base("6.19.6", "6.19", "a test", "0" * 40, Path("nowhere"))
    monkeypatch.setattr(commands, "fetch_base", lambda *_: found)
    monkeypatch.setattr(prefixes, "check", lambda *given: rows[given[-1] - 1 :])
    monkeypatch.setattr(prefixes, "run", lambda *given: seen.append(given))
    assert main.main(["prefixes", "-k", "map", *word, "--series", "reference-feature", "-x"]) == ExitCode.OK
    (((first, *_), request, options),) = seen
    assert (first.count, request) == (2, Request(series="reference-feature", variants="one"))
    assert options == ["-k", "map", "-x"]


@pytest.mark.parametrize("command", ["apply", "build", "check", "fetch", "prefixes", "run", "boot"])
def test_base_beside_a_tree_is_refused(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path, command: str
) -> None:
    said = refused(capsys, command, "--base", "7.2", "--tree", tmp_path)
    assert "leave --base out" in said or "leave one of them out" in said


def test_base_may_be_the_name_of_a_tag() -> None:
    assert parser.parse(["apply", "--series", "baseline", "--base", "v7.2"]).base == "7.2"


@pytest.mark.parametrize("base", ["7.0", "7.3-rc4", "7.2.6"])
def test_base_that_is_not_pinned_is_refused(
    capsys: pytest.CaptureFixture[str], cache: Path, base: str
) -> None:
    said = refused(capsys, "apply", "--series", "baseline", "--base", base)
    assert f"The base '{base}' is not known here. Choose one of 6.19, 7.1, 7.2, 7.3" in said


@pytest.mark.parametrize("command", ["run", "boot"])
def test_kernel_without_headers_is_refused(
    capsys: pytest.CaptureFixture[str], cache: Path, text_file: Path, command: str
) -> None:
    assert "--kernel and --headers belong together" in refused(capsys, command, "--kernel", text_file)


@pytest.mark.parametrize("command", ["run", "boot"])
def test_kernel_that_is_no_bzimage_is_refused(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path, text_file: Path, command: str
) -> None:
    results: list[str | Path] = ["--results", tmp_path / "results"] if command == "run" else []
    said = refused(capsys, command, "--kernel", text_file, "--headers", tmp_path, *results)
    assert f"The file {text_file} is not an x86 bzImage" in said
    assert not (tmp_path / "results").exists()


def test_tree_that_is_no_kernel_is_refused(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    assert f"{tmp_path} is not a kernel source" in refused(capsys, "fetch", "--tree", tmp_path)


def test_cache_that_is_a_file_is_refused(
    capsys: pytest.CaptureFixture[str], text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHPROOF_CACHE", str(text_file))
    said = refused(capsys, "clean")
    assert str(text_file) in said
    assert "PATCHPROOF_CACHE" in said


def test_judge_of_no_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert f"{tmp_path} holds no plan.json" in refused(capsys, "judge", tmp_path)


@pytest.mark.parametrize("command", [("run", "--series", "baseline"), ("judge", "results/latest")])
def test_junit_at_a_bad_place_is_refused_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, cache: Path, command: tuple[str, ...]
) -> None:
    assert f"{tmp_path} (--junit) is not an ordinary file" in refused(capsys, *command, "--junit", tmp_path)
    assert not cache.exists()


def test_prefixes_refuses_a_junit_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refused(capsys, "prefixes", "--series", "reference-feature", "--junit", tmp_path / "junit.xml")
    assert "each prefix is a run of its own" in said


def test_judge_writes_the_junit_file_as_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stored, copy = tmp_path / "stored", tmp_path / "junit.xml"
    shutil.copytree(REPORTS / "killed", stored)
    assert main.main(["judge", str(stored), "--junit", str(copy)]) == ExitCode.HARNESS
    assert copy.read_bytes() == (stored / "junit.xml").read_bytes()
    capsys.readouterr()


def test_run_without_scenarios_has_its_exit_code(tmp_path: Path) -> None:
    code, output = run("run", "-k", "nothing_matches", "--results", tmp_path / "results", mark=tmp_path)
    assert code == ExitCode.NOTHING_APPLICABLE, output
    assert not (tmp_path / "results").exists()


def test_option_unknown_to_pytest_is_refused(tmp_path: Path) -> None:
    code, output = run("run", "--nosuch", "--results", tmp_path / "results", mark=tmp_path)
    assert code == ExitCode.HARNESS
    assert "--nosuch" in output


def test_k_word_that_is_a_folder_selects_by_name(tmp_path: Path) -> None:
    """The folder of that name is not collected; the suites are."""
    assert (PROJECT / "suites").is_dir()
    code, output = run("run", "--collect-only", "-q", "-k", "suites", mark=tmp_path)
    assert code == ExitCode.OK
    assert "suites/test_map.py::" in output
    assert "tests/test_cli.py" not in output


# --- what is only printed


def test_dry_run_prints_commands_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    assert main.main(["run", "--dry-run", "--results", str(results), "-k", "map"]) == ExitCode.OK
    said = capsys.readouterr().out
    configure, build, qemu = said.split("\n", 2)
    assert shlex.split(configure)[-1] == "allnoconfig"
    assert {"bzImage", "headers_install", "ARCH=x86_64"} < set(shlex.split(build))
    words = shlex.split(qemu.replace("\\\n", " "))
    assert words[0] == "qemu-system-x86_64"
    for part in ("edu,id=edu,bus=edu-port", "intel-iommu,caching-mode=on,intremap=on,aw-bits=48"):
        assert part in words
    assert f"memory-backend-file,id=ram-memory,size={64 * MIB}" in qemu
    assert not results.exists()
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("command", ["build", "boot"])
def test_dry_run_of_a_stage_prints_its_commands(
    capsys: pytest.CaptureFixture[str], cache: Path, command: str
) -> None:
    assert main.main([command, "--series", "baseline", "--dry-run"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "allnoconfig" in said
    assert "qemu-system-x86_64 " in said
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_dry_run_with_a_kernel_prints_only_qemu(
    capsys: pytest.CaptureFixture[str], cache: Path, text_file: Path, tmp_path: Path
) -> None:
    arguments = ["--kernel", text_file, "--headers", tmp_path, "--qemu", "/opt/qemu", "--accel", "kvm"]
    assert main.main(["run", "--dry-run", *map(str, arguments)]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "make" not in said
    words = shlex.split(said.replace("\\\n", " "))
    assert words[:3] == ["/opt/qemu", "-accel", "kvm"]
    assert words[words.index("-kernel") + 1] == str(text_file)


# --- the stages one by one


def test_fetch_and_apply_print_their_result(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    checkout = make_checkout(tmp_path / "linux")
    assert main.main(["fetch", "--tree", str(checkout)]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("Linux 6.19.6, commit ")
    assert main.main(["apply", "--tree", str(checkout)]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("tree ")


def test_apply_of_a_wrong_series_blames_the_series(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    checkout = make_checkout(tmp_path / "linux")
    series = PATCHES / "reference-feature"
    arguments = ["apply", "--tree", str(checkout), "--series", str(series)]
    assert main.main(arguments) == ExitCode.SERIES
    assert "does not apply to 6.19.6" in capsys.readouterr().err


def test_judge_reports_a_stored_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path)
    journal.plan([Entry("suites/x.py::test_it", Kind.SCENARIO, "It holds", ("MAP-01",))])
    journal.run_started()
    journal.started("suites/x.py::test_it")
    journal.ended("suites/x.py::test_it", Verdict.VIOLATES, reason="It does not.")
    journal.run_ended()
    assert main.main(["judge", str(tmp_path)]) == ExitCode.SERIES
    said = capsys.readouterr().out
    assert "It does not." in said
    assert "It does not." in (tmp_path / "junit.xml").read_text()
    assert "It does not." in (tmp_path / "report.html").read_text()


# --- clean


def test_clean_removes_the_named_kinds(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    places = {name: [cache / kind for kind in kinds] for name, kinds in commands.CACHE_KINDS.items()}
    kept = cache / "durations.json"
    for place in [path for paths in places.values() for path in paths]:
        (place / "entry").mkdir(parents=True)
        (place / "entry" / "file").write_bytes(bytes(MIB))
    kept.write_text("{}")
    assert main.main(["clean", "kernels", "logs"]) == ExitCode.OK
    assert capsys.readouterr().out == f"7 MB freed below {cache}\n"
    for name, paths in places.items():
        assert {path.exists() for path in paths} == {name not in ("kernels", "logs")}
    assert main.main(["clean"]) == ExitCode.OK
    assert not any(path.exists() for paths in places.values() for path in paths)
    assert kept.exists()


def test_clean_removes_everything_a_build_leaves(cache: Path, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "linux")
    assert main.main(["build", "--tree", str(checkout)]) == ExitCode.OK
    assert {"kernel", "workbench", "trees", "logs"} < {path.name for path in cache.iterdir()}
    assert main.main(["clean"]) == ExitCode.OK
    assert {path.name for path in cache.iterdir()} <= {"durations.json", "locks"}


def test_build_keeps_the_last_ten_logs(cache: Path, tmp_path: Path) -> None:
    store = Store(cache)
    old = [store.path("logs", "build", f"2026010{day}T000000-1.log") for day in range(1, 10)]
    for path in old:
        path.touch()
    store.path("logs", "build", "20260110T000000-1.log").touch()
    checkout = make_checkout(tmp_path / "linux")
    assert main.main(["build", "--tree", str(checkout)]) == ExitCode.OK
    *kept, log = sorted(old[0].parent.iterdir())
    assert kept == [*old[1:], log.with_name("20260110T000000-1.log")]
    assert "bzImage" in log.read_text()


def test_output_to_a_full_disk_is_a_harness_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "logs").mkdir()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "clean"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == ExitCode.HARNESS


def test_defect_of_the_program_blames_no_series(tmp_path: Path) -> None:
    broken = "import argparse\nargparse.ArgumentParser.parse_known_args = lambda *_: 1 / 0\n"
    (tmp_path / "sitecustomize.py").write_text(broken)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}"}
    command = [sys.executable, "-m", "harness", "matrix"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.HARNESS
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("patchproof: a defect of patchproof itself")


def test_output_to_a_closed_pipe_is_silent() -> None:
    # In a user's shell the interpreter writes to a pipe in blocks.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "harness", "matrix"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        reading.stdout.readline()
        reading.stdout.close()
        assert reading.stderr.read() == b""


@pytest.mark.parametrize("closed", [">&-", "2>&- >/dev/null", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "code"), [("matrix", ExitCode.OK), ("apply --series none", ExitCode.HARNESS)]
)
def test_closed_streams_change_no_exit_code(closed: str, command: str, code: ExitCode) -> None:
    line = f"{shlex.quote(sys.executable)} -m harness {command} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == (command != "matrix" and "2>&-" not in closed)
