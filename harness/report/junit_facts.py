"""The properties of a run and of its results in ``junit.xml``: facts and exact words."""

from __future__ import annotations

from collections.abc import Mapping

from harness.report.host_paths import HOST_FACTS
from harness.report.origins import origins
from harness.verdict.detector import sentences
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Kind


def suite_properties(record: Record, facts: Mapping[str, object], *, host_paths: bool) -> dict[str, str]:
    """Return what was tested and with what, by name; of the host alone only if asked."""
    left_out = ("mails", *(() if host_paths else HOST_FACTS))  # a CI system has no use for addresses
    told = {name: value for name, value in facts.items() if name not in left_out}
    properties: dict[str, object] = {"run": record.run, **told}
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
        name: "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in properties.items()
    }


def case_properties(result: Result, differs: str) -> dict[str, str]:
    """Return the exact words of a result, by name; ``differs`` is the tally of its repetitions, or empty."""
    properties = {"verdict": str(result.verdict), "expected": str(result.entry.expected)}
    if result.entry.title:
        properties["title"] = result.entry.title
    if result.entry.kind is Kind.SCENARIO:
        properties["requirements"] = " ".join(result.entry.requirements)
        properties["strength"] = result.entry.strength
    if (comparison := result.comparison) is not None:
        properties["origin"] = comparison.origin
        properties["base"] = comparison.reason
    if result.since is not None:
        properties["since"] = result.since.words
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
