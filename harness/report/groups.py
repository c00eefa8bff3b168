"""A line for each requirement group, with the number of its scenarios by what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from harness.lib.text import counted, one_line
from harness.verdict import requirements
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Verdict

REASONS = 2  # why scenarios were not applicable or unknown, that are shown


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario, as a column of the table: its heading and the style of its numbers."""

    heading: str
    style: str


CONFORM = Outcome("conform", "green")
EXPECTED = Outcome("expected", "")  # a violation that the manifest expects, or a finding
INHERITED = Outcome("inherited", "yellow")
VIOLATE = Outcome("violate", "red")
UNKNOWN = Outcome("unknown", "magenta")
SKIPPED = Outcome("n/a", "cyan")
COLUMNS = (CONFORM, EXPECTED, INHERITED, VIOLATE, UNKNOWN, SKIPPED)


def outcome_of(result: Result) -> Outcome:
    """Return what became of a scenario; nothing but CONFORM says that it was looked at and is well."""
    if result.verdict is Verdict.NOT_APPLICABLE:
        return SKIPPED
    if not result.ended or result.verdict in (Verdict.NOT_REACHED, Verdict.HARNESS_ERROR):
        return UNKNOWN
    if result.inherited:
        return INHERITED
    if not result.as_expected:
        return VIOLATE
    return CONFORM if result.verdict is Verdict.CONFORMS else EXPECTED


@dataclass(frozen=True)
class Group:
    """A requirement group with its scenarios, counted by outcome."""

    name: str
    title: str
    counts: Counter[Outcome]


def groups(record: Record) -> list[Group]:
    """Return the groups of a run in the order of the matrix, then those that it does not know."""
    known = requirements.load().groups
    counts: dict[str, Counter[Outcome]] = {name: Counter() for name in known}
    for result in record.scenarios:
        first = result.entry.requirements[0] if result.entry.requirements else "?"
        counts.setdefault(one_line(first.partition("-")[0]), Counter())[outcome_of(result)] += 1
    return [Group(name, known.get(name, ""), found) for name, found in counts.items() if found]


def not_applicable(record: Record) -> Iterator[str]:
    """Yield how many scenarios were not applicable, by the reason, the most frequent first."""
    reasons = Counter(
        one_line(result.reason) for result in record.scenarios if result.verdict is Verdict.NOT_APPLICABLE
    )
    if not reasons:
        return
    others = f", of {len(reasons)} reasons (-v shows all)" if len(reasons) > REASONS else ""
    yield f"Not applicable, so not looked at: {counted(reasons.total(), 'scenario')}{others}"
    for reason, number in reasons.most_common(REASONS):
        yield f"  {number:4}  {reason or 'no reason was given'}"


def unknown(record: Record) -> Iterator[str]:
    """Yield the scenarios of which the run cannot say whether they conform, by the reason."""
    left = [one for one in record.scenarios if outcome_of(one) is UNKNOWN]
    if not left:
        return
    reasons: dict[str, list[Result]] = {}
    for one in left:
        reasons.setdefault(one_line(one.reason) or str(one.verdict), []).append(one)
    others = f", of {len(reasons)} reasons (-v shows all)" if len(reasons) > REASONS else ""
    yield f"Unknown, as there is no answer of the kernel: {counted(len(left), 'scenario')}{others}"
    for reason, those in list(reasons.items())[:REASONS]:
        yield f"  {len(those):4}  {reason}"
        if those[0].verdict is not Verdict.NOT_REACHED:
            yield f"        {one_line(those[0].entry.id)}"
