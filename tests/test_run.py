"""Runs of small suites from tests/data/suites, and runs that end before they have a plan."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from small_run import PROJECT, SUITES, Invocation, junit, make_qemu, run, until

from harness.lib.errors import ExitCode


def section(output: str, first: str, end: str) -> str:
    """Return the part of ``output`` between two headings."""
    return output.partition(first)[2].partition(end)[0]


@pytest.mark.vm
def test_setup_only_run_is_a_harness_error(tmp_path: Path) -> None:
    """Run on a QEMU that crashes once; the report says so."""
    crash = f"test -e {tmp_path}/crashed || {{ >{tmp_path}/crashed; kill -SEGV $$; }}"
    qemu = make_qemu(tmp_path / "qemu", f'case $1$2 in -acceltcg*) {crash} ;; esac\nexec $qemu "$@"')
    results = tmp_path / "results"
    asked = ("--series", "baseline", "--setup-only", "--qemu", qemu, "--results", results)
    code, output = run("run", *asked, SUITES / "idle.py", mark=tmp_path)
    assert code == ExitCode.HARNESS, output
    assert junit(results)["test_guest_boots"].verdict == "harness-error"
    assert "It was set up and not run" in output
    assert "machine-1: QEMU crashed before the guest came up (SIGSEGV). It was started again." in output


def test_run_interrupted_at_collection_says_interrupted(tmp_path: Path) -> None:
    suite = tmp_path / "test_slow.py"
    suite.write_text(f"open({str(tmp_path / 'here')!r}, 'w').close()\nimport time\ntime.sleep(600)\n")
    asked = (
        "--series",
        "baseline",
        "--results",
        tmp_path / "results",
        PROJECT / "suites" / "test_map.py",
        suite,
    )
    with Invocation("run", *asked, mark=tmp_path) as slow:
        until((tmp_path / "here").exists, "the suite")
        slow.process.send_signal(signal.SIGINT)
        assert slow.end() == ExitCode.INTERRUPTED
    assert list((tmp_path / "results").glob("*")) == []  # a plan would have what was not selected


def test_run_of_an_unreadable_suite_is_a_harness_error(tmp_path: Path) -> None:
    suite = tmp_path / "test_broken.py"
    suite.write_text("import nothing_of_that_name\n")
    code, output = run("run", "--series", "baseline", "--results", tmp_path, suite, mark=tmp_path)
    assert code == ExitCode.HARNESS, output


@pytest.mark.vm
def test_information_scenarios_never_fail_a_run(tmp_path: Path) -> None:
    """Each has its verdict, the exit code is 0, and `judge` of the stored run reports the same."""
    results = tmp_path / "results"
    code, output = run(
        "run", "-v", "--series", "baseline", "--results", results, SUITES / "findings.py", mark=tmp_path
    )
    assert code == ExitCode.OK, output
    findings = "Findings:\n  ATTR-04          The taint is 512.\n  ATTR-04          violates: The page table "
    assert findings in output
    assert "\n  ATTR-04, MAP-01  It said EINVAL.\n" in output
    cases = {name: case for name, case in junit(results).items() if name.startswith("test_")}
    assert {name: (case.outcome, case.verdict) for name, case in cases.items()} == {
        "test_information_violated": ("passed", "violates"),
        "test_information_conforming": ("passed", "conforms"),
        "test_binding_violated": ("failure", "violates"),
    }
    assert cases["test_information_violated"].properties["strength"] == "info"
    assert cases["test_binding_violated"].properties["strength"] == "must"
    assert cases["test_binding_violated"].properties["findings"] == "It said EINVAL."
    document = (results / "latest" / "junit.xml").read_text()
    code, judged = run("judge", "-v", results / "latest", mark=tmp_path)
    assert code == ExitCode.OK
    assert (results / "latest" / "junit.xml").read_text() == document
    assert section(judged, "Findings:", "Results:") == section(output, "Findings:", "Results:")
