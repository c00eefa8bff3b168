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
from collections.abc import Callable
from pathlib import Path

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
from harness.verdict.record import Record, Result
from harness.verdict.verdict import SERIES_FAULTS, STAGES, Kind, Verdict

JUNIT = "junit.xml"
PROGRAM = "patchproof"
RUN = "run"  # the test case that says whether the run came to its own end

_Words = Callable[[str], str]


def write(directory: Path) -> Path:
    """Write ``junit.xml`` in the results folder ``directory`` and return its path.

    An older one is replaced.  Raises HarnessError if the folder holds no plan.
    """
    path = directory / JUNIT
    write_atomically(path, render(directory))
    return path


def render(directory: Path, *, host_paths: bool = False) -> bytes:
    """Return the XML document in UTF-8; it is valid whatever characters the guest printed.

    - A violation is a failure even if it was expected: the file reports what the kernel does.
    - A violation that the base has, too, is skipped: it fails no run, and its message says so.
    - A finding is passed.
    - What was not reached is skipped, with one short line.  It was not tested, so it neither failed nor
      went wrong, and hundreds of errors would hide the stage that is one.  The document is not green
      for that: the stage is a failure or an error, or else the test case ``run`` is an error.
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
    document.add_properties(suite_properties(record, facts, host_paths=host_paths))
    xml: bytes = ET.tostring(document.finish(), encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


class _Document:
    """The document of a run; ``words`` makes any text fit for it."""

    def __init__(self, record: Record, directory: Path, words: _Words) -> None:
        self._record = record
        self._directory = directory
        self._words = words
        self._suites: dict[str, ET.Element] = {}
        self._titles = requirements.load().groups
        for name in ("stages", *self._titles):
            self._suite(name)
        differing = record.differing.values()
        self._differs = {one.entry.id: tally(each) for each in differing for one in each}
        self._outliers = {one.entry.id for each in differing for one in deviating(each)}
        for result in record.results:
            self._add(result)
        self._add_run()

    def add_properties(self, properties: dict[str, str]) -> None:
        """Add the properties of the run, to the first suite."""
        self._suites["stages"].insert(0, self._properties(properties))

    def finish(self) -> ET.Element:
        """Return the root, with the counts of each suite that has a test case."""
        root = ET.Element("testsuites", {"name": PROGRAM})
        root.extend(suite for suite in self._suites.values() if suite.find("testcase") is not None)
        for suite in root:
            suite.attrib |= _counts(suite)
            # The schema of Jenkins has this number for a suite, and not for all together.
            suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
            if self._record.started:
                suite.set("timestamp", self._words(self._record.started[: len("2026-02-26T20:22:11")]))
        root.attrib |= _counts(root)
        ET.indent(root)
        return root

    def _suite(self, name: str) -> ET.Element:
        if name not in self._suites:
            suite = self._suites[name] = ET.Element("testsuite", {"name": f"{PROGRAM}.{self._words(name)}"})
            if name in self._titles:
                suite.append(self._properties({"title": self._titles[name]}))
        return self._suites[name]

    def _add(self, result: Result) -> None:
        """Add the test case of a result, and those of the results that a test program reported."""
        entry = result.entry
        case = self._case(*_place(result))
        if entry.kind is Kind.SCENARIO:
            case.set("file", self._words(entry.id.partition("::")[0]))
        if result.duration is not None:
            case.set("time", f"{result.duration:.3f}")
        differs = self._differs.get(entry.id, "")
        case.append(self._properties(case_properties(result, differs)))
        self._judge(case, result, differs if entry.id in self._outliers else "")
        for one in result.cases:
            self._add_reported(result, one)

    def _judge(self, case: ET.Element, result: Result, deviation: str) -> None:
        """Add the outcome of a result, unless it is passed.

        ``deviation`` is the tally of its repetitions if their most frequent verdict is another one.
        """
        verdict, said = result.verdict, headline(result)
        if result.as_expected and verdict is result.entry.expected:
            said += " (as expected)"
        if result.inherited:
            self._outcome(case, "skipped", verdict, f"inherited, as the base does the same: {said}", result)
        elif verdict is Verdict.NOT_REACHED:
            self._outcome(case, "skipped", verdict, f"not reached: {result.reason}")
        elif verdict in SERIES_FAULTS and not result.is_finding:
            self._outcome(case, "failure", verdict, said, result)
        elif verdict is Verdict.HARNESS_ERROR and not result.is_finding:
            self._outcome(case, "error", verdict, said, result)
        elif deviation:
            said = f"Most repetitions have another verdict: {deviation}"
            self._outcome(case, "error", "differs", said, result)
        elif verdict is Verdict.NOT_APPLICABLE:
            self._outcome(case, "skipped", verdict, result.reason)

    def _add_reported(self, result: Result, reported: Case) -> None:
        """Add the test case of a result that a program reported; it shares the program's origin."""
        program = result.entry.id.removeprefix("selftests/").replace("/", ".")
        case = self._case("selftests", f"selftests.{program}", reported.name)
        case.append(self._properties({"verdict": reported.verdict}))
        message = reported.reason.partition("\n")[0] or str(reported.verdict)
        if reported.verdict is Verdict.NOT_APPLICABLE:
            self._outcome(case, "skipped", reported.verdict, message)
        elif reported.verdict is Verdict.VIOLATES:
            tag = "skipped" if result.inherited else "failure"
            prefix = "inherited, as the base does the same: " if result.inherited else ""
            text = f"{result.entry.id}: {reported.name}\n{reported.reason}"
            self._outcome(case, tag, reported.verdict, f"{prefix}{message}", text=text)

    def _add_run(self) -> None:
        """Add the test case of the run itself: an error if it was cut off, or nothing else shows it."""
        record = self._record
        left = sum(one.verdict is Verdict.NOT_REACHED for one in record.results)
        red = any(
            case.find(tag) is not None
            for suite in self._suites.values()
            for case in suite.iter("testcase")
            for tag in ("failure", "error")
        )
        case = self._case("stages", "stages", RUN)
        if record.interrupted:
            message = f"The run was interrupted ({record.interrupted})."
        elif not record.complete:
            message = "The run did not come to its own end: it goes on, was killed, or its disk is full."
        elif left and not red:
            message = "The run ended before everything was tested."
        else:
            message = ""
        verdict = Verdict.HARNESS_ERROR if message else Verdict.CONFORMS
        case.append(self._properties({"verdict": verdict, "expected": Verdict.CONFORMS}))
        if message:
            if left:
                message += f" Not reached: {left} of {counted(len(record.results), 'test')}."
            self._outcome(case, "error", verdict, message)

    def _case(self, suite: str, classname: str, name: str) -> ET.Element:
        attributes = {"classname": f"{PROGRAM}.{self._words(classname)}", "name": self._words(name)}
        return ET.SubElement(self._suite(suite), "testcase", attributes)

    def _outcome(
        self, case: ET.Element, tag: str, kind: str, message: str, of: Result | None = None, text: str = ""
    ) -> None:
        """Add an outcome: a message of one line, and the text of a result, or else this one."""
        line = " ".join(self._words(message).split())
        element = ET.SubElement(case, tag, {"type": kind, "message": line})
        told = failure_text(of, self._directory) if of is not None else text
        element.text = self._words(told) or line

    def _properties(self, pairs: dict[str, str]) -> ET.Element:
        element = ET.Element("properties")
        for name, value in pairs.items():
            ET.SubElement(element, "property", {"name": self._words(name), "value": self._words(value)})
        return element


def _place(result: Result) -> tuple[str, str, str]:
    """Return the suite of a result, and the classname and name of its test case."""
    entry = result.entry
    if entry.kind in STAGES and "::" not in entry.id:
        return "stages", "stages", entry.id
    if entry.kind is Kind.MACHINE:
        return "machines", "machines", entry.id
    if entry.kind is Kind.SELFTEST:
        return "selftests", "selftests", entry.id
    group = entry.requirements[0].partition("-")[0] if entry.requirements else "others"
    file, _, name = entry.id.rpartition("::")
    module = file.removeprefix("suites/").removesuffix(".py").replace("/", ".").replace("::", ".")
    return group, f"{group}.{module}" if module else group, name


def _counts(element: ET.Element) -> dict[str, str]:
    """Return the counts and the time of a suite, or of all."""
    cases = list(element.iter("testcase"))
    found = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error")}
    seconds = sum(float(case.get("time", 0)) for case in cases)
    return {
        "tests": str(len(cases)),
        "failures": str(found["failure"]),
        "errors": str(found["error"]),
        "time": f"{seconds:.3f}",
    }
