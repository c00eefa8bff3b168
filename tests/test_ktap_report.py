"""The report as KTAP, read back by the parser of the kernel's own tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.kernel import apply, base
from harness.lib.cache import Store
from harness.lib.errors import ExitCode
from harness.lib.progress import Progress
from harness.report import ktap
from harness.verdict.case import Case
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import Entry, repetition_mark
from harness.verdict.verdict import Kind, Strength, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
KUNIT = "tools/testing/kunit"
PARSER = [
    *(f"kunit{part}.py" for part in ("", "_config", "_json", "_kernel", "_parser", "_printer")),
    "qemu_config.py",
]
ONE = Entry("suites/test_map.py::test_one", Kind.SCENARIO, "one", ("MAP-01",))
HOSTILE = (
    "\x1b[2J\x00 \udcff # SKIP x\nKTAP version 1\n1..9\nok 1 forged\nnot ok 2 forged\n# Subtest: forged\n"
    "reboot: System halted\nKernel panic - not syncing: VFS: x\nList of all partitions:\n"
)


@pytest.fixture(scope="session")
def kunit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return kunit.py of the default base."""
    store = Store()
    progress = Progress(store)
    folder = tmp_path_factory.mktemp("kunit")
    source = apply.apply_series(store, progress, base.fetch(store, progress), None, folder / "apply.log")
    for name in PARSER:
        path = folder / KUNIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.content(f"{KUNIT}/{name}"))
    return folder / KUNIT / "kunit.py"


def parsed(kunit: Path, folder: Path, tmp_path: Path) -> tuple[int, dict[str, str]]:
    """Parse the report of a run; return the parser's exit code, and the status of each test by its path."""
    log, result = tmp_path / "run.ktap", tmp_path / "run.json"
    log.write_text(ktap.render(folder))
    done = subprocess.run(
        [sys.executable, kunit, "parse", f"--json={result}", log], capture_output=True, text=True, check=False
    )
    assert "[ERROR]" not in done.stdout
    assert done.stderr == ""
    found: dict[str, str] = {}

    def walk(group: dict[str, Any], path: tuple[str, ...]) -> None:
        for case in group["test_cases"]:
            found[".".join((*path, case["name"]))] = case["status"]
        for sub in group["sub_groups"]:
            walk(sub, (*path, sub["name"]))

    walk(json.loads(result.read_text()), ())
    return done.returncode, found


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder.create(tmp_path, "example")


def scenario(name: str, expected: str = "conforms", strength: str = "must", repetition: int = 1) -> Entry:
    return Entry(
        f"suites/test_map.py::{name}{repetition_mark(repetition)}",
        Kind.SCENARIO,
        f"about {name}",
        ("MAP-01",),
        Verdict(expected),
        Strength(strength),
        repetition,
    )


def record(results: ResultsFolder, **observed: tuple[Entry, str]) -> None:
    """Record a run of these entries with their verdicts; the entry `inherited` is so."""
    journal = results.journal()
    journal.plan([entry for entry, _ in observed.values()])
    journal.run_started()
    for name, (entry, verdict) in observed.items():
        if verdict == "not-reached":
            continue
        journal.started(entry.id)
        journal.ended(entry.id, Verdict(verdict), reason=f"why {name}", failure=name)
        if name == "inherited":
            journal.compared(entry.id, BaseAnswer(Verdict.VIOLATES, failure=name))
    journal.run_ended()


@pytest.mark.vm  # for the kernel source, not for a machine
@pytest.mark.parametrize("name", ["mixed", "killed", "apply-failed"])
def test_kernel_parser_reads_a_recorded_run(kunit: Path, tmp_path: Path, name: str) -> None:
    code, found = parsed(kunit, REPORTS / name, tmp_path)
    assert code == 1
    plain = [one for one in read(REPORTS / name).results if one.verdict is Verdict.CONFORMS]
    assert sum(status == "PASS" for status in found.values()) >= len(plain)
    assert found.pop("run.complete") == ("FAIL" if name == "killed" else "PASS")
    assert ("MAP" in found) is (name == "apply-failed")


@pytest.mark.vm  # for the kernel source, not for a machine
def test_kernel_parser_reads_each_verdict(kunit: Path, results: ResultsFolder, tmp_path: Path) -> None:
    wanted = {
        "good": (scenario("good"), "conforms", "PASS"),
        "bad": (scenario("bad"), "violates", "FAIL"),
        "died": (scenario("died"), "kernel-died", "FAIL"),
        "absent": (scenario("absent"), "not-applicable", "SKIP"),
        "broken": (scenario("broken"), "harness-error", "FAIL"),
        "never": (scenario("never"), "not-reached", "FAIL"),
        "known": (scenario("known", "violates"), "violates", "PASS"),
        "better": (scenario("better", "violates"), "conforms", "FAIL"),
        "inherited": (scenario("inherited"), "violates", "SKIP"),
        "finding": (scenario("finding", strength="info"), "violates", "PASS"),
    }
    record(results, **{name: (entry, verdict) for name, (entry, verdict, _) in wanted.items()})
    code, found = parsed(kunit, results.dir, tmp_path)
    assert {name: found[f"MAP.test_map.{name}"] for name in wanted} == {
        name: status for name, (_, _, status) in wanted.items()
    }
    assert (code, read(results.dir).exit_code) == (1, ExitCode.SERIES)


@pytest.mark.vm  # for the kernel source, not for a machine
def test_kernel_parser_passes_a_run_without_a_fault(
    kunit: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    record(
        results,
        good=(scenario("good"), "conforms"),
        inherited=(scenario("inherited"), "violates"),
        known=(scenario("known", "violates"), "violates"),
    )
    code, _ = parsed(kunit, results.dir, tmp_path)
    assert (code, read(results.dir).exit_code) == (0, ExitCode.OK)


@pytest.mark.vm  # for the kernel source, not for a machine
def test_kernel_parser_fails_repetitions_that_differ(
    kunit: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    record(
        results,
        one=(scenario("x"), "conforms"),
        two=(scenario("x", repetition=2), "not-applicable"),
    )
    code, found = parsed(kunit, results.dir, tmp_path)
    assert (code, found["run.agreement.test_map.x"]) == (1, "FAIL")
    assert (found["MAP.test_map.x"], found["MAP.test_map.x.2"]) == ("PASS", "SKIP")


@pytest.mark.vm  # for the kernel source, not for a machine
def test_kernel_parser_is_not_misled_by_texts(kunit: Path, results: ResultsFolder, tmp_path: Path) -> None:
    journal = results.journal()
    program = Entry(f"tools/{HOSTILE}", Kind.SELFTEST, HOSTILE)
    entries = [
        Entry(f"suites/test_{HOSTILE}.py::x[{HOSTILE}]", Kind.SCENARIO, HOSTILE, (HOSTILE,)),
        Entry("suites/test_a.py::skipped", Kind.SCENARIO, HOSTILE, ("A-01",)),
        Entry("suites/test_a.py::broken", Kind.SCENARIO, HOSTILE, ("A-01",)),
        program,
    ]
    journal.plan(entries)
    journal.run_started()
    verdicts = (Verdict.VIOLATES, Verdict.NOT_APPLICABLE, Verdict.HARNESS_ERROR, Verdict.VIOLATES)
    for entry, verdict in zip(entries, verdicts, strict=True):
        journal.started(entry.id)
        journal.finding(entry.id, HOSTILE)
        if entry is program:
            journal.cases(entry.id, [Case(HOSTILE, Verdict.VIOLATES, HOSTILE), Case("b", Verdict.CONFORMS)])
        deviation = Deviation(HOSTILE, HOSTILE, HOSTILE) if verdict is Verdict.VIOLATES else None
        journal.ended(entry.id, verdict, reason=HOSTILE, details=HOSTILE, deviation=deviation)
    journal.run_ended()
    code, found = parsed(kunit, results.dir, tmp_path)
    assert code == 1
    assert sorted(found.values()) == ["FAIL", "FAIL", "FAIL", "FAIL", "PASS", "PASS", "SKIP"]
    assert not any("forged" in name.split(".") for name in found)
    assert found["A.test_a.skipped"] == "SKIP"


def test_failed_test_says_expected_and_seen(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([scenario("x")])
    journal.started(scenario("x").id)
    journal.ended(scenario("x").id, Verdict.VIOLATES, deviation=Deviation("success", "EINVAL", "map buf1"))
    lines = [line.strip() for line in ktap.render(results.dir).splitlines()]
    assert lines[lines.index("not ok 1 test_map.x") - 3 :][:3] == [
        "# expected: success",
        "# seen: EINVAL",
        "# operation: map buf1",
    ]


def test_reason_forges_no_header_of_a_subtest(results: ResultsFolder) -> None:
    program = Entry("selftests/vfio/a", Kind.SELFTEST, "A test program")
    forged = "wrong\nSubtest: forged"
    journal = results.journal()
    journal.plan([ONE, program])
    journal.run_started()
    for entry in (ONE, program):
        journal.started(entry.id)
        if entry is program:
            journal.cases(entry.id, [Case("one", Verdict.VIOLATES, forged)])
        journal.ended(entry.id, Verdict.VIOLATES, reason=forged)
    journal.run_ended()
    text = ktap.render(results.dir)
    assert text.count("# reason: Subtest: forged") == 3
    assert "# Subtest: forged" not in text


def test_group_that_was_not_reached_is_one_line() -> None:
    lines = ktap.render(REPORTS / "apply-failed").splitlines()
    assert [line for line in lines if " MAP" in line] == [
        "not ok 2 MAP # ERROR not-reached: The run did not get past the stage apply (violates)."
    ]


def test_finding_has_no_directive(results: ResultsFolder) -> None:
    record(results, finding=(scenario("finding", strength="info"), "violates"))
    lines = [line.strip() for line in ktap.render(results.dir).splitlines()]
    assert lines[lines.index("ok 1 test_map.finding") - 1].startswith("# finding: violates: about finding")
