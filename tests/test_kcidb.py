"""The report for KCIDB, read back by its own library."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kcidb_io.schema import V5_3

from harness.cli import main
from harness.journal.facts import MailFacts
from harness.journal.results_folder import ResultsFolder
from harness.lib.errors import ExitCode, UsageError
from harness.report import kcidb
from harness.verdict.case import Case
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Strength, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
ONE = Entry("suites/test_map.py::test_one[edu-c]", Kind.SCENARIO, "one", ("MAP-01",))
HOSTILE = "\x1b[2J\x00 \udcff\ud800 \u202e </script>"


def load(folder: Path, **options: str) -> dict[str, Any]:
    """Return the report, which must be valid, and have unique ids."""
    report: dict[str, Any] = json.loads(kcidb.render(folder, **options))
    V5_3.validate(report)
    for kind in ("checkouts", "builds", "tests"):
        ids = [one["id"] for one in report.get(kind, [])]
        assert len(set(ids)) == len(ids)
    return report


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder.create(tmp_path, "example")


def record(results: ResultsFolder, entry: Entry, observed: Verdict | None, **evidence: Any) -> dict[str, Any]:
    """Record a run of one scenario, never reached if ``observed`` is None; return its test."""
    journal = results.journal()
    journal.plan([entry])
    journal.run_started()
    if observed is not None:
        journal.started(entry.id)
        journal.ended(entry.id, observed, **evidence)
    journal.run_ended()
    (test,) = load(results.dir)["tests"]
    assert isinstance(test, dict)
    return test


@pytest.mark.parametrize("name", ["mixed", "killed", "apply-failed"])
def test_report_of_a_recorded_run_is_valid(name: str) -> None:
    report = load(REPORTS / name)
    assert report["version"] == {"major": 5, "minor": 3}
    assert report["checkouts"][0]["valid"] is (name != "apply-failed")


def test_library_refuses_another_status() -> None:
    report = load(REPORTS / "mixed")
    report["tests"][0]["status"] = "OK"
    assert not V5_3.is_valid(report)


@pytest.mark.parametrize(
    ("observed", "expected", "status"),
    [
        (Verdict.CONFORMS, Verdict.CONFORMS, "PASS"),
        (Verdict.VIOLATES, Verdict.CONFORMS, "FAIL"),
        (Verdict.VIOLATES, Verdict.VIOLATES, "FAIL"),
        (Verdict.CONFORMS, Verdict.VIOLATES, "FAIL"),
        (Verdict.KERNEL_DIED, Verdict.CONFORMS, "FAIL"),
        (Verdict.HARNESS_ERROR, Verdict.CONFORMS, "ERROR"),
        (Verdict.NOT_APPLICABLE, Verdict.CONFORMS, "SKIP"),
        (None, Verdict.CONFORMS, "MISS"),
    ],
)
def test_status_follows_the_verdict(
    results: ResultsFolder, observed: Verdict | None, expected: Verdict, status: str
) -> None:
    entry = Entry(ONE.id, ONE.kind, ONE.title, ONE.requirements, expected)
    test = record(results, entry, observed)
    assert (test["status"], test["misc"]["expected_verdict"]) == (status, expected)


def test_finding_is_no_failure(results: ResultsFolder) -> None:
    entry = Entry(ONE.id, ONE.kind, "one", ("MAP-01",), strength=Strength.INFO)
    test = record(results, entry, Verdict.VIOLATES, reason="differs")
    assert (test["status"], test["misc"]["findings"]) == ("DONE", ["violates: one (differs)"])


def test_test_has_sentence_expected_and_seen(results: ResultsFolder) -> None:
    deviation = Deviation("success", "EINVAL", "map buf1", 3)
    test = record(results, ONE, Verdict.VIOLATES, deviation=deviation)
    assert test["path"] == "patchproof.test_map.test_one.edu-c"
    misc = test["misc"]
    assert (misc["expected"], misc["seen"], misc["operation"]) == ("success", "EINVAL", "map buf1")
    assert misc["requirements"] == ["MAP-01"]
    assert misc["sentences"][0].startswith("A DMABUF that")


def test_inherited_violation_says_so(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([ONE])
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.VIOLATES, failure="same")
    journal.compared(ONE.id, BaseAnswer(Verdict.VIOLATES, failure="same"))
    (test,) = load(results.dir)["tests"]
    assert (test["status"], test["misc"]["origin"]) == ("FAIL", "inherited")


def test_failed_stage_has_its_log_and_nothing_below() -> None:
    report = load(REPORTS / "apply-failed")
    assert report.keys() == {"version", "checkouts"}
    assert "does not apply" in report["checkouts"][0]["log_excerpt"]


@pytest.mark.parametrize(
    ("stage", "verdict", "valid"),
    [
        (Entry("fetch", Kind.HARNESS, "It is fetched"), Verdict.HARNESS_ERROR, None),
        (Entry("apply", Kind.STAGE, "It applies"), None, None),
        (Entry("apply", Kind.STAGE, "It applies"), Verdict.VIOLATES, False),
        (Entry("apply", Kind.STAGE, "It applies"), Verdict.CONFORMS, True),
    ],
)
def test_checkout_is_valid_or_not_only_if_known(
    results: ResultsFolder, stage: Entry, verdict: Verdict | None, valid: bool | None
) -> None:
    journal = results.journal()
    journal.plan([stage, ONE])
    journal.run_started()
    journal.started(stage.id)
    if verdict is not None:
        journal.ended(stage.id, verdict, reason="because")
    journal.run_ended()
    assert load(results.dir)["checkouts"][0].get("valid") is valid


def test_scenario_that_never_ended_is_no_failure(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([ONE])
    journal.run_started()
    journal.started(ONE.id)
    journal.run_ended()
    (test,) = load(results.dir)["tests"]
    assert test["status"] == "ERROR"


def test_failed_build_has_no_tests(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([Entry("build", Kind.STAGE, "It builds"), ONE])
    journal.started("build")
    journal.ended("build", Verdict.VIOLATES, reason="core.c:1: error")
    report = load(results.dir)
    assert (report["builds"][0]["status"], report["builds"][0]["log_excerpt"]) == ("FAIL", "core.c:1: error")
    assert "tests" not in report


def test_patchset_hash_is_that_of_sha256sum(results: ResultsFolder, tmp_path: Path) -> None:
    mails = []
    for number in range(3):
        path = tmp_path / f"000{number}.patch"
        path.write_bytes(b"patch %d\n" % number)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        mails.append(
            MailFacts(
                number=number, subject="", message_id="", sender="", recipients=[], sha256=digest, patch_id=""
            )
        )
    results.write_run(base="6.19.6", mails=mails)
    results.journal().plan([ONE])
    said = subprocess.run(
        "sha256sum 0001.patch 0002.patch | cut -c-64 | sha256sum | cut -c-64",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (checkout,) = load(results.dir)["checkouts"]
    assert checkout["patchset_hash"] == said.stdout.strip()
    assert checkout["git_commit_name"] == "v6.19.6"


@pytest.mark.parametrize(
    ("facts", "hashed"),
    [
        ({"base": "6.19", "mails": []}, ""),
        ({"base": "6.19"}, None),
        ({"mails": []}, None),
        ({"base": "6.19", "mails": [], "checkout": "ab" * 20}, None),
    ],
    ids=["base alone", "earlier program", "kernel of the user", "tree of the user"],
)
def test_patchset_hash_needs_the_facts(
    results: ResultsFolder, facts: dict[str, Any], hashed: str | None
) -> None:
    results.write_run(**facts)
    results.journal().plan([ONE])
    assert load(results.dir)["checkouts"][0].get("patchset_hash") == hashed


def test_hostile_text_is_plain_in_the_report(results: ResultsFolder) -> None:
    results.write_run(title=HOSTILE, message_id=HOSTILE, base=HOSTILE, warnings=[HOSTILE], compiler=HOSTILE)
    transcript = results.transcript(ONE.id)
    transcript.write_bytes(b"\xff\x00\x1b" * 9000)
    entry = Entry(f"suites/test_{HOSTILE}.py::x[{HOSTILE}::]", Kind.SCENARIO, HOSTILE, ("MAP-01",))
    test = record(
        results,
        entry,
        Verdict.VIOLATES,
        reason=HOSTILE,
        deviation=Deviation(HOSTILE, HOSTILE, HOSTILE),
        transcript=transcript,
    )
    assert test["path"] == "patchproof.test__2J_script_.x._2J_script_"
    assert test["misc"]["seen"] == r"\x1b[2J\x00 \xff\ud800 \u202e </script>"
    assert len(test["log_excerpt"]) == kcidb.MAX_EXCERPT
    (checkout,) = load(results.dir)["checkouts"]
    assert "message_id" not in checkout


def test_repetitions_share_a_path(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([ONE, Entry(f"{ONE.id} #2", ONE.kind, "one", ONE.requirements, repetition=2)])
    report = load(results.dir)
    assert len({test["path"] for test in report["tests"]}) == 1
    assert report["tests"][1]["misc"]["repetition"] == 2


def test_origin_is_that_of_the_ci_system(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main.main(["report", "kcidb", "--origin", "mylab", str(REPORTS / "mixed")]) == ExitCode.OK
    report = json.loads(capfdbinary.readouterr().out)
    V5_3.validate(report)
    assert {one["origin"] for one in report["tests"]} == {"mylab"}
    assert report["tests"][0]["id"].startswith("mylab:")


@pytest.mark.parametrize("origin", ["", "My Lab", "a:b"])
def test_malformed_origin_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="is not one that KCIDB takes"):
        kcidb.render(REPORTS / "mixed", origin)


def test_fault_between_scenarios_is_of_the_machine(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([])
    journal.run_started()
    journal.machine_started("machine-1")
    journal.machine_ended("machine-1", "A WARN after the last scenario.", Verdict.VIOLATES)
    (test,) = load(results.dir)["tests"]
    assert (test["path"], test["status"]) == ("patchproof.machine.machine-1", "FAIL")


def test_program_of_the_kernel_has_its_cases(results: ResultsFolder) -> None:
    program = Entry("selftests/vfio/a_test", Kind.SELFTEST, "a test of the tree")
    journal = results.journal()
    journal.plan([program])
    journal.started(program.id)
    journal.cases(program.id, [Case("one", Verdict.CONFORMS), Case("two", Verdict.VIOLATES, "x != y")])
    journal.ended(program.id, Verdict.VIOLATES)
    found = {test["path"]: test["status"] for test in load(results.dir)["tests"]}
    name = "patchproof.selftest.selftests_vfio_a_test"
    assert found == {name: "FAIL", f"{name}.one": "PASS", f"{name}.two": "FAIL"}
