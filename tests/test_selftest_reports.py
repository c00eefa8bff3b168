"""The journal and the reports of the kernel's own test programs, apart from the scenarios."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.resume import EarlierRun
from harness.journal.writer import CASE_LIMIT, JournalWriter
from harness.lib.errors import ExitCode
from harness.report import junit, terminal
from harness.report.selftests import CASES_SHOWN
from harness.run.selftests import entry_of
from harness.series.selftest import Program
from harness.verdict.case import Case
from harness.verdict.comparison import BaseAnswer, Origin
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Verdict

SCENARIO = Entry("suites/test_map.py::test_one", Kind.SCENARIO, "one", ("MAP-01",))
PROGRAM = entry_of(Program("vfio/a_test"))
CASES = (
    Case("first", Verdict.CONFORMS),
    Case("second", Verdict.VIOLATES, "# a.c:7: 1 is not 2\nmore"),
    Case("third", Verdict.NOT_APPLICABLE, "no device"),
)
FAILURE = "1 of 3 tests failed: second.\nsecond"


class Journal:
    """A run with one scenario, which conforms, and one test program."""

    def __init__(self, root: Path) -> None:
        self.results = ResultsFolder.create(root, "series")
        self.writer: JournalWriter = self.results.journal()
        self.writer.plan([SCENARIO, PROGRAM])
        self.writer.run_started()
        self.writer.started(SCENARIO.id)
        self.writer.ended(SCENARIO.id, Verdict.CONFORMS)

    def program(self, verdict: Verdict, cases: tuple[Case, ...] = CASES, failure: str = FAILURE) -> None:
        self.writer.started(PROGRAM.id)
        if cases:
            self.writer.cases(PROGRAM.id, cases)
        self.writer.ended(PROGRAM.id, verdict, reason="1 of 3 tests failed: second.", failure=failure)

    def compare(self, base: BaseAnswer) -> None:
        self.writer.compared(PROGRAM.id, base)

    def code(self) -> ExitCode:
        self.writer.run_ended()
        return read(self.results.dir).exit_code

    def table(self) -> str:
        stream = io.StringIO()
        terminal.show(self.results.dir, stream)
        return stream.getvalue()

    def suites(self) -> dict[str, ET.Element]:
        root = ET.fromstring(junit.render(self.results.dir))
        return {str(one.get("name")).rpartition(".")[2]: one for one in root}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_program_that_fails_is_a_fault_of_the_series(journal: Journal) -> None:
    journal.program(Verdict.VIOLATES)
    assert journal.code() is ExitCode.SERIES


def test_program_that_fails_on_the_base_alike_is_inherited(journal: Journal) -> None:
    journal.program(Verdict.VIOLATES)
    journal.compare(BaseAnswer(Verdict.VIOLATES, "1 of 3 tests failed: second.", FAILURE))
    assert journal.code() is ExitCode.OK
    assert "= violates (inherited)  selftests/vfio/a_test" in journal.table()
    (program, *_) = journal.suites()["selftests"].iter("testcase")
    assert program.find("failure") is None
    assert program.find("skipped") is not None


@pytest.mark.parametrize(
    ("base", "origin"),
    [
        (BaseAnswer(Verdict.VIOLATES, "2 of 3", "2 of 3 tests failed: first, second."), Origin.NEW),
        (BaseAnswer(Verdict.CONFORMS), Origin.NEW),
        (BaseAnswer(Verdict.NOT_APPLICABLE, "This tree has no makefile."), Origin.NOT_COMPARABLE),
        (BaseAnswer(Verdict.NOT_REACHED, "the base was not asked"), Origin.NOT_COMPARABLE),
    ],
)
def test_program_that_fails_otherwise_on_the_base_is_no_excuse(
    journal: Journal, base: BaseAnswer, origin: Origin
) -> None:
    journal.program(Verdict.VIOLATES)
    journal.compare(base)
    assert journal.code() is ExitCode.SERIES
    (result,) = read(journal.results.dir).selftests
    assert result.comparison is not None
    assert result.comparison.origin is origin


def test_program_that_did_not_end_is_not_compared(journal: Journal) -> None:
    journal.program(Verdict.VIOLATES, failure="")
    journal.compare(BaseAnswer(Verdict.VIOLATES, "It was killed.", ""))
    assert journal.code() is ExitCode.SERIES


@pytest.mark.parametrize("verdict", [Verdict.CONFORMS, Verdict.NOT_APPLICABLE])
def test_program_that_passes_or_is_skipped_fails_no_run(journal: Journal, verdict: Verdict) -> None:
    journal.program(verdict, cases=())
    assert journal.code() is ExitCode.OK


def test_program_that_was_not_reached_fails_the_run(journal: Journal) -> None:
    assert journal.code() is ExitCode.HARNESS


def test_program_in_which_the_harness_died_is_pessimistic(journal: Journal) -> None:
    journal.writer.started(PROGRAM.id)
    (result,) = read(journal.results.dir).selftests
    assert (result.verdict, result.ended) == (Verdict.KERNEL_DIED, False)


def test_programs_are_no_scenarios(journal: Journal) -> None:
    journal.program(Verdict.VIOLATES)
    record = read(journal.results.dir)
    assert [one.entry.id for one in record.scenarios] == [SCENARIO.id]
    assert [one.entry.id for one in record.selftests] == [PROGRAM.id]
    assert not PROGRAM.requirements


def test_cases_are_read_back_and_their_reasons_are_limited(journal: Journal) -> None:
    long = Case("long", Verdict.VIOLATES, "x" * (10 * CASE_LIMIT))
    journal.program(Verdict.VIOLATES, (*CASES, long))
    (result,) = read(journal.results.dir).selftests
    assert result.cases[:3] == CASES
    assert len(result.cases[3].reason) < CASE_LIMIT + 100


def test_cases_outside_of_a_program_damage_the_journal(journal: Journal) -> None:
    journal.writer.cases(PROGRAM.id, CASES)
    assert "it has cases while it is not in progress" in read(journal.results.dir).damage


def test_table_tells_programs_apart_with_their_cases(journal: Journal) -> None:
    journal.program(Verdict.VIOLATES)
    journal.writer.run_ended()
    above, _, below = journal.table().partition("Test programs of the kernel itself")
    assert "a_test" not in above
    assert below.splitlines()[1:6] == [
        "! violates  selftests/vfio/a_test",
        "      1 of 3 tests failed: second.",
        "      violates        second: # a.c:7: 1 is not 2 / more",
        "      conforms        first",
        "      not-applicable  third: no device",
    ]
    assert "1 scenario: 1 conforms; 1 not as expected." in below
    assert "1 test program of the kernel itself: 1 violates." in below


def test_table_of_many_cases_is_limited(journal: Journal) -> None:
    journal.program(Verdict.CONFORMS, tuple(Case(f"t{n}", Verdict.CONFORMS) for n in range(CASES_SHOWN + 2)))
    assert "and 2 more, which junit.xml lists" in journal.table()


def test_junit_has_a_suite_of_programs_and_cases(journal: Journal) -> None:
    journal.program(Verdict.VIOLATES)
    journal.writer.run_ended()
    suites = journal.suites()
    assert list(suites) == ["stages", "MAP", "selftests"]
    cases = list(suites["selftests"].iter("testcase"))
    tags = [[one.tag for one in case if one.tag in ("failure", "skipped", "error")] for case in cases]
    assert [case.get("name") for case in cases] == ["selftests/vfio/a_test", "first", "second", "third"]
    assert tags == [["failure"], [], ["failure"], ["skipped"]]
    assert suites["selftests"].get("failures") == "2"
    assert [case.get("classname") for case in cases[1:]] == ["patchproof.selftests.vfio.a_test"] * 3
    assert [case.get("name") for case in suites["MAP"].iter("testcase")] == ["test_one"]


def test_run_cut_off_before_a_program_has_it_left(journal: Journal) -> None:
    journal.writer.run_ended()
    journal.writer.unlock()
    earlier = EarlierRun.of(journal.results.dir)
    assert (earlier.left, earlier.selftests_left) == ((), (PROGRAM.id,))
    assert not earlier.finished
