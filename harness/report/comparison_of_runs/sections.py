"""Group the pairs of a comparison for a reader: by what changed, then by cause or requirement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.report.causes import grouped
from harness.report.comparison_of_runs.comparison import RunComparison
from harness.report.comparison_of_runs.pairs import Answer, Category, Pair, State
from harness.verdict import requirements
from harness.verdict.deviation import verb_of


@dataclass(frozen=True)
class Item:
    """Pairs with one change and one cause, the clearest first.

    ``requirement`` is the id of the requirement, stage or program of the first pair, and
    ``sentence`` what it promises.
    """

    requirement: str
    sentence: str
    pairs: tuple[Pair, ...]

    @property
    def best(self) -> Pair:
        """The pair that says it best."""
        return self.pairs[0]

    @property
    def scenarios(self) -> int:
        """The number of scenarios, of which each may have several variants."""
        return len({pair.id.partition("[")[0] for pair in self.pairs})

    @property
    def others(self) -> dict[str, int]:
        """The other requirements of these pairs, each with its number of pairs, the most frequent first."""
        counts = Counter(pair.requirement for pair in self.pairs if pair.requirement != self.requirement)
        return dict(counts.most_common())


@dataclass(frozen=True)
class Section:
    """A kind of change: its title, and its items; ``violated`` says in which runs they violate."""

    title: str
    items: tuple[Item, ...]

    @property
    def pairs(self) -> int:
        """The number of pairs of all items."""
        return sum(len(item.pairs) for item in self.items)


def sections(comparison: RunComparison) -> tuple[Section, ...]:
    """Return the sections that are not empty; the most important, the regressions, come last."""
    old, new = comparison.before.label, comparison.after.label
    still = comparison.of(Category.STILL)
    broken = comparison.of(Category.BROKEN)
    arrived = comparison.of(Category.NEW)
    applicable = comparison.of(Category.NEWLY_APPLICABLE)
    found = [
        (f"Only in {old}", _alike(comparison.of(Category.VANISHED), _states)),
        (f"Only in {new}", _alike(_not_violating(arrived), _states)),
        ("No longer applicable", _alike(comparison.of(Category.NO_LONGER_APPLICABLE), _reasons)),
        ("Newly applicable", _alike(_not_violating(applicable), _reasons)),
        ("Cannot be said", _alike(comparison.of(Category.UNSAID), _reasons)),
        ("Another answer, the same verdict", _alike(comparison.of(Category.CHANGED), _answers)),
        (f"Conforms in {new}, violates in {old}", _by_cause(comparison.of(Category.FIXED), _before)),
        ("Still violated", _by_cause((one for one in still if _kept(one)), _after)),
        ("Inherited from the base", _by_cause((one for one in (*broken, *still) if one.inherited), _after)),
        ("Violated, and newly applicable", _by_cause(_violating(applicable), _after)),
        (f"Violated, and only in {new}", _by_cause(_violating(arrived), _after)),
        (
            "Still violated, by another cause",
            _by_cause((one for one in still if not one.same_cause and not one.inherited), _after),
        ),
        ("Newly violated", _by_cause((one for one in broken if not one.inherited), _after)),
    ]
    return tuple(Section(title, items) for title, items in found if items)


def _kept(pair: Pair) -> bool:
    return pair.same_cause and not pair.inherited


def _violating(found: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in found if pair.after.state is State.VIOLATES]


def _not_violating(found: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in found if pair.after.state is not State.VIOLATES]


def _before(pair: Pair) -> Answer:
    return pair.before


def _after(pair: Pair) -> Answer:
    return pair.after


def _by_cause(found: Iterable[Pair], side: Callable[[Pair], Answer]) -> tuple[Item, ...]:
    """Group pairs by the cause of the violation on one side, the gravest first."""
    by_result = {side(pair).best.entry.id: pair for pair in found}
    causes = grouped(side(pair).best for pair in by_result.values())
    return tuple(
        Item(cause.requirement, cause.sentence, tuple(by_result[one.entry.id] for one in cause.results))
        for cause in causes
    )


def _alike(found: Sequence[Pair], key: Callable[[Pair], Hashable]) -> tuple[Item, ...]:
    """Group pairs with an equal key, in the order of their requirements."""
    groups: dict[Hashable, list[Pair]] = {}
    for pair in found:
        groups.setdefault(key(pair), []).append(pair)
    return tuple(sorted((_item(group) for group in groups.values()), key=lambda item: item.requirement))


def _item(found: Sequence[Pair]) -> Item:
    first = found[0]
    known = requirements.load().requirements.get(first.requirement)
    sentence = known.sentence if known is not None else first.shown.entry.title
    return Item(first.requirement, sentence, tuple(found))


def _states(pair: Pair) -> Hashable:
    """Return what pairs of one item share, if only one run has them: the kind of entry and the verdict."""
    return pair.shown.entry.kind, pair.before.words, pair.after.words


def _reasons(pair: Pair) -> Hashable:
    """Return what pairs of one item share: both verdicts, and the reason of the side without one."""
    return pair.before.words, pair.after.words, tuple(_reason(pair))


def _reason(pair: Pair) -> Iterator[str]:
    for answer in (pair.before, pair.after):
        if answer.state in (State.UNKNOWN, State.NOT_APPLICABLE):
            yield answer.reason


def _answers(pair: Pair) -> Hashable:
    """Return what pairs of one item share: the requirement, the change of the reply, the findings."""
    reply = (verb_of(pair.reply.after.text), *pair.reply.kinds) if pair.reply else ()
    return pair.requirement, reply, pair.gone, pair.new
