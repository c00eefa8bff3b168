"""Write ``junit.xml``, the report for a CI system, from the results folder alone."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from junit_xml import TestCase, TestSuite

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.lib.files import write_atomically
from harness.lib.text import visible
from harness.report.evidence import excerpt, traces
from harness.report.origins import origins
from harness.report.repetitions import deviating, tally
from harness.verdict.case import Case
from harness.verdict.detector import sentences
from harness.verdict.record import Record, Result
from harness.verdict.verdict import SERIES_FAULTS, Kind, Verdict

JUNIT = "junit.xml"

_ERRORS = (Verdict.NOT_REACHED, Verdict.HARNESS_ERROR)


def write(directory: Path) -> Path:
    """Write ``junit.xml`` in the results folder ``directory`` and return its path.

    An older one is replaced.  Raises HarnessError if the folder holds no plan.
    """
    path = directory / JUNIT
    write_atomically(path, render(directory))
    return path


def render(directory: Path) -> bytes:
    """Return the XML document in UTF-8; it is valid whatever characters the guest printed.

    - A violation is a failure even if it was expected: the file reports what the kernel does.
    - A violation that the base has, too, is skipped: it fails no run, and its message says so.
    - A finding is passed.
    - The kernel's own test programs are a suite of their own: each program, and each result that
      it reported, is a test case.
    - If repetitions of a scenario differ, those with the less frequent verdicts are
      errors, unless they are failures.
    - The properties ``verdict``, ``expected``, ``strength``, ``differs`` and ``findings``
      of each test case hold the exact words; ``origin`` and ``base`` those of a violation that
      was compared with the base.

    Raises HarnessError if ``directory`` holds no plan.
    """
    record = read(directory)
    differs = {result.entry.id: tally(each) for each in record.differing.values() for result in each}
    outliers = {result.entry.id for each in record.differing.values() for result in deviating(each)}
    apart = [one for one in record.results if one.entry.kind is Kind.SELFTEST]
    others = [one for one in record.results if one.entry.kind is not Kind.SELFTEST]
    suites = [
        _suite(
            visible(f"patchproof.{record.run}"),
            record,
            [
                _test_case(one, directory, differs[one.entry.id] if one.entry.id in outliers else "")
                for one in others
            ],
            [_case_properties(one, differs.get(one.entry.id, "")) for one in others],
            _suite_properties(record, read_facts(directory)),
        )
    ]
    if apart:
        suites.append(_suite_of_selftests(record, apart, directory))
    names = ("tests", "failures", "errors")
    counts = {name: str(sum(int(one.get(name, 0)) for one in suites)) for name in names}
    seconds = sum(float(one.get("time", 0)) for one in suites)
    root = ET.Element("testsuites", {**counts, "time": f"{seconds:.6f}"})
    root.extend(suites)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _suite(
    name: str,
    record: Record,
    cases: list[TestCase],
    properties_of_cases: Iterable[Mapping[str, str]],
    properties: dict[str, str],
) -> ET.Element:
    """Return the element of a suite, whose cases have properties of their own."""
    suite = TestSuite(
        name,
        test_cases=cases,
        timestamp=visible(record.started[: len("2026-02-26T20:22:11")]),
        properties=properties,
    )
    element: ET.Element = suite.build_xml_doc()
    element.set("time", f"{float(element.get('time', 0)):.6f}")
    for case, pairs in zip(element.iter("testcase"), properties_of_cases, strict=True):
        # junit_xml has no properties of a test case.  They come first, as pytest writes them.
        case.insert(0, _properties(pairs))
    return element


def _suite_of_selftests(record: Record, programs: Sequence[Result], directory: Path) -> ET.Element:
    """Return the suite of the kernel's own test programs, and of the results that they reported."""
    reported = [(one, case) for one in programs for case in one.cases]
    return _suite(
        visible(f"patchproof.{record.run}.selftests"),
        record,
        [
            *(_test_case(one, directory, "") for one in programs),
            *(_reported_case(one, case) for one, case in reported),
        ],
        [
            *(_case_properties(one, "") for one in programs),
            *({"verdict": str(case.verdict)} for _, case in reported),
        ],
        {},
    )


def _reported_case(result: Result, case: Case) -> TestCase:
    """Return the test case of a result that a program reported; it shares the program's origin."""
    made = TestCase(visible(case.name), classname=visible(result.entry.id.replace("/", ".")))
    message = visible(case.reason.partition("\n")[0]) or str(case.verdict)
    details = visible(case.reason)
    if case.verdict is Verdict.NOT_APPLICABLE:
        made.add_skipped_info(message, details)
    elif case.verdict is Verdict.VIOLATES and result.inherited:
        made.add_skipped_info(f"inherited, as the base does the same: {message}", details)
    elif case.verdict is Verdict.VIOLATES:
        made.add_failure_info(message, details, case.verdict)
    return made


def _test_case(result: Result, directory: Path, deviation: str) -> TestCase:
    """Return the test case of a result.

    ``deviation`` is the tally of its repetitions if their most frequent verdict is another one.
    """
    entry = result.entry
    file, _, name = entry.id.rpartition("::")
    classname = file.removesuffix(".py").replace("/", ".").replace("::", ".") or entry.kind
    case = TestCase(visible(name), classname=visible(classname), elapsed_sec=result.duration)
    message = visible(result.reason) or f"{result.verdict}, where {entry.expected} was expected"
    if result.as_expected and result.verdict is entry.expected:
        message += " (as expected)"
    details = visible(result.details)
    if result.inherited:
        case.add_skipped_info(f"inherited, as the base does the same: {message}", details)
    elif result.verdict in SERIES_FAULTS and not result.is_finding:
        case.add_failure_info(message, details, result.verdict)
    elif result.verdict in _ERRORS and not result.is_finding:
        case.add_error_info(message, details, result.verdict)
    elif deviation:
        case.add_error_info(f"Most repetitions have another verdict: {deviation}", details, "differs")
    elif result.verdict is Verdict.NOT_APPLICABLE:
        case.add_skipped_info(message, details)
    if result.verdict in SERIES_FAULTS + _ERRORS:
        case.stdout = "\n".join(_evidence(result, directory))
    return case


def _suite_properties(record: Record, facts: Mapping[str, object]) -> dict[str, str]:
    properties: dict[str, object] = {"run": record.run, **facts}
    properties.pop("mails", None)  # a list of recipients is nothing for a CI system
    shown = {machine: found for machine, found in record.detectors.items() if found}
    properties |= {f"detector.{name}": words for name, words in sentences(shown).items()}
    if record.notes:
        properties["notes"] = list(record.notes)
    if record.interrupted:
        properties["interrupted"] = record.interrupted
    for origin, number in origins(record).items():
        properties[f"violations.{origin}"] = number
    properties["exit_code"] = int(record.exit_code)
    return {
        visible(name): visible("\n".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in properties.items()
    }


def _case_properties(result: Result, differs: str) -> dict[str, str]:
    properties = {"verdict": str(result.verdict), "expected": str(result.entry.expected)}
    if result.entry.title:
        properties["title"] = result.entry.title
    if result.entry.kind is Kind.SCENARIO:
        properties["requirements"] = " ".join(result.entry.requirements)
        properties["strength"] = result.entry.strength
    if (comparison := result.comparison) is not None:
        properties["origin"] = comparison.origin
        properties["base"] = comparison.reason
    if differs:
        properties["differs"] = differs
    if result.findings:
        properties["findings"] = "\n".join(result.findings)
    if result.complaints:
        lines = (f"{one.fingerprint} {one.kind} {one.title}" for one in result.complaints)
        properties["complaints"] = "\n".join(lines)
    if result.transcript:
        properties["transcript"] = result.transcript
    return properties


def _properties(pairs: Mapping[str, str]) -> ET.Element:
    element = ET.Element("properties")
    for name, value in pairs.items():
        ET.SubElement(element, "property", {"name": name, "value": visible(value)})
    return element


def _evidence(result: Result, directory: Path) -> list[str]:
    """Return the call traces of a result's splats, and the ends of its transcript and console output."""
    parts = list(traces(result, directory).items())
    if result.transcript:
        parts.append((result.transcript, excerpt(directory, result.transcript)))
    if result.console is not None:
        span = result.console
        parts.append((span.file, excerpt(directory, span.file, span.start, span.end)))
    return [f"--- {visible(name)}\n{text}" for name, text in parts if text]
