"""Write ``junit.xml``, the report for a CI system, from the results folder alone.

The document is made for its readers:

- **Flat suites.**  Each requirement group is a suite (``patchproof.REV``), and so are the stages, the
  machines, and the kernel's own test programs.  dorny/test-reporter ignores nested suites, and GitLab
  and Jenkins flatten them.
- **Stable keys.**  GitLab knows a test by suite, classname and name; Jenkins by classname and name.  None of
  these has the time of the run, its series or a title.  The run's name is a property of the stages.
- **classname** is suite and file (``patchproof.REV.test_revoke``): Jenkins groups by the part before the last
  dot, GitLab, dorny/test-reporter and junit2html by the whole.
- **file** (``suites/test_revoke.py``) is what GitLab links to, and where mikepenz/action-junit-report
  puts an annotation.
- **The text** of a failure has all that is known (``harness.report.failure_text``): GitLab shows nothing
  else, neither the attribute ``message`` nor ``system-out``.  ``message`` is its first line.

The document is valid under the schema of Jenkins (junit-10.xsd), but for two things which every reader
ignores or understands: that schema gives a test case neither ``properties`` nor ``file``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path

from junit_xml import TestCase, TestSuite

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.lib.files import write_atomically
from harness.lib.text import counted, visible
from harness.report.failure_text import failure_text, headline
from harness.report.host_paths import hider
from harness.report.junit_facts import case_properties, suite_properties
from harness.report.repetitions import deviating, tally
from harness.verdict import requirements
from harness.verdict.case import Case
from harness.verdict.interruption import how
from harness.verdict.record import Record, Result
from harness.verdict.verdict import SERIES_FAULTS, STAGES, Kind, Verdict

JUNIT = "junit.xml"
PROGRAM = "patchproof"
STAGES_SUITE = "stages"
RUN = "run"  # the test case that says whether the run came to its own end

_Words = Callable[[str], str]
_Properties = Mapping[str, str]


def write(directory: Path) -> Path:
    """Write ``junit.xml`` in the results folder ``directory`` and return its path.

    An older one is replaced.  Raises HarnessError if the folder holds no plan.
    """
    path = directory / JUNIT
    write_atomically(path, render(directory))
    return path


def render(directory: Path, *, host_paths: bool = False) -> bytes:
    """Return the XML document in UTF-8; it is valid whatever characters the guest printed.

    A run whose exit code is 1, 2 or 130 has a failure or an error in the document.

    - A violation is a failure, even one that the manifest expects, which says so: the document reports
      what the kernel does.  One that the base has, too, is skipped: it is not the series' fault.
    - A finding is passed.
    - What was not reached is an error, with one short line that names the stage.
    - The test case ``run`` is an error if the run was cut off.
    - The kernel's own test programs are a suite of their own: each program, and each result that
      it reported, is a test case.
    - If repetitions of a scenario differ, those with the less frequent verdicts are
      errors, unless they are failures.
    - The properties ``verdict``, ``expected``, ``strength``, ``differs`` and ``findings``
      of each test case hold the exact words; ``origin`` and ``base`` those of a violation that
      was compared with the base.
    - The host's paths are shortened to their last part, unless ``host_paths`` asks for them.

    Raises HarnessError if ``directory`` holds no plan.
    """
    record = read(directory)
    facts = read_facts(directory)
    hide = (lambda text: text) if host_paths else hider(record, facts)
    document = _Document(record, directory, lambda text: hide(visible(text)))
    root = document.root(suite_properties(record, facts, host_paths=host_paths))
    ET.indent(root)
    xml: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


class _Document:
    """The test cases of a run, by suite; ``words`` makes any text fit for the document."""

    def __init__(self, record: Record, directory: Path, words: _Words) -> None:
        self._record = record
        self._directory = directory
        self._words = words
        self._titles = requirements.load().groups
        self._suites: dict[str, list[tuple[TestCase, _Properties]]] = {
            name: [] for name in (STAGES_SUITE, *self._titles)
        }
        differing = record.differing.values()
        self._differs = {one.entry.id: tally(each) for each in differing for one in each}
        self._outliers = {one.entry.id for each in differing for one in deviating(each)}
        for result in record.results:
            self._add(result)
        self._add_run()

    def root(self, properties: _Properties) -> ET.Element:
        """Return the root element; the suite of the stages has the ``properties`` of the run."""
        root = ET.Element("testsuites", {"name": PROGRAM})
        for name, cases in self._suites.items():
            if cases:
                title = {"title": self._titles[name]} if name in self._titles else {}
                root.append(self._suite(name, cases, properties if name == STAGES_SUITE else title))
        for count in ("tests", "failures", "errors"):
            root.set(count, str(sum(int(suite.attrib[count]) for suite in root)))
        root.set("time", f"{sum(float(suite.attrib['time']) for suite in root):.3f}")
        return root

    def _suite(
        self, name: str, cases: list[tuple[TestCase, _Properties]], properties: _Properties
    ) -> ET.Element:
        suite = TestSuite(
            f"{PROGRAM}.{self._words(name)}",
            [case for case, _ in cases],
            timestamp=self._words(self._record.started[: len("2026-02-26T20:22:11")]),
            properties={self._words(each): self._words(value) for each, value in properties.items()},
        )
        element: ET.Element = suite.build_xml_doc()
        # The schema of Jenkins has no number of disabled tests, and at most milliseconds.
        del element.attrib["disabled"]
        element.set("time", f"{float(element.attrib['time']):.3f}")
        for case, (_, pairs) in zip(element.iter("testcase"), cases, strict=True):
            # junit_xml has no properties of a test case.  They come first, as pytest writes them.
            told = ET.Element("properties")
            for each, value in pairs.items():
                ET.SubElement(told, "property", {"name": each, "value": self._words(value)})
            case.insert(0, told)
        return element

    def _add(self, result: Result) -> None:
        """Add the test case of a result, and those of the results that a test program reported."""
        entry = result.entry
        suite, classname, name = _place(result)
        differs = self._differs.get(entry.id, "")
        case = self._case(suite, classname, name, case_properties(result, differs))
        case.elapsed_sec = result.duration
        if entry.kind is Kind.SCENARIO:
            case.file = self._words(entry.id.partition("::")[0])
        self._judge(case, result, differs if entry.id in self._outliers else "")
        for one in result.cases:
            self._add_reported(result, one)

    def _judge(self, case: TestCase, result: Result, deviation: str) -> None:
        """Add the outcome of a result, unless it is passed.

        ``deviation`` is the tally of its repetitions if their most frequent verdict is another one.
        """
        verdict, said = result.verdict, headline(result)
        faulty = result.ended and verdict in SERIES_FAULTS and not result.is_finding
        if faulty and not result.inherited:
            expected = "as expected: " if result.as_expected else ""
            self._tell(case.add_failure_info, expected + said, self._text(result), verdict)
        elif (verdict is Verdict.HARNESS_ERROR and not result.is_finding) or result.left_open:
            self._tell(case.add_error_info, said, self._text(result), verdict)
        elif deviation:
            said = f"Most repetitions have another verdict: {deviation}"
            self._tell(case.add_error_info, said, self._text(result), "differs")
        elif faulty:
            inherited = f"inherited, as the base does the same: {said}"
            self._tell(case.add_skipped_info, inherited, self._text(result))
        elif verdict is Verdict.NOT_REACHED:
            self._tell(case.add_error_info, f"not reached: {result.reason}", "", verdict)
        elif verdict is Verdict.NOT_APPLICABLE:
            self._tell(case.add_skipped_info, result.reason.strip() or verdict)

    def _add_reported(self, result: Result, reported: Case) -> None:
        """Add the test case of a result that a program reported; it shares the program's origin."""
        program = result.entry.id.removeprefix("selftests/").replace("/", ".")
        properties = {"verdict": reported.verdict}
        case = self._case("selftests", f"selftests.{program}", reported.name, properties)
        message = reported.reason.strip().partition("\n")[0] or str(reported.verdict)
        text = f"{result.entry.id}: {reported.name}\n{reported.reason}"
        if reported.verdict is Verdict.NOT_APPLICABLE:
            self._tell(case.add_skipped_info, message)
        elif reported.verdict is Verdict.VIOLATES and result.inherited:
            self._tell(case.add_skipped_info, f"inherited, as the base does the same: {message}", text)
        elif reported.verdict is Verdict.VIOLATES:
            self._tell(case.add_failure_info, message, text, reported.verdict)

    def _add_run(self) -> None:
        """Add the test case of the run itself: an error if it was cut off, or said nothing of the kernel."""
        record = self._record
        left = sum(one.verdict is Verdict.NOT_REACHED for one in record.results)
        if record.interrupted:
            message = f"The run {how(record.interrupted)}."
        elif not record.complete:
            message = "The run did not come to its own end: it goes on, was killed, or its disk is full."
        elif record.nothing_said:
            message = "No scenario gave a verdict on the kernel."
        else:
            message = ""
        verdict = Verdict.HARNESS_ERROR if message else Verdict.CONFORMS
        properties = {"verdict": verdict, "expected": Verdict.CONFORMS}
        case = self._case(STAGES_SUITE, STAGES_SUITE, RUN, properties)
        if message and left:
            message += f" Not reached: {left} of {counted(len(record.results), 'test')}."
        if message:
            self._tell(case.add_error_info, message, "", verdict)

    def _case(self, suite: str, classname: str, name: str, properties: _Properties) -> TestCase:
        """Add a test case to a suite, without an outcome."""
        case = TestCase(self._words(name), f"{PROGRAM}.{self._words(classname)}")
        self._suites.setdefault(suite, []).append((case, properties))
        return case

    def _text(self, result: Result) -> str:
        return failure_text(result, self._directory)

    def _tell(self, add: Callable[..., object], message: str, text: str = "", *kind: str) -> None:
        """Add an outcome by a method of TestCase: a message of one line, and the text, or that line again."""
        line = " ".join(self._words(message).split())
        add(line, self._words(text) or line, *kind)


def _place(result: Result) -> tuple[str, str, str]:
    """Return the suite of a result, and the classname and name of its test case."""
    entry = result.entry
    if entry.kind in STAGES and "::" not in entry.id:
        return STAGES_SUITE, STAGES_SUITE, entry.id
    if entry.kind is Kind.MACHINE:
        return "machines", "machines", entry.id
    if entry.kind is Kind.SELFTEST:
        return "selftests", "selftests", entry.id
    if entry.kind is Kind.PATCH:
        return "patches", "patches", entry.id
    group = entry.requirements[0].partition("-")[0] if entry.requirements else "others"
    file, _, name = entry.id.rpartition("::")
    module = file.removeprefix("suites/").removesuffix(".py").replace("/", ".").replace("::", ".")
    return group, f"{group}.{module}" if module else group, name
