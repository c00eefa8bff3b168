"""Verdicts judged again: the stored console is searched with today's patterns."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.lib.errors import ExitCode
from harness.report import junit, terminal
from harness.verdict.record import ConsoleRange, Entry
from harness.verdict.verdict import Kind, Strength, Verdict


def shown(folder: Path) -> str:
    stream = io.StringIO()
    terminal.show(folder, stream, every=True)
    return stream.getvalue()


WARNING = """\
[    9.000000] quiet
[    9.100000] ------------[ cut here ]------------
[    9.100001] WARNING: drivers/vfio/x.c:1 at f+0x1/0x2, CPU#0: sh/45
[    9.100002] Call Trace:
[    9.100003]  f+0x1/0x2
[    9.100004] ---[ end trace 0000000000000000 ]---
"""


SCENARIO = Entry("one", Kind.SCENARIO, "one")


def stored(
    root: Path,
    console: str,
    verdict: Verdict = Verdict.CONFORMS,
    silent: Verdict | None = None,
    entry: Entry = SCENARIO,
) -> Path:
    """Record a run of one scenario with this console."""
    results = ResultsFolder.create(root, "example")
    (results.dir / "machine-1").mkdir()
    boot = "[    0.000000] Linux version 6.19.6\n"
    (results.dir / "machine-1" / "console.log").write_text(boot + console)
    journal = results.journal()
    journal.plan([entry])
    journal.run_started()
    journal.started("one")
    span = ConsoleRange("machine-1/console.log", len(boot), len(boot + console))
    journal.ended("one", verdict, reason="as it was", without_console=silent, console=span)
    journal.run_ended()
    return results.dir


class TestJudgedAgain:
    """A stored console is searched again with today's patterns."""

    def test_complaint_found_later_violates(self, tmp_path: Path) -> None:
        record = read(stored(tmp_path, WARNING))
        (result,) = record.results
        assert result.verdict is Verdict.VIOLATES
        assert "the kernel said: WARNING: drivers/vfio/x.c:1" in result.reason
        assert [one.kind for one in result.complaints] == ["warning"]
        assert record.exit_code is ExitCode.SERIES

    def test_complaint_in_a_skipped_scenario_violates(self, tmp_path: Path) -> None:
        (result,) = read(stored(tmp_path, WARNING, Verdict.NOT_APPLICABLE)).results
        assert result.verdict is Verdict.VIOLATES

    @pytest.mark.parametrize(
        ("expected", "alone", "observed", "as_expected"),
        [
            (Verdict.VIOLATES, False, Verdict.VIOLATES, False),
            # An expected violation is no expected complaint, also where the scenario conforms.
            (Verdict.VIOLATES, False, Verdict.CONFORMS, False),
            (Verdict.VIOLATES, True, Verdict.VIOLATES, True),
            (Verdict.KERNEL_DIED, False, Verdict.KERNEL_DIED, True),
        ],
    )
    def test_complaint_is_unexpected_where_violates_is_expected(
        self, tmp_path: Path, expected: Verdict, alone: bool, observed: Verdict, as_expected: bool
    ) -> None:
        entry = replace(SCENARIO, expected=expected, alone=alone)
        folder = stored(tmp_path / "loud", WARNING, observed, entry=entry)
        record = read(folder)
        assert record.results[0].as_expected is as_expected
        assert record.exit_code is (ExitCode.OK if as_expected else ExitCode.SERIES)
        assert ("! violates" in shown(folder)) is not as_expected
        assert ("as expected: " in junit.render(folder).decode()) is as_expected
        quiet = read(stored(tmp_path / "quiet", "[    9.0] fine\n", expected, entry=entry))
        assert quiet.exit_code is ExitCode.OK

    @pytest.mark.parametrize(
        ("console", "verdict"),
        [
            (WARNING, Verdict.CONFORMS),
            (WARNING, Verdict.VIOLATES),
            ("[    9.0] fine\n", Verdict.KERNEL_DIED),
        ],
    )
    def test_complaint_in_an_information_scenario_fails_the_run(
        self, tmp_path: Path, console: str, verdict: Verdict
    ) -> None:
        folder = stored(tmp_path, console, verdict, entry=replace(SCENARIO, strength=Strength.INFO))
        assert read(folder).exit_code is ExitCode.SERIES
        assert not read(folder).results[0].is_finding
        assert "<failure" in junit.render(folder).decode()

    def test_complaint_no_longer_found_is_withdrawn(self, tmp_path: Path) -> None:
        folder = stored(tmp_path, "[    9.0] fine\n", Verdict.VIOLATES, silent=Verdict.CONFORMS)
        record = read(folder)
        assert record.results[0].verdict is Verdict.CONFORMS
        assert "It was violates: as it was" in record.results[0].reason
        assert record.exit_code is ExitCode.OK

    @pytest.mark.parametrize("verdict", [Verdict.VIOLATES, Verdict.HARNESS_ERROR])
    def test_withdrawn_complaint_leaves_lost_messages(self, tmp_path: Path, verdict: Verdict) -> None:
        lost = "** 12 printk messages dropped **\n[    9.0] fine\n"
        record = read(stored(tmp_path, lost, verdict, silent=Verdict.CONFORMS))
        assert record.results[0].verdict is Verdict.HARNESS_ERROR
        assert record.exit_code is ExitCode.HARNESS

    def test_verdict_of_other_evidence_stays(self, tmp_path: Path) -> None:
        for verdict in (Verdict.VIOLATES, Verdict.HARNESS_ERROR, Verdict.KERNEL_DIED):
            (result,) = read(stored(tmp_path, "[    9.0] fine\n", verdict)).results
            assert (result.verdict, result.reason) == (verdict, "as it was")

    def test_console_that_lost_messages_is_a_harness_error(self, tmp_path: Path) -> None:
        record = read(stored(tmp_path, "** 12 printk messages dropped **\n[    9.0] fine\n"))
        assert record.results[0].verdict is Verdict.HARNESS_ERROR
        assert (
            record.results[0].reason
            == "A detector was disabled, or messages were lost: ** 12 printk messages dropped **"
        )
        assert record.exit_code is ExitCode.HARNESS

    def test_reboot_during_a_scenario_violates(self, tmp_path: Path) -> None:
        (result,) = read(stored(tmp_path, "[    0.000000] Linux version 6.19.6 (x@y)\n")).results
        assert (result.verdict, result.complaints[0].kind) == (Verdict.VIOLATES, "reboot")

    def test_missing_console_changes_no_verdict(self, tmp_path: Path) -> None:
        folder = stored(tmp_path, WARNING)
        (folder / "machine-1" / "console.log").unlink()
        assert read(folder).results[0].verdict is Verdict.CONFORMS

    def test_reports_name_a_complaint_and_its_call_trace(self, tmp_path: Path) -> None:
        folder = stored(tmp_path, WARNING)
        (complaint,) = read(folder).results[0].complaints
        ResultsFolder(folder).stack(complaint.fingerprint).write_text("# decoded\nf (drivers/vfio/x.c:1)\n")
        text = shown(folder)
        assert "The kernel's complaints, by fingerprint:\n" in text
        assert f"  {complaint.fingerprint}  WARNING: drivers/vfio/x.c:1 at f+0x1/0x2" in text
        assert f"(1 scenario; stacks/{complaint.fingerprint}.txt)" in text
        _, case = ET.fromstring(junit.render(folder)).iterfind("testsuite/testcase")
        found = {one.get("name"): one.get("value") for one in case.iterfind("properties/property")}
        assert (found["complaints"] or "").startswith(f"{complaint.fingerprint} warning WARNING: ")
        assert "f (drivers/vfio/x.c:1)" in (case.findtext("failure") or "")
