"""junit.xml: the element of each verdict, and valid XML for any text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.lib.errors import HarnessError
from harness.lib.text import visible
from harness.report import evidence, junit
from harness.verdict.comparison import BaseAnswer
from harness.verdict.record import ConsoleRange, Entry, repetition_mark
from harness.verdict.verdict import Kind, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
ONE = Entry("suites/test_map.py::test_one[edu-c]", Kind.SCENARIO, "one", ("MAP-01", "MAP-13"))

# The attributes and children of each element that the JUnit plugin of Jenkins reads and pytest writes.
# A test case has properties there, too; the first schemas had them for suites only.
SCHEMA = {
    "testsuites": ({"tests", "failures", "errors", "time"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "disabled", "time", "timestamp"},
        {"properties", "testcase"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": (
        {"name", "classname", "time"},
        {"properties", "failure", "error", "skipped", "system-out"},
    ),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}


def load(document: bytes) -> ET.Element:
    """Parse the document; check it against SCHEMA, and its counts against its cases."""
    root = ET.fromstring(document)
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.keys()) <= attributes
        assert {child.tag for child in element} <= children
        if children:
            assert not (element.text or "").strip()
    for suite in root.iter("testsuite"):
        for count, tag in (
            ("tests", "testcase"),
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            assert suite.get(count) == str(len(list(suite.iter(tag))))
    return root


def properties(element: ET.Element) -> dict[str, str]:
    return {each.attrib["name"]: each.attrib["value"] for each in element.findall("properties/property")}


def child(element: ET.Element, tag: str) -> ET.Element:
    """Return the one child of this tag."""
    (found,) = element.findall(tag)
    return found


def text_of(element: ET.Element, tag: str) -> str:
    """Return the text of the one child of this tag."""
    return child(element, tag).text or ""


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder.create(tmp_path, "example")


def run_one(
    results: ResultsFolder, observed: Verdict | None, expected: str = "conforms", **evidence: Any
) -> ET.Element:
    """Record a run of one scenario, not ended if ``observed`` is None; return its test case."""
    journal = results.journal()
    journal.plan([Entry(ONE.id, ONE.kind, ONE.title, ONE.requirements, Verdict(expected))])
    journal.run_started()
    if observed is not Verdict.NOT_REACHED:
        journal.started(ONE.id)
    if observed is not None and observed is not Verdict.NOT_REACHED:
        journal.ended(ONE.id, observed, **evidence)
    journal.run_ended()
    (case,) = load(junit.write(results.dir).read_bytes()).iter("testcase")
    return case


@pytest.mark.parametrize("name", ["mixed", "apply-failed", "killed"])
def test_document_equals_the_golden_file(name: str) -> None:
    document = junit.render(REPORTS / name)
    load(document)
    assert document.decode() == (REPORTS / name / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("observed", "expected", "verdict", "tag"),
    [
        (Verdict.CONFORMS, "conforms", "conforms", None),
        (Verdict.VIOLATES, "conforms", "violates", "failure"),
        (Verdict.VIOLATES, "violates", "violates", "failure"),
        (Verdict.CONFORMS, "violates", "unexpectedly-conforms", "failure"),
        (Verdict.NOT_APPLICABLE, "conforms", "not-applicable", "skipped"),
        (Verdict.NOT_REACHED, "conforms", "not-reached", "error"),
        (None, "conforms", "kernel-died", "failure"),
        (Verdict.KERNEL_DIED, "conforms", "kernel-died", "failure"),
        (Verdict.HARNESS_ERROR, "conforms", "harness-error", "error"),
    ],
)
def test_case_has_the_element_of_its_verdict(
    results: ResultsFolder, observed: Verdict | None, expected: str, verdict: str, tag: str | None
) -> None:
    case = run_one(results, observed, expected)
    assert [child.tag for child in case if child.tag not in ("properties", "system-out")] == (
        [tag] if tag else []
    )
    found = properties(case)
    assert (found["verdict"], found["expected"], found["requirements"]) == (
        verdict,
        expected,
        "MAP-01 MAP-13",
    )
    assert (case.get("classname"), case.get("name")) == ("suites.test_map", "test_one[edu-c]")


def test_expected_violation_says_so(results: ResultsFolder) -> None:
    case = run_one(results, Verdict.VIOLATES, "violates", reason="mmap() failed")
    assert child(case, "failure").get("message") == "mmap() failed (as expected)"


def test_suite_properties_say_what_was_tested(results: ResultsFolder) -> None:
    results.write_run(digest="ab" * 32, warnings=["a.c:1: one", "a.c:2: two"])
    run_one(results, Verdict.CONFORMS)
    found = properties(child(ET.parse(results.dir / "junit.xml").getroot(), "testsuite"))
    assert (found["series"], found["digest"], found["exit_code"]) == ("example", "ab" * 32, "0")
    assert found["warnings"] == "a.c:1: one\na.c:2: two"


def test_folder_without_a_plan_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(HarnessError):
        junit.write(tmp_path)
    assert not list(tmp_path.iterdir())


# Hostile content

HOSTILE = "\x1b[2J\x00 ]]> <&\"' \udcff\ud800 \ufffe\uffff \U0001fffe \ufdd0 \x85\x7f \u202e \r\n\r\t ä"
SPELLED = (
    r"""\x1b[2J\x00 ]]> <&"' \xff\ud800 \ufffe\uffff \U0001fffe \ufdd0 \x85\x7f \u202e """ + "\n\\x0d\t ä"
)


def test_hostile_text_is_spelled_out(results: ResultsFolder) -> None:
    results.write_run(title=HOSTILE, warnings=[HOSTILE])
    case = run_one(results, Verdict.VIOLATES, reason=HOSTILE, details=HOSTILE)
    assert child(case, "failure").get("message") == SPELLED
    assert text_of(case, "failure") == SPELLED
    found = properties(child(ET.parse(results.dir / "junit.xml").getroot(), "testsuite"))
    assert found["title"] == found["warnings"] == SPELLED


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec=None, categories=None)), raw=st.binary())
def test_any_text_makes_valid_xml(tmp_path_factory: pytest.TempPathFactory, text: str, raw: bytes) -> None:
    results = ResultsFolder.create(tmp_path_factory.mktemp("run"), text)
    transcript = results.transcript(text)
    transcript.write_bytes(raw)
    (results.dir / "console.log").write_bytes(raw)
    results.write_run(title=text, origin=text)
    console = ConsoleRange("console.log", 0, len(raw))
    case = run_one(
        results, Verdict.KERNEL_DIED, reason=text, details=text, transcript=transcript, console=console
    )
    if raw.strip():
        shown = visible(raw.decode("utf-8", "surrogateescape"))
        assert text_of(case, "system-out").count(shown) >= 2


def test_console_is_quoted_where_the_scenario_ran(results: ResultsFolder) -> None:
    console = results.dir / "console.log"
    console.write_bytes(b"before\n[1.0] BUG: \xff\r\nafter\n")
    case = run_one(results, Verdict.KERNEL_DIED, console=ConsoleRange("console.log", 7, 21))
    assert text_of(case, "system-out") == "--- console.log\n[1.0] BUG: \\xff\n"


def test_long_transcript_is_quoted_at_its_end(results: ResultsFolder) -> None:
    transcript = results.transcript(ONE.id)
    transcript.write_text("begin" + "x" * evidence.LIMIT + "end")
    said = text_of(run_one(results, Verdict.VIOLATES, transcript=transcript), "system-out")
    assert "(8 bytes left out)" in said
    assert said.endswith("xend")
    assert "begin" not in said


@pytest.mark.parametrize("name", ["../secret", "link", "missing", "transcripts"])
def test_file_outside_the_results_is_not_quoted(results: ResultsFolder, name: str) -> None:
    (results.dir.parent / "secret").write_text("hunter2")
    (results.dir / "link").symlink_to("../secret")
    case = run_one(results, Verdict.KERNEL_DIED, console=ConsoleRange(name, 0, 100))
    assert text_of(case, "system-out").endswith("(there is no such file in the results folder)")


def test_contradictory_journal_is_an_error_in_the_report(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([ONE])
    journal.started("suites/test_map.py::test_stray")
    document = load(junit.render(results.dir))
    assert [case.get("name") for case in document.iter("testcase")] == ["test_one[edu-c]", "test_stray"]
    assert [error.get("type") for error in document.iter("error")] == ["not-reached", "harness-error"]


def test_journal_without_facts_has_a_report(tmp_path: Path) -> None:
    JournalWriter(tmp_path).plan([ONE])
    load(junit.render(tmp_path))


@pytest.mark.parametrize(
    ("observed", "tags"),
    [
        # None of these verdicts would fail alone.
        (("conforms", "not-applicable", "conforms"), [None, "error", None]),
        (("not-applicable", "conforms", "not-applicable"), ["skipped", "error", "skipped"]),
        (("conforms", "violates", "conforms"), [None, "failure", None]),
        (("violates", "conforms"), ["failure", "error"]),
        (("conforms", "conforms"), [None, None]),
    ],
)
def test_repetitions_that_differ_are_errors(
    results: ResultsFolder, observed: tuple[str, ...], tags: list[str | None]
) -> None:
    journal = results.journal()
    entries = [
        replace(ONE, id=f"{ONE.id}{repetition_mark(n)}", repetition=n) for n, _ in enumerate(observed, 1)
    ]
    journal.plan(entries)
    journal.run_started()
    for entry, verdict in zip(entries, observed, strict=True):
        journal.started(entry.id)
        journal.ended(entry.id, Verdict(verdict))
    journal.run_ended()
    cases = list(load(junit.write(results.dir).read_bytes()).iter("testcase"))
    found = [next((e.tag for e in case if e.tag in ("failure", "error", "skipped")), None) for case in cases]
    assert found == tags
    assert [case.get("name") for case in cases][:2] == ["test_one[edu-c]", "test_one[edu-c] #2"]
    told = {properties(case).get("differs") for case in cases}
    assert (told == {None}) is (len(set(observed)) == 1)


@pytest.mark.parametrize(
    ("base", "tag", "origin"),
    [
        (BaseAnswer(Verdict.VIOLATES, "assert 1 == 2", "assert 1 == 2"), "skipped", "inherited"),
        (BaseAnswer(Verdict.CONFORMS), "failure", "new"),
        (BaseAnswer(Verdict.NOT_REACHED, "the base does not boot"), "failure", "not comparable"),
    ],
)
def test_violation_has_its_origin(results: ResultsFolder, base: BaseAnswer, tag: str, origin: str) -> None:
    journal = results.journal()
    journal.plan([ONE])
    journal.run_started()
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.VIOLATES, reason="assert 1 == 2", failure="assert 1 == 2")
    journal.compared(ONE.id, base)
    journal.run_ended()
    root = load(junit.write(results.dir).read_bytes())
    (case,) = root.iter("testcase")
    (suite,) = root.iter("testsuite")
    assert "assert 1 == 2" in child(case, tag).attrib["message"]
    assert properties(case)["verdict"] == "violates"
    assert properties(case)["origin"] == origin
    counts = {
        name: properties(suite)[f"violations.{name}"] for name in ("new", "inherited", "not comparable")
    }
    assert counts == {"new": "0", "inherited": "0", "not comparable": "0", origin: "1"}
    assert properties(suite)["exit_code"] == ("0" if origin == "inherited" else "1")
