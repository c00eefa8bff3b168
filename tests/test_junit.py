"""junit.xml: the element of each verdict, and valid XML for any text."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import junitparser
import pytest
import xmlschema
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from junit2htmlreport import runner as junit2html
from reported_run import posted, record

from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.paths import PROJECT
from harness.report import junit
from harness.verdict.comparison import BaseAnswer
from harness.verdict.record import ConsoleRange, Entry, repetition_mark
from harness.verdict.verdict import Kind, Strength, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
ONE = Entry("suites/test_map.py::test_one[edu-c]", Kind.SCENARIO, "one", ("MAP-01", "MAP-13"))

# The outcomes of a test case; without one it is passed.
OUTCOMES = ("failure", "error", "skipped")
SCHEMA = xmlschema.XMLSchema(Path(__file__).parent / "data" / "junit.xsd")


def load(document: bytes) -> ET.Element:
    """Parse the document; check it against the schema of Jenkins, and its counts against its cases."""
    bare = ET.fromstring(document)
    for case in bare.iter("testcase"):
        # That schema has neither: see harness.report.junit.
        case.attrib.pop("file", None)
        for element in case.findall("properties"):
            case.remove(element)
    SCHEMA.validate(bare)
    root = ET.fromstring(document)
    for suite in (root, *root.iter("testsuite")):
        for count, tag in (("tests", "testcase"), *((f"{tag}s", tag) for tag in OUTCOMES[:2])):
            assert suite.get(count) == str(len(list(suite.iter(tag))))
    keys = gitlab_keys(root)
    assert len(set(keys)) == len(keys)
    return root


def gitlab_keys(root: ET.Element) -> list[str]:
    """Return the key by which GitLab knows each test in all runs."""
    return [
        hashlib.sha256(f"{suite.get('name')}_{case.get('classname')}_{case.get('name')}".encode()).hexdigest()
        for suite in root.iter("testsuite")
        for case in suite.iter("testcase")
    ]


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
    (case,) = scenarios(load(junit.write(results.dir).read_bytes()))
    return case


def scenarios(root: ET.Element) -> list[ET.Element]:
    """Return the test cases without those of the stages."""
    return [case for case in root.iter("testcase") if case.get("classname") != "patchproof.stages"]


def outcome(case: ET.Element) -> str | None:
    """Return the tag of the outcome, None for a test case that passed."""
    tags = [each.tag for each in case if each.tag in OUTCOMES]
    assert len(tags) <= 1
    return tags[0] if tags else None


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
        (None, "conforms", "kernel-died", "error"),
        (Verdict.KERNEL_DIED, "conforms", "kernel-died", "failure"),
        (Verdict.HARNESS_ERROR, "conforms", "harness-error", "error"),
    ],
)
def test_case_has_the_element_of_its_verdict(
    results: ResultsFolder, observed: Verdict | None, expected: str, verdict: str, tag: str | None
) -> None:
    case = run_one(results, observed, expected)
    assert outcome(case) == tag
    found = properties(case)
    assert (found["verdict"], found["expected"], found["requirements"]) == (
        verdict,
        expected,
        "MAP-01 MAP-13",
    )
    assert case.get("classname") == "patchproof.MAP.test_map"
    assert case.get("name") == "test_one[edu-c]"
    assert case.get("file") == "suites/test_map.py"


def test_expected_violation_says_so(results: ResultsFolder) -> None:
    case = run_one(results, Verdict.VIOLATES, "violates", reason="mmap() failed")
    assert child(case, "failure").get("message") == "as expected: MAP-01 MAP-13: one. mmap() failed"
    assert text_of(case, "failure").startswith("MAP-01 MAP-13: one. mmap() failed")


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
    case = run_one(results, Verdict.VIOLATES, reason=f"{HOSTILE}\n{HOSTILE}")
    (first, second) = SPELLED.split("\n")
    line = f"MAP-01 MAP-13: one. {first.strip()}"
    assert child(case, "failure").get("message") == line
    assert text_of(case, "failure").startswith(f"{line}\n{second}\n{first}\n")
    found = properties(child(ET.parse(results.dir / "junit.xml").getroot(), "testsuite[1]"))
    assert found["title"] == found["warnings"] == SPELLED


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    assert text_of(case, "failure").startswith("MAP-01 MAP-13: one.")


def test_suite_of_stages_says_what_was_tested(results: ResultsFolder) -> None:
    results.write_run(digest="ab" * 32, warnings=["a.c:1: one", "a.c:2: two"])
    run_one(results, Verdict.CONFORMS)
    stages, _ = ET.parse(results.dir / "junit.xml").getroot()
    assert stages.get("name") == "patchproof.stages"
    found = properties(stages)
    assert (found["series"], found["digest"], found["exit_code"]) == ("example", "ab" * 32, "0")
    assert found["warnings"] == "a.c:1: one\na.c:2: two"
    assert found["run"] == results.dir.name


# Suites, keys, and what was not reached


def test_addresses_of_the_mails_are_left_out(tmp_path: Path) -> None:
    document = junit.render(record(posted(tmp_path)), host_paths=True).decode()
    assert "0@example.org" in document  # the Message-ID
    assert "bob@example.org" not in document


def test_keys_are_the_same_in_every_run(tmp_path: Path) -> None:
    folders = [tmp_path / "example-20260226T202211Z", tmp_path / "example-20260227T101010Z"]
    for folder in folders:
        shutil.copytree(REPORTS / "mixed", folder)
        plan = (folder / "plan.json").read_text()
        (folder / "plan.json").write_text(plan.replace("example-20260226T202211Z", folder.name))
    first, second = (load(junit.render(folder)) for folder in folders)
    assert gitlab_keys(first) == gitlab_keys(second)
    told = [properties(root[0])["run"] for root in (first, second)]
    assert told == [folder.name for folder in folders]


def test_names_of_scenarios_are_the_same_in_every_process() -> None:
    """A parameter that prints an address, or comes from a set, would be another test in every run."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "suites"]
    names = [
        subprocess.run(
            collect,
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.partition("\n\n")[0]
        for seed in ("1", "2")
    ]
    assert names[0].count("::test_") > 700
    assert names[0] == names[1]


def test_each_requirement_group_is_a_suite() -> None:
    root = load(junit.render(REPORTS / "mixed"))
    names = [suite.get("name") for suite in root]
    assert names == ["patchproof.stages", "patchproof.MAP", "patchproof.REV", "patchproof.ATTR"]
    assert properties(root[1])["title"] == "mapping a DMABUF"
    for suite in root[1:]:
        assert all(
            case.get("classname", "").startswith(f"{suite.get('name')}.") for case in suite.iter("testcase")
        )


def test_failed_stage_is_the_only_failure(tmp_path: Path) -> None:
    root = load(junit.render(REPORTS / "apply-failed"))
    (failure,) = (case for case in root.iter("testcase") if outcome(case) == "failure")
    assert failure.get("name") == "apply"
    assert text_of(failure, "failure").startswith("apply: The patch 0002-vfio-pci-mmap.patch does not apply")
    errors = {text_of(case, "error") for case in root.iter("testcase") if outcome(case) == "error"}
    assert errors == {"not reached: The run did not get past the stage apply (violates)."}


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("killed", "The run did not come to its own end"),
        ("interrupted", "The run was interrupted by Ctrl-C (SIGINT). Not reached: 1 of 2 tests."),
    ],
)
def test_unfinished_run_is_never_green(results: ResultsFolder, end: str, message: str) -> None:
    journal = results.journal()
    journal.plan([ONE, replace(ONE, id=f"{ONE.id}-two")])
    journal.run_started()
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.CONFORMS)
    if end == "interrupted":
        journal.interrupted("SIGINT")
        journal.run_ended()
    root = load(junit.render(results.dir))
    (run,) = (case for case in root.iter("testcase") if case.get("name") == junit.RUN)
    assert message in text_of(run, "error")
    assert [outcome(case) for case in scenarios(root)] == [None, "error"]


SAME = BaseAnswer(Verdict.VIOLATES, "it", "it")
FINE = (Verdict.CONFORMS, "conforms", Strength.MUST, True, None)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from(Verdict),  # not-reached: it is not started
            st.sampled_from(["conforms", "violates", "kernel-died", "not-applicable"]),
            st.sampled_from(Strength),
            st.booleans(),  # whether it ends
            st.sampled_from([None, SAME, BaseAnswer(Verdict.CONFORMS)]),
        ),
        min_size=1,
        max_size=4,
    ),
    repeated=st.booleans(),
    end=st.sampled_from(["run_ended", "interrupted", "killed"]),
)
@example([FINE, FINE, (Verdict.VIOLATES, "conforms", Strength.MUST, True, SAME)], True, "run_ended")
def test_report_of_a_run_that_fails_is_red(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[Verdict, str, Strength, bool, BaseAnswer | None]],
    repeated: bool,
    end: str,
) -> None:
    journal = JournalWriter(tmp_path_factory.mktemp("run"))
    ids = [
        f"{ONE.id}{repetition_mark(n)}" if repeated else f"{ONE.id}{n}" for n in range(1, len(entries) + 1)
    ]
    journal.plan(
        replace(
            ONE, id=name, expected=Verdict(expected), strength=strength, repetition=number if repeated else 1
        )
        for number, (name, (_, expected, strength, _, _)) in enumerate(zip(ids, entries, strict=True), 1)
    )
    journal.run_started()
    for name, (observed, _, _, ends, base) in zip(ids, entries, strict=True):
        if observed is Verdict.NOT_REACHED:
            continue
        journal.started(name)
        if ends and observed is not Verdict.UNEXPECTEDLY_CONFORMS:
            journal.ended(name, observed, failure="it")
            if base is not None:
                journal.compared(name, base)
    if end == "interrupted":
        journal.interrupted("SIGINT")
    if end != "killed":
        journal.run_ended()
    root = load(junit.render(journal.directory))
    red = any(outcome(case) in ("failure", "error") for case in root.iter("testcase"))
    assert red or read(journal.directory).exit_code in (ExitCode.OK, ExitCode.NOTHING_APPLICABLE)


def test_finding_is_passed(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([replace(ONE, strength=Strength.INFO)])
    journal.run_started()
    journal.started(ONE.id)
    journal.ended(ONE.id, Verdict.VIOLATES, reason="it differs")
    journal.run_ended()
    (case,) = scenarios(load(junit.render(results.dir)))
    assert outcome(case) is None
    assert properties(case)["findings"] == "violates: one (it differs)"


# The readers


def test_junitparser_reads_names_and_outcomes(tmp_path: Path) -> None:
    document = junitparser.JUnitXml.fromfile(str(junit_of("mixed", tmp_path)))
    assert (document.tests, document.failures, document.errors) == (17, 4, 3)
    cases = {case.name: (suite.name, case) for suite in document for case in suite}
    suite, case = cases["test_mmap_succeeds[ram-c]"]
    assert (suite, case.classname) == ("patchproof.MAP", "patchproof.MAP.test_map")
    (failure,) = case.result
    assert isinstance(failure, junitparser.Failure)
    assert failure.message == "MAP-01 MAP-13: A DMABUF of a BAR can be mapped. mmap() failed with EINVAL"
    assert failure.text.startswith(f"{failure.message}\n")
    assert cases["test_private_is_refused[edu-c]"][1].is_skipped
    assert cases["test_mmap_succeeds[edu-c]"][1].is_passed


def test_junit2html_groups_by_requirement(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    junit2html.run([str(junit_of("mixed", tmp_path)), str(page)])
    text = page.read_text()
    for part in ("patchproof.MAP.test_map", "patchproof.REV.test_revoke", "patchproof.stages"):
        assert part in text
    assert "MAP-01 MAP-13: A DMABUF of a BAR can be mapped. mmap() failed with EINVAL" in text
    assert "\x1b" not in text


def junit_of(name: str, folder: Path) -> Path:
    """Return the path of a copy of a golden file, as its readers decide by the name."""
    return Path(shutil.copy(REPORTS / name / "junit.xml", folder / f"{name}.xml"))


def test_contradictory_journal_is_an_error_in_the_report(results: ResultsFolder) -> None:
    journal = results.journal()
    journal.plan([ONE])
    journal.started("suites/test_map.py::test_stray")
    document = load(junit.render(results.dir))
    outcomes = {str(case.get("name")): outcome(case) for case in scenarios(document)}
    assert outcomes == {"test_one[edu-c]": "error", "test_stray": "error"}


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
    cases = scenarios(load(junit.write(results.dir).read_bytes()))
    assert [outcome(case) for case in cases] == tags
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
    (case,) = scenarios(root)
    suite = root[0]
    assert "assert 1 == 2" in child(case, tag).attrib["message"]
    assert properties(case)["verdict"] == "violates"
    assert properties(case)["origin"] == origin
    counts = {
        name: properties(suite)[f"violations.{name}"] for name in ("new", "inherited", "not comparable")
    }
    assert counts == {"new": "0", "inherited": "0", "not comparable": "0", origin: "1"}
    assert properties(suite)["exit_code"] == ("0" if origin == "inherited" else "1")
