"""The answer of a run in one sentence, and what that sentence does not cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.lib.errors import ExitCode
from harness.lib.text import counted
from harness.report.causes import Cause, is_fault
from harness.report.html.marks import EXPECTED, FINDING, HARNESS, MARKS, NOT_REACHED, OPEN, Mark, mark
from harness.verdict import requirements
from harness.verdict.detector import State
from harness.verdict.interruption import how
from harness.verdict.record import Record, Result
from harness.verdict.verdict import STAGES, Kind, Verdict

_FAILED_STAGES = {
    "apply": "The series does not apply.",
    "build": "The patched kernel does not build.",
    "interface": "The kernel does not have the interface that the series promises.",
    "probes": "The probes do not compile against the kernel's headers.",
    "boot": "The patched kernel does not boot.",
}
COVERAGE = "coverage"  # the stage after the last scenario, with --coverage


@dataclass(frozen=True)
class Answer:
    """The answer: ``tone`` is ``good``, ``bad`` or ``open``, ``sentence`` is shown large.

    ``reason`` is more of the same, or empty.  ``caveats`` are sentences about what was not looked at
    or does not count; ``counts`` are the scenarios by mark, what needs a reader first.
    """

    tone: str
    sentence: str
    reason: str
    caveats: tuple[str, ...]
    counts: tuple[tuple[Mark, int], ...]


def answer(record: Record, found: Sequence[Cause], part: str = "") -> Answer:
    """Return the answer of a run, of which ``found`` are the causes; ``part`` names a part of a whole run.

    Only a run that came to its end, and saw something, is ``good``.
    """
    marks = Counter(map(mark, record.scenarios))
    counts = tuple((one, marks[one]) for one in MARKS if marks[one])
    tone, sentence, reason = _sentence(record, found, marks)
    caveats = list(_caveats(record, marks, tone))
    if part:
        caveats.insert(0, f"This is {part} of a run: the other parts have reports of their own.")
    return Answer(tone, sentence, reason, tuple(caveats), counts)


def _sentence(record: Record, found: Sequence[Cause], marks: Counter[Mark]) -> tuple[str, str, str]:
    new = [one for one in record.results if is_fault(one) and not one.inherited]
    stopped = [one for one in record.results if one.entry.kind in STAGES and not one.as_expected]
    stopped = [one for one in stopped if one.verdict is not Verdict.NOT_REACHED]
    if new:
        return "bad", *_violated(record, found, new)
    if record.interrupted:
        return "open", f"Incomplete: the run {how(record.interrupted)}.", _progress(record)
    if not record.complete:
        return "open", "Incomplete: the run did not come to its own end.", _progress(record)
    if record.exit_code is ExitCode.HARNESS:
        return "open", *_not_judged(record, stopped, marks)
    if record.exit_code is ExitCode.NOTHING_APPLICABLE:
        return "open", "Nothing was tested: no scenario was applicable.", ""
    return _as_expected(record, marks)


def _violated(record: Record, found: Sequence[Cause], new: Sequence[Result]) -> tuple[str, str]:
    scenarios = [one for one in new if one.entry.kind is Kind.SCENARIO]
    if not scenarios:
        first = new[0]
        if first.entry.kind in STAGES:
            return _FAILED_STAGES.get(first.entry.id, f"The stage {first.entry.id} failed."), first.reason
        number = sum(one.entry.kind is first.entry.kind for one in new)
        if first.entry.kind is Kind.SELFTEST:
            return f"{counted(number, 'test program')} of the kernel itself failed.", first.reason
        if first.entry.kind is Kind.PATCH:
            verb = "is" if number == 1 else "are"
            return f"{number} of {len(record.patches)} patches {verb} no step to bisect by.", first.reason
        return "The kernel had a fault between the scenarios.", first.reason
    passed = [one for one in scenarios if one.verdict is Verdict.UNEXPECTEDLY_CONFORMS]
    unexpected = f"{_conform(len(passed))}, although the manifest expects otherwise."
    if len(passed) == len(scenarios):
        return unexpected, passed[0].reason
    number = len(scenarios) - len(passed)
    verb = "violates" if number == 1 else "violate"
    sentence = f"{counted(number, 'scenario')} {verb} what the series promises."
    best = [one for one in found if one.best.entry.kind is Kind.SCENARIO and not one.inherited]
    best = [one for one in best if one.best.verdict is not Verdict.UNEXPECTEDLY_CONFORMS]
    reason = f"They show {counted(len(best), 'cause')}." if number > 1 else ""
    reason += f" {unexpected}" if passed else ""
    if died := sum(one.verdict is Verdict.KERNEL_DIED for one in scenarios):
        reason += f" The kernel died in {counted(died, 'scenario')}."
    if looked := _looked_at(record):
        reason += f" {counted(looked, 'scenario')} gave a verdict on the kernel."
    reason += "".join(f" {one.reason}" for one in new if one.entry.kind is Kind.PATCH)
    return sentence, reason.strip()


def _conform(number: int) -> str:
    return f"{counted(number, 'scenario')} {'conforms' if number == 1 else 'conform'}"


def _not_judged(record: Record, stopped: Sequence[Result], marks: Counter[Mark]) -> tuple[str, str]:
    if stopped and marks[NOT_REACHED]:
        name = stopped[0].entry.id
        return f"No verdict: the stage {name} failed, and not by the series.", stopped[0].reason
    if stopped and stopped[0].entry.id == COVERAGE:
        return "No verdict on the series: too few of its lines were executed.", stopped[0].reason
    if stopped:
        return "No verdict on the whole: the harness does not know all of the kernel.", stopped[0].reason
    if record.damage:
        return "No verdict: the journal of the run contradicts itself.", record.damage
    if record.differing and not marks[HARNESS]:
        number = counted(len(record.differing), "scenario")
        return f"No stable verdict: {number} gave more than one.", ""
    if record.nothing_said and all(one.as_expected for one in record.results):
        ended = [one for one in record.scenarios if one.verdict is not Verdict.NOT_APPLICABLE]
        return "No verdict: each applicable scenario ended in a fault of the harness.", ended[0].reason
    faults = [one for one in record.results if not one.as_expected and one.verdict is Verdict.HARNESS_ERROR]
    left = [one for one in record.results if one.verdict is Verdict.NOT_REACHED]
    if left and not faults:
        reason, _ = Counter(one.reason for one in left).most_common(1)[0]
        return f"No verdict on the whole: the run did not reach {counted(len(left), 'test')}.", reason
    if not faults and (began := sum(one.left_open for one in record.results)):
        return f"No verdict on the whole: {counted(began, 'test')} began and never ended.", ""
    return f"No verdict on the whole: {counted(len(faults), 'fault')} of the harness or the machine.", ""


def _as_expected(record: Record, marks: Counter[Mark]) -> tuple[str, str, str]:
    conform = sum(one.verdict is Verdict.CONFORMS for one in record.scenarios)
    known = marks[EXPECTED]
    if known > conform:
        number = f"{known} of {counted(_looked_at(record), 'scenario')}"
        return "open", f"Does not conform, as its manifest expects: {number} violate.", ""
    inherited = sum(one.inherited for one in record.results)
    if known or inherited:
        parts = [f"{counted(known, 'deviation')} that its manifest expects"] if known else []
        parts += [f"{counted(inherited, 'violation')} that the base has, too"] if inherited else []
        return "good", f"Conforms, but for {' and '.join(parts)}.", f"{counted(conform, 'scenario')} conform."
    if not conform:
        return "open", f"Nothing was judged: {counted(marks[FINDING], 'scenario')} gave a finding.", ""
    each = "The one applicable scenario" if conform == 1 else f"All {conform} applicable scenarios"
    if not_selected(record):
        each = each.replace("applicable", "selected and applicable")
    return "good", f"Conforms. {each} found what the series promises.", ""


def not_selected(record: Record) -> list[str]:
    """Return the requirements that have scenarios, and none in the plan of this run."""
    matrix = requirements.load()
    planned = {name for one in record.scenarios for name in one.entry.requirements}
    reasons = requirements.load_reasons(matrix)
    return [name for name, one in matrix.requirements.items() if name not in planned and not reasons.of(one)]


def _looked_at(record: Record) -> int:
    """Return the number of scenarios that ended with a verdict on the kernel."""
    return sum(one.on_kernel for one in record.scenarios)


def _progress(record: Record) -> str:
    total = counted(len(record.scenarios), "scenario")
    return f"{_looked_at(record)} of {total} gave a verdict on the kernel."


def _caveats(record: Record, marks: Counter[Mark], tone: str) -> Iterator[str]:
    """Yield a sentence for each thing that the answer does not cover."""
    total = len(record.scenarios)
    if number := marks[NOT_REACHED]:
        yield f"Never reached: {number} of {counted(total, 'scenario')}. They say nothing about the kernel."
    if number := marks[OPEN]:
        yield f"Began and never ended: {counted(number, 'scenario')}. The kernel died, or the harness did."
    if number := marks[HARNESS]:
        yield f"Ended in a fault of the harness: {counted(number, 'scenario')}. That is no verdict."
    if tone != "bad":
        pass  # the answer itself says whether the run is complete
    elif record.interrupted:
        yield f"The run {how(record.interrupted)}."
    elif not record.complete:
        yield "The run did not come to its own end: the harness was killed."
    if record.differing:
        yield f"{counted(len(record.differing), 'scenario')} got more than one verdict in its repetitions."
    yield from _unproven(record)
    known = requirements.load().requirements
    looked = [one for one in record.scenarios if one.on_kernel]
    if number := len(known.keys() - {name for one in looked for name in one.entry.requirements}):
        left_out = len(not_selected(record))
        why = f" ({left_out} were not selected)" if left_out else ""
        yield f"Not looked at: {number} of {len(known)} requirements{why}."


def _unproven(record: Record) -> Iterator[str]:
    """Yield what the silence of the detectors does not prove."""
    shown = {name: found for name, found in record.detectors.items() if found}
    blind = sorted({one.name for found in shown.values() for one in found if one.state is State.BLIND})
    if blind:
        yield f"Blind on some machine: {', '.join(blind)}. Verdicts of that machine do not count."
    if missing := len(record.detectors) - len(shown):
        yield f"No detector was shown a fault on {counted(missing, 'machine')}: silence proves nothing there."
