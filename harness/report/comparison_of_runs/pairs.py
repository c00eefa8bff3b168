"""Compare the answers of two runs to one scenario."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from harness.lib.text import one_line
from harness.report.causes import fault_places, same_cause
from harness.report.comparison_of_runs.runs import Run
from harness.report.comparison_of_runs.transcripts import ReplyChange, first_change
from harness.report.repetitions import tally
from harness.verdict.record import Result
from harness.verdict.verdict import STAGES, Kind, Verdict


class State(StrEnum):
    """What a run says of a scenario, whatever was expected of its series."""

    ABSENT = "absent"
    """It is not in the plan."""
    UNKNOWN = "unknown"
    """No verdict on the kernel, or several that differ."""
    NOT_APPLICABLE = "not-applicable"
    CONFORMS = "conforms"
    VIOLATES = "violates"


class Category(StrEnum):
    """The change between two runs, in the words of the JSON report."""

    BROKEN = "newly-violated"
    STILL = "still-violated"
    FIXED = "newly-conforming"
    CHANGED = "changed-answer"
    UNSAID = "cannot-be-said"
    NEWLY_APPLICABLE = "newly-applicable"
    NO_LONGER_APPLICABLE = "no-longer-applicable"
    NEW = "new-scenario"
    VANISHED = "vanished-scenario"
    SAME = "same"


_NUMBER = re.compile(r"\b(?:0x[0-9a-f]+|\d+(?:\.\d+)?)\b")


@dataclass(frozen=True)
class Answer:
    """The results of one scenario in one run, a result for each repetition."""

    results: tuple[Result, ...]

    @property
    def state(self) -> State:
        """The state in which all repetitions agree; a violation holds although another one was cut off."""
        given = {_state(result) for result in self.results}
        if not given:
            return State.ABSENT
        if given == {State.VIOLATES, State.UNKNOWN}:
            return State.VIOLATES
        return given.pop() if len(given) == 1 else State.UNKNOWN

    @property
    def best(self) -> Result:
        """The result that stands for all: a violation, else one that ended.

        Raises ValueError if there is no result.
        """
        rank = [State.VIOLATES, State.CONFORMS, State.NOT_APPLICABLE, State.UNKNOWN]
        return min(self.results, key=lambda result: rank.index(_state(result)))

    @property
    def words(self) -> str:
        """The verdict in words; of repetitions that differ the number of each."""
        if not self.results:
            return "not in this run"
        if len({result.verdict for result in self.results}) > 1:
            return tally(self.results)
        return str(self.best.verdict)

    @property
    def reason(self) -> str:
        """The first line of the reason of the best result, or an empty text."""
        text = self.best.reason.strip() if self.results else ""
        return one_line(text.partition("\n")[0])

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings of all repetitions, each once, as text on one line."""
        return tuple(dict.fromkeys(one_line(text) for one in self.results for text in one.findings))


@dataclass(frozen=True)
class Pair:
    """The answers of two runs to one scenario, stage or test program.

    - ``reply`` is the first reply of another kind in their transcripts.
    - ``gone`` and ``new`` are findings of the one run that the other does not have.
    - ``same_cause`` is about a scenario that is still violated.
    - ``inherited`` is true for a violation of the newer run that its base has, too.
    """

    id: str
    before: Answer
    after: Answer
    category: Category
    reply: ReplyChange | None = None
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    same_cause: bool = True
    inherited: bool = False

    @property
    def shown(self) -> Result:
        """The result by which a reader recognises the scenario: that of the newer run, if it has one."""
        return (self.after if self.after.results else self.before).best

    @property
    def requirement(self) -> str:
        """The first requirement, or the id of a stage or program."""
        entry = self.shown.entry
        return entry.requirements[0] if entry.requirements else entry.id

    @property
    def worse(self) -> bool:
        """Return whether the kernel now complains or dies where it only answered wrongly before."""
        if self.category is not Category.STILL or self.inherited:
            return False
        before, after = self.before.best, self.after.best
        died = after.verdict is Verdict.KERNEL_DIED and before.verdict is not Verdict.KERNEL_DIED
        return died or bool(fault_places(after) - fault_places(before))

    @property
    def regression(self) -> bool:
        """Return whether the newer series does worse than the older one, through its own fault."""
        return (self.category is Category.BROKEN and not self.inherited) or self.worse

    @property
    def loses_knowledge(self) -> bool:
        """Return whether a regression cannot be excluded: one run has an answer, the other should have."""
        if self.category is not Category.UNSAID:
            return False
        state = _presence if self.shown.entry.kind is Kind.MACHINE else _agreed
        known = state(self.before) in (State.CONFORMS, State.VIOLATES)
        return known or (state(self.after) is State.VIOLATES and not self.inherited)


def pairs(before: Run, after: Run) -> tuple[Pair, ...]:
    """Return the scenarios, stages and test programs of both runs, in the order of the newer plan."""
    first, second = _answers(before), _answers(after)
    return tuple(_all_pairs(before, first, after, second))


def _answers(run: Run) -> dict[str, Answer]:
    """Return the answers of a run by the id of their scenario, without the number of the repetition.

    The faults of machines between scenarios are named by what is wrong: their numbers mean nothing.
    """
    found: dict[str, list[Result]] = {}
    for result in run.record.results:
        key = result.entry.scenario
        if result.entry.kind is Kind.MACHINE:
            places = " ".join(sorted(fault_places(result)))
            key = f"a machine between two scenarios: {places or _masked(result.reason)}"
        found.setdefault(key, []).append(result)
    return {key: Answer(tuple(results)) for key, results in found.items()}


def _all_pairs(
    before: Run, first: dict[str, Answer], after: Run, second: dict[str, Answer]
) -> Iterator[Pair]:
    for key in [*second, *(one for one in first if one not in second)]:
        old, new = first.get(key, Answer(())), second.get(key, Answer(()))
        kind = (new if new.results else old).best.entry.kind
        if kind in (*STAGES, Kind.PATCH) and not (old.results and new.results):
            continue  # which stages there are depends on the options of a run
        yield _pair(key, (before, old), (after, new), machine=kind is Kind.MACHINE)


def _pair(key: str, one: tuple[Run, Answer], other: tuple[Run, Answer], *, machine: bool) -> Pair:
    (before, old), (after, new) = one, other
    # The journal has a machine only if its kernel had a fault.
    state = _presence if machine else _agreed
    states = (state(old), state(new))
    category = _category(*states)
    violating = [one for one in new.results if _state(one) is State.VIOLATES]
    inherited = bool(violating) and states[1] is State.VIOLATES and all(one.inherited for one in violating)
    if category in (Category.NEW, Category.VANISHED, Category.UNSAID) or machine:
        return Pair(key, old, new, category, inherited=inherited)
    same = category is not Category.STILL or same_cause(old.best, new.best)
    reply = None
    if State.NOT_APPLICABLE not in states and not (category is Category.STILL and same):
        reply = first_change((before.directory, old.best), (after.directory, new.best))
    gone, come = _without(old.findings, new.findings), _without(new.findings, old.findings)
    if State.NOT_APPLICABLE in states:
        gone = come = ()
    if category is Category.SAME and (reply or gone or come):
        category = Category.CHANGED
    return Pair(key, old, new, category, reply, gone, come, same, inherited)


def _agreed(answer: Answer) -> State:
    return answer.state


def _presence(answer: Answer) -> State:
    """Return what a run says of a fault between scenarios; one of the harness or the host says nothing."""
    if not answer.results:
        return State.CONFORMS
    silent = all(one.verdict is Verdict.HARNESS_ERROR for one in answer.results)
    return State.UNKNOWN if silent else State.VIOLATES


def _category(before: State, after: State) -> Category:
    if before is State.ABSENT:
        return Category.NEW
    if after is State.ABSENT:
        return Category.VANISHED
    if State.UNKNOWN in (before, after):
        return Category.UNSAID
    if before is after:
        return Category.STILL if after is State.VIOLATES else Category.SAME
    if before is State.NOT_APPLICABLE:
        return Category.NEWLY_APPLICABLE
    if after is State.NOT_APPLICABLE:
        return Category.NO_LONGER_APPLICABLE
    return Category.BROKEN if after is State.VIOLATES else Category.FIXED


def _state(result: Result) -> State:
    """Return what one result says of the kernel; that of an ``info`` requirement is only a finding."""
    if not result.ended:
        return State.UNKNOWN
    match result.verdict:
        case Verdict.CONFORMS | Verdict.UNEXPECTEDLY_CONFORMS:
            return State.CONFORMS
        case Verdict.NOT_APPLICABLE:
            return State.NOT_APPLICABLE
        case Verdict.KERNEL_DIED:
            return State.VIOLATES
        case Verdict.VIOLATES:
            return State.VIOLATES if result.entry.binding or fault_places(result) else State.CONFORMS
    return State.UNKNOWN


def _without(texts: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that the others do not have, whatever the numbers in them are."""
    known = {_masked(other) for other in others}
    return tuple(text for text in texts if _masked(text) not in known)


def _masked(text: str) -> str:
    return _NUMBER.sub("N", one_line(text))
