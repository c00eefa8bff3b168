"""Put the items of a comparison into words, for text and HTML alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.journal.results_folder import STACKS
from harness.lib.text import counted, one_line
from harness.report.comparison_of_runs.comparison import RunComparison
from harness.report.comparison_of_runs.complaints import ComplaintChange
from harness.report.comparison_of_runs.pairs import Answer, Category, Pair, State
from harness.report.comparison_of_runs.runs import Run
from harness.report.comparison_of_runs.sections import Item
from harness.report.evidence import Step, last_steps
from harness.verdict.verdict import STAGES, Kind

STEPS = 6  # lines of a transcript that end with the wrong answer
SHOWN = 3  # ids, findings and requirements of one item
NAMES = 6  # requirements of an item without a sentence; of more, only their groups are named

_WHERE = {"new": "only in {after}", "gone": "only in {before}", "moved": "other callers", "both": "in both"}

#: A label and its text, on one line.
Row = tuple[str, str]


def heading(item: Item) -> str:
    """Return the requirement with its sentence; of scenarios that only one run answers, the ids alone."""
    if not _without_sentence(item.best):
        return f"{one_line(item.requirement)}: {one_line(item.sentence)}"
    names = list(dict.fromkeys(one_line(pair.requirement) for pair in item.pairs))
    if len(names) <= NAMES:
        return ", ".join(names)
    groups = Counter(one_line(pair.requirement).partition("-")[0] for pair in item.pairs)
    return ", ".join(f"{group} {number}" for group, number in sorted(groups.items()))


def numbers(item: Item, comparison: RunComparison) -> str:
    """Return ``3 scenarios in 12 variants: conforms in v3, violates in v4``."""
    words = counted(item.scenarios, "scenario" if item.best.shown.entry.kind is Kind.SCENARIO else "entry")
    if len(item.pairs) > item.scenarios:
        words += f" in {counted(len(item.pairs), 'variant')}"
    return f"{words}: {_verdicts(item.best, comparison)}"


def rows(item: Item, comparison: RunComparison) -> Iterator[Row]:
    """Yield what explains a change: reasons, expected and seen, the reply, findings; then the ids."""
    pair = item.best
    sides = (comparison.before, pair.before), (comparison.after, pair.after)
    merged = _without_sentence(pair) and len(item.pairs) > 1
    for run, answer in sides:
        only_one_run = pair.category in (Category.NEW, Category.VANISHED)
        if answer.state in (State.UNKNOWN, State.NOT_APPLICABLE) and answer.reason and not only_one_run:
            yield "because", f"{answer.reason} ({run.label})"
    for run, answer in _violating(pair, comparison) if not merged else ():
        yield from _violation(run, answer, f" ({run.label})" if not pair.same_cause else "")
    if pair.reply is not None:
        yield "reply", pair.reply.sentence()
    for run, texts in ((comparison.before, pair.gone), (comparison.after, pair.new)):
        for text in texts[:SHOWN]:
            yield "finding", f"{text} ({run.label})"
        if len(texts) > SHOWN:
            yield "", f"and {len(texts) - SHOWN} more"
    if pair.shown.entry.kind is Kind.SCENARIO and not merged:
        ids = list(dict.fromkeys(one_line(one.id.partition("[")[0]) for one in item.pairs))
        label = "scenario"
        for one in [pair.id] if len(item.pairs) == 1 else ids[:SHOWN]:
            yield label, one_line(one)
            label = ""
        if more := _more(ids, SHOWN):
            yield "", more.strip()
    if item.others and not _without_sentence(pair):
        words = [f"{one_line(name)} ({number})" for name, number in item.others.items()]
        yield "also", ", ".join(words[:SHOWN]) + _more(words, SHOWN)


def operations(item: Item, comparison: RunComparison) -> tuple[Step, ...]:
    """Return the operations that led to a violation, as the older or the newer run recorded them.

    They are left out where the newer run shows nothing that the older one does not.
    """
    pair = item.best
    if _without_sentence(pair) or (pair.category is Category.STILL and pair.same_cause):
        return ()
    found = _violating(pair, comparison)
    return last_steps(found[-1][1].best, found[-1][0].directory, STEPS) if found else ()


def same(comparison: RunComparison) -> str:
    """Return a sentence with the number of scenarios and stages that have the same answer."""
    found = comparison.of(Category.SAME)
    stages = sum(pair.shown.entry.kind in STAGES for pair in found)
    scenarios = counted(len(found) - stages, "scenario")
    return f"The same answer in both runs: {scenarios}, {counted(stages, 'stage')}."


def differences(comparison: RunComparison) -> Iterator[Row]:
    """Yield what else differs between the runs, both values in one text."""
    for one in comparison.differences:
        yield one.name, f"{one.before or 'not known'} / {one.after or 'not known'}"
    if comparison.patches is not None:
        yield "patches", comparison.patches.sentence()
        yield from (("new patch", one) for one in comparison.patches.new)
        yield from (("patch gone", one) for one in comparison.patches.gone)


def complaint(one: ComplaintChange, comparison: RunComparison) -> str:
    """Return a complaint's fingerprint, title, and the run that has it, on one line."""
    before, after = comparison.before.label, comparison.after.label
    where = _WHERE[one.where].format(before=before, after=after)
    earlier = f", {one.earlier} in {before}" if one.earlier else ""
    number = counted(one.after or one.before, "scenario")
    return one_line(f"{one.complaint.fingerprint}  {where} ({number}{earlier}): {one.complaint.title}")


def _violation(run: Run, answer: Answer, of: str) -> Iterator[Row]:
    """Yield what a violating answer expected and saw, and the kernel's complaints."""
    deviation = answer.best.deviation
    if deviation is None:
        yield "seen", f"{answer.reason or answer.words}{of}"
    else:
        yield "expected", one_line(deviation.expected) + of
        yield "seen", one_line(deviation.seen) + of
    for one in answer.best.complaints:
        yield "kernel", one_line(one.title) + of
        trace = f"{STACKS}/{one.fingerprint}.txt"
        if (run.directory / trace).is_file():
            yield "", f"{trace} of {run.label}"


def _violating(pair: Pair, comparison: RunComparison) -> list[tuple[Run, Answer]]:
    """Return the sides that violate; where both do by one cause, only the newer."""
    sides = (comparison.before, pair.before), (comparison.after, pair.after)
    found = [(run, answer) for run, answer in sides if answer.state is State.VIOLATES]
    return found[-1:] if pair.same_cause else found


def _without_sentence(pair: Pair) -> bool:
    """Return whether one of the runs has no answer, so that pairs of many requirements are one item."""
    silent = pair.category in (Category.NEW, Category.VANISHED, Category.UNSAID)
    return silent and not (pair.category is Category.NEW and pair.after.state is State.VIOLATES)


def _verdicts(pair: Pair, comparison: RunComparison) -> str:
    before, after = comparison.before.label, comparison.after.label
    if pair.before.words == pair.after.words:
        return f"{pair.after.words} in both"
    if not pair.before.results:
        return f"{pair.after.words} in {after}"
    if not pair.after.results:
        return f"{pair.before.words} in {before}"
    return f"{pair.before.words} in {before}, {pair.after.words} in {after}"


def _more(texts: list[str], shown: int) -> str:
    return f" and {len(texts) - shown} more" if len(texts) > shown else ""
