"""Put the page of a run together, and write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.journal import plan_file
from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.lib.files import write_atomically
from harness.lib.text import one_line
from harness.report import generated_mutants, line_coverage, selftests
from harness.report.causes import Cause, causes, grouped, is_fault
from harness.report.host_paths import hider
from harness.report.html import matrix_map, prefix_page, tested
from harness.report.html.answer import answer
from harness.report.html.environment import Room, environment, showing
from harness.report.html.marks import EXPECTED, Mark, mark
from harness.report.html.violation import Evidence, File, Violation, link
from harness.report.origins import origins_sentence
from harness.report.prefixes import load, of_run
from harness.report.repetitions import tally
from harness.verdict.detector import sentences
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Kind, Verdict

REPORT = "report.html"
QUOTED = 600_000  # bytes of transcripts, stacks and consoles on the page
TEXTS = 700_000  # bytes of long texts on the page; stacks and consoles count here as well
CASES = 200  # results of one of the kernel's own test programs
BLOCKS = 150  # results whose evidence stands on the page; the others have a link to their files
PER_CAUSE = 8
CAUSES = 100
FAULTS = 300  # that survived, or could not be tried
FILES = (
    "junit.xml",
    "run.json",
    "events.jsonl",
    ".config",
    "apply.log",
    "build.log",
    "console.log",
    "qemu.txt",
)


def write(directory: Path) -> Path:
    """Write ``report.html`` in the results folder ``directory`` and return its path.

    An older one is replaced.  Raises HarnessError if the folder holds no plan.
    """
    path = directory / REPORT
    write_atomically(path, render(directory))
    return path


def render(directory: Path) -> str:
    """Return the page of the results folder ``directory``: one HTML document without a script.

    A folder of the command ``prefixes``, which holds a results folder for each prefix, has a page, too.
    Links to files are relative to the results folder.  Raises HarnessError if the folder holds no plan.
    """
    if (found := load(directory)) is not None and not (directory / plan_file.PLAN).exists():
        return prefix_page.render(directory, found)
    record, facts = read(directory), read_facts(directory)
    with showing(hider(record, facts), TEXTS):
        return _render(directory, record, facts)


def _render(directory: Path, record: Record, facts: Mapping[str, object]) -> str:
    prefixes = of_run(directory, str(facts.get("identity", "")))
    evidence = Evidence(directory, facts, Room(QUOTED), prefixes)
    anchors = _Anchors(evidence)
    found = causes(record)
    shard = plan_file.read(directory).shard
    sections = [anchors.section(one, f"c{number}") for number, one in enumerate(found[:CAUSES], 1)]
    unjudged = anchors.section_of([one for one in record.results if _unjudged(one)], "unjudged")
    known = [one for one in record.scenarios if mark(one) is EXPECTED]
    expected = [anchors.section(one, f"k{number}") for number, one in enumerate(grouped(known), 1)]
    applicable = [one for one in record.scenarios if one.verdict is Verdict.NOT_APPLICABLE]
    shown = {machine: detectors for machine, detectors in record.detectors.items() if detectors}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            title=str(facts.get("title") or facts.get("series") or record.run),
            answer=answer(record, found, f"part {shard.number} of {shard.total}" if shard else ""),
            first=tested.first_rows(facts, record),
            patches=tested.patches(facts),
            detectors=tested.detector_states(record),
            causes=sections,
            more_causes=found[CAUSES:],
            unjudged=unjudged,
            expected=expected,
            groups=matrix_map.groups(record, directory, anchors.by_entry),
            findings=_findings(record.results),
            not_applicable=matrix_map.by_reason(applicable),
            not_reached=matrix_map.by_reason(_not_reached(record)),
            differing=[(one[0].entry, tally(one)) for one in record.differing.values()],
            prefixes=prefixes,
            origins=origins_sentence(record),
            stages=_stages(record, evidence),
            cases=CASES,
            selftests=[(mark(one), one) for one in record.selftests],
            selftests_sentence=selftests.summary(record),
            detector_sentences=sentences(shown),
            environment=tested.environment(facts),
            coverage=line_coverage.load(directory),
            faults=generated_mutants.load(directory),
            advice=generated_mutants.advice(directory, facts, f"results/{record.run}"),
            most_faults=FAULTS,
            lists=tested.lists(facts, "warnings", "missing_options"),
            files=[file for name in FILES if (file := link(directory, name))],
        )
    )


@dataclass(frozen=True)
class Section:
    """A cause with its evidence: that of the first results; ``others`` have none on the page."""

    anchor: str
    cause: Cause | None
    results: tuple[Violation, ...]
    others: tuple[Result, ...]

    @property
    def variants(self) -> int:
        """The number of results."""
        return len(self.results) + len(self.others)


class _Anchors:
    """The evidence on the page, and the id of each element, by the id of the entry."""

    def __init__(self, evidence: Evidence) -> None:
        self.by_entry: dict[str, str] = {}
        self._evidence = evidence

    def section(self, cause: Cause, anchor: str) -> Section:
        """Return the section of a cause."""
        return self._section(cause.results, anchor, cause)

    def section_of(self, results: Sequence[Result], anchor: str) -> Section:
        """Return the section of results that have no cause in common."""
        return self._section(results, anchor, None)

    def _section(self, results: Sequence[Result], anchor: str, cause: Cause | None) -> Section:
        room = min(PER_CAUSE, BLOCKS - len(self.by_entry))
        blocks = []
        for place, result in enumerate(results[:room]):
            name = f"e{len(self.by_entry) + 1}"
            self.by_entry[result.entry.id] = name
            blocks.append(self._evidence.of(result, name, brief=place > 0))
        return Section(anchor, cause, tuple(blocks), tuple(results[len(blocks) :]))


def _findings(results: Iterable[Result]) -> list[tuple[str, str, int]]:
    """Return the findings: requirement ids, text, and how many scenarios have it."""
    counted = Counter(
        (", ".join(result.entry.requirements), one_line(text))
        for result in results
        for text in result.findings
    )
    return [(subject, text, count) for (subject, text), count in counted.items()]


def _unjudged(result: Result) -> bool:
    """Return whether an entry began, and says nothing about the kernel."""
    began = result.verdict is not Verdict.NOT_REACHED and result.entry.kind is not Kind.SELFTEST
    return began and not result.as_expected and not is_fault(result)


def _not_reached(record: Record) -> list[Result]:
    return [one for one in record.scenarios if one.verdict is Verdict.NOT_REACHED]


def _stages(record: Record, evidence: Evidence) -> list[tuple[Mark, Result, tuple[File, ...]]]:
    """Return the stages, and the patches and machines that have an entry of their own."""
    kinds = (Kind.HARNESS, Kind.STAGE, Kind.PATCH, Kind.MACHINE)
    return [(mark(one), one, evidence.files(one)) for one in record.results if one.entry.kind in kinds]
