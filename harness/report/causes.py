"""Group the violations of a run by their cause: one fault of a kernel violates many scenarios."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.verdict import requirements
from harness.verdict.comparison import Origin
from harness.verdict.deviation import WAITS_IN
from harness.verdict.record import Record, Result
from harness.verdict.verdict import SERIES_FAULTS, Kind, Strength, Verdict

#: What differs between two answers of one cause: numbers, and the words for places.
_NUMBERS = re.compile(r"\b(0x[0-9a-f]+|\d+)\b")
_ERRNO = re.compile(r"\bE[A-Z0-9]{2,}\b")
_SIGNAL = re.compile(r"SIGBUS|SIGSEGV")
_SUCCESS = re.compile(r"\b(success|succeeded|landed|data)\b")
#: A value that was loaded, or the first and the last of several.
_VALUE = re.compile(r"(^|; |, |\[)(0x[0-9a-f]+|\d+)( to (0x[0-9a-f]+|\d+))?(?= in|,|;|\]|$)")

ACCESS = "access"  # in place of an operation that loads or stores
FAULT = "fault"  # a signal, or EFAULT where the kernel accesses a mapping
DONE = "done"  # success, or a value
_FAULTS = {"EFAULT"}
UNMAPPED = "no page table entry"  # expected of a mapping that was taken away
#: Operations that access memory; other ones answer with a number that is no value of a page.
_ACCESSES = frozenset(
    (
        *(f"{access}{width}" for access in ("load", "store") for width in (8, 16, 32, 64)),
        *("loadpages", "loadlist", "loadeach", "compare", "syscopy", "regioncopy", "peek", "poke"),
        *("read", "write", "watched", "host word", "host words", "host read"),
    )
)


@dataclass(frozen=True)
class Cause:
    """Results with one cause, the one that says it best first.

    ``requirement`` is the id of the requirement that the first result violates, or the id of
    its stage; ``sentence`` is what it promises.  ``origin`` is None if no base was asked.
    """

    requirement: str
    sentence: str
    results: tuple[Result, ...]
    origin: Origin | None

    @property
    def best(self) -> Result:
        """The result that says best what is wrong."""
        return self.results[0]

    @property
    def scenarios(self) -> int:
        """The number of scenarios, of which each may have several variants."""
        return len({result.entry.scenario.partition("[")[0] for result in self.results})

    @property
    def inherited(self) -> bool:
        """Return whether the base does the same in every result."""
        return self.origin is Origin.INHERITED


def causes(record: Record) -> tuple[Cause, ...]:
    """Return the causes of a run's unexpected violations, the gravest first."""
    return grouped(result for result in record.results if is_fault(result))


def is_fault(result: Result) -> bool:
    """Return whether a result is an unexpected fault of the kernel, or of the series' patches."""
    return result.ended and result.verdict in SERIES_FAULTS and not result.as_expected


def same_cause(one: Result, other: Result) -> bool:
    """Return whether two violations of one scenario, in two runs, have the same cause.

    Complaints of the kernel are the same if one of them is at the same place.  Otherwise the
    same operation was answered with the same kind of answer: an errno, a signal, a text
    without its numbers.  The origin of a violation is no part of its cause.
    """
    places, others = fault_places(one), fault_places(other)
    if places or others:
        return bool(places & others)
    return _answer(one) == _answer(other)


def fault_places(result: Result) -> set[str]:
    """Return the places of the kernel's faults on the console, by which they are the same in another run."""
    return {complaint.place or complaint.fingerprint for complaint in result.complaints if complaint.fault}


def _answer(result: Result) -> tuple[str, str]:
    """Return the name of the operation that decided, and the kinds of answer expected and seen.

    Accesses that were to fault and did not, that faulted, or that had a wrong value are of one kind
    each, whichever operation made them.
    """
    deviation = result.deviation
    if deviation is None:
        return "", f"{result.verdict} {_masked(result.reason)}"
    if deviation.of_kernel:
        return "", _masked(deviation.seen)
    if deviation.expected == UNMAPPED:  # what the page table still has, an access would not fault at
        return ACCESS, f"{FAULT}, {DONE}"
    without_place = deviation.seen.partition(WAITS_IN)[0]  # a loop is at another place each time
    expected, seen = _kinds(deviation.expected), _kinds(without_place)
    wanted, got = expected - seen or expected, seen - expected or seen
    kinds = wanted | got
    access = kinds == {FAULT, DONE} or (kinds <= {FAULT, DONE} and deviation.verb in _ACCESSES)
    operation = ACCESS if access else deviation.verb
    return operation, f"{' '.join(sorted(wanted))}, {' '.join(sorted(got))}"


def grouped(results: Iterable[Result]) -> tuple[Cause, ...]:
    """Group results by cause: two are linked by a complaint of the kernel, or by the same wrong answer.

    A wrong answer is that of one operation (``load32``) to one expectation.  Results of one
    requirement are linked by the operation alone.
    """
    groups: list[tuple[set[str], list[Result]]] = []
    for result in results:
        links = _links(result)
        members = [result]
        rest = []
        for known, others in groups:
            if known & links:
                links |= known
                members = others + members
            else:
                rest.append((known, others))
        groups = [*rest, (links, members)]
    return tuple(sorted((_cause(members) for _, members in groups), key=_gravity))


def _links(result: Result) -> set[str]:
    """Return the texts by which a result is linked to others of the same cause."""
    if places := fault_places(result):
        return {f"complaint {place}" for place in places}
    origin = result.comparison.origin if result.comparison is not None else ""
    operation, answer = _answer(result)
    if result.deviation is None:
        return {f"{origin} {answer}"}
    first = result.entry.requirements[0] if result.entry.requirements else result.entry.id
    if not operation and not result.deviation.of_kernel:  # numbers say nothing without what was counted
        return {f"{origin} {first} {answer}"}
    if not operation:
        return {f"{origin} {answer}"}
    return {f"{origin} {operation}: {answer}", f"{origin} {first} {operation}"}


def _kinds(text: str) -> frozenset[str]:
    """Return the kinds of an answer: errnos, FAULT, DONE; without any, its text without numbers."""
    kinds = {FAULT if name in _FAULTS else name for name in _ERRNO.findall(text)}
    if _SIGNAL.search(text):
        kinds.add(FAULT)
    if _SUCCESS.search(text) or _VALUE.search(text):
        kinds.add(DONE)
    return frozenset(kinds or {_masked(text)})


def _masked(text: str) -> str:
    """Return a text without numbers; of parts that are then equal, such as spans of pages, one stays."""
    return "; ".join(dict.fromkeys(_NUMBERS.sub("N", text).split("; ")))


def _cause(members: Sequence[Result]) -> Cause:
    """Return the cause of these results, with the clearest first."""
    matrix = requirements.load()
    named = Counter(name for result in members for name in result.entry.requirements[:1])

    def rank(result: Result) -> tuple[object, ...]:
        first = result.entry.requirements[0] if result.entry.requirements else ""
        return (
            result.verdict is not Verdict.KERNEL_DIED,
            list(Strength).index(result.entry.strength),
            result.deviation is None,
            -named[first],
            result.deviation.line if result.deviation is not None else 0,  # the shortest way to it
            len(result.entry.id),
        )

    ordered = sorted(members, key=rank)
    best = ordered[0].entry
    first = best.requirements[0] if best.requirements else best.id
    known = matrix.requirements.get(first)
    origins: set[Origin | None] = {one.comparison.origin if one.comparison else None for one in members}
    origin: Origin | None = next(
        (one for one in (Origin.NEW, Origin.NOT_COMPARABLE, None) if one in origins), None
    )
    if origins == {Origin.INHERITED}:
        origin = Origin.INHERITED
    sentence = known.sentence if known is not None else best.title
    return Cause(first, sentence, tuple(ordered), origin)


def _gravity(cause: Cause) -> tuple[object, ...]:
    """Return the key by which the gravest cause comes first."""
    best = cause.best
    return (
        best.entry.kind is Kind.SCENARIO,
        cause.inherited,
        best.verdict is not Verdict.KERNEL_DIED,
        not any(one.fault for result in cause.results for one in result.complaints),
        list(Strength).index(best.entry.strength),
        -len(cause.results),
        cause.requirement,
    )
