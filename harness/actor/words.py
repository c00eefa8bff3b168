"""Say values that a scenario compares in words: replies, faults, pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from typing import TypeGuard

from harness.actor.reply import Fault, Sigbus
from harness.lib.text import counted, printable

PAGE = 0x1000
SHOWN = 4  # entries of a long list that are said one by one
LONGEST = 300  # characters of one value
COUNT = 0x10000  # numbers below it may be counts, which are decimal

#: The operators of a comparison, before the value on their right.
_OPERATORS = {
    "==": "",
    "is": "",
    "!=": "anything but ",
    "is not": "anything but ",
    "in": "one of ",
    "not in": "none of ",
    "<": "less than ",
    "<=": "at most ",
    ">": "more than ",
    ">=": "at least ",
}


def comparison(operator: str, left: object, right: object) -> tuple[str, str]:
    """Return what was expected, the ``right`` side with its operator, and what was seen, the ``left`` side.

    Where two sequences or mappings differ in a few entries, only these are said.
    """
    if operator == "==" and is_list(left) and is_list(right):
        return _entries(right, left)
    if operator == "==" and isinstance(left, Mapping) and isinstance(right, Mapping):
        names = [name for name in {**right, **left} if left.get(name, _NOTHING) != right.get(name, _NOTHING)]
        return _members(right, names), _members(left, names)
    if operator == "==" and isinstance(left, Set) and isinstance(right, Set) and len(right) > SHOWN:
        return _differences(right, left), _differences(left, right)
    if operator in ("<=", ">=") and isinstance(right, Set):
        word = "nothing but " if operator == "<=" else "at least "
        return word + words(right), words(left)
    prefix = _OPERATORS.get(operator, f"{operator} ")
    if operator in ("in", "not in") and isinstance(right, Collection) and not isinstance(right, (str, bytes)):
        return _cut(prefix + ", ".join(map(_words, right))), words(left)
    if _is_count(left) and _is_count(right):
        return f"{prefix}{right}", str(left)
    return _cut(prefix + words(right)), words(left)


def _differences(one: Set[object], other: Set[object]) -> str:
    """Return what only one of two sets has, and what only the other has."""
    only, lacks = ", ".join(sorted(map(_words, one - other))), ", ".join(sorted(map(_words, other - one)))
    return _cut(" and ".join([*([f"with {only}"] if only else []), *([f"without {lacks}"] if lacks else [])]))


def words(value: object) -> str:
    """Return a value in words, on one line: None, the answer of an access that succeeds, is "success"."""
    return _cut(_words(value))


def _cut(text: str) -> str:
    return printable(" ".join(text.split()), LONGEST)


def _words(value: object) -> str:
    match value:
        case None:
            return "success"
        case bool():
            return "yes" if value else "no"
        case Enum():
            return _words(value.value)
        case Fault():
            return _fault(value) + ("" if value.offset is None else f" at {value.offset:#x}")
        case int():
            return str(value) if -10 < value < 10 else f"{value:#x}"
        case str():
            return value or "nothing"
        case bytes():
            return value.hex() or "no bytes"
        case Mapping():
            return ", ".join(f"{_words(name)}: {_words(one)}" for name, one in value.items()) or "nothing"
        case Set():
            return ", ".join(sorted(_words(one) for one in value)) or "nothing"
        case Collection():
            return _listed(list(value))
    return _object(value)


def _object(value: object) -> str:
    """Return an object in its own words if it has some, else its members that are not the defaults."""
    if isinstance(value, type) or (callable(value) and hasattr(value, "__name__")):
        return str(getattr(value, "__name__", value))
    own = type(value)
    if own.__str__ is not object.__str__:
        return str(value)
    if is_dataclass(own):
        given = {one.name: getattr(value, one.name) for one in fields(own) if one.repr}
        told = [
            f"{name} {'none' if one is None else _words(one)}"
            for name, one in given.items()
            if one != _default(own, name)
        ]
        return f"{_phrase(own.__name__)} ({', '.join(told)})" if told else _phrase(own.__name__)
    if own.__repr__ is not object.__repr__:
        return repr(value)
    return f"an object of type {own.__name__}"


def _default(own: type, name: str) -> object:
    """Return the default of a member; an object that equals nothing else if it has none."""
    found: Field[object] = own.__dataclass_fields__[name]  # type: ignore[attr-defined]
    if found.default is not MISSING:
        return found.default
    return found.default_factory() if callable(found.default_factory) else object()


def _phrase(name: str) -> str:
    """Return the name of a class as words: ``MapFile`` as ``map file``."""
    return "".join(f" {one.lower()}" if one.isupper() else one for one in name).strip(" _")


class _Nothing:
    """A member that a mapping does not have."""

    def __str__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


def _fault(fault: Fault) -> str:
    name = "SIGBUS" if isinstance(fault, Sigbus) else "SIGSEGV"
    return name if fault.code in ("adrerr", "maperr") else f"{name} ({fault.code})"


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Return whether a value is a sequence of entries, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < COUNT


def _are_pages(values: Sequence[object]) -> bool:
    """Return whether these are the words of pages, or their faults."""
    return all(isinstance(one, (int, Fault)) and not isinstance(one, bool) for one in values)


def _members(value: Mapping[object, object], names: Iterable[object]) -> str:
    return words({name: value.get(name, _NOTHING) for name in names})


def _listed(values: Sequence[object]) -> str:
    """Return the entries, one by one if they are few, else as runs of equal words."""
    if not values:
        return "nothing"
    faults = len(values) > 1 and all(isinstance(one, Fault) for one in values)
    if faults or len(values) > SHOWN:
        return _runs(values)
    return ", ".join(_words(one) if not is_list(one) else f"[{_words(one)}]" for one in values)


@dataclass
class _Run:
    """Entries in a row from ``first`` to ``last`` that are equal, or numbers that grow by ``step`` 1."""

    kind: str
    value: object
    first: int
    last: int
    step: int = 0

    @classmethod
    def of(cls, value: object, place: int) -> _Run:
        """Begin a run; a fault at its own page is of one kind for each page."""
        at_home = isinstance(value, Fault) and value.offset == place * PAGE
        kind = f"{_fault(value)} at its address" if isinstance(value, Fault) and at_home else _words(value)
        return cls(kind, value, place, place)

    def takes(self, other: _Run) -> bool:
        """Take the next entry in if it belongs here, and return whether it does."""
        if other.first != self.last + 1:
            return False
        step = 1 if _is_number(self.value) and other.value == self.value + 1 else 0
        if not step and other.kind != self.kind:
            return False
        if self.first != self.last and step != self.step:
            return False
        self.last, self.value, self.step = other.last, other.value, step
        return True

    def told(self) -> str:
        """Return the words of its entries."""
        if self.step and _is_number(self.value):
            return f"{self.value - self.last + self.first:#x} to {self.value:#x}"
        return self.kind


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _runs(values: Sequence[object], chosen: Sequence[int] | None = None) -> str:
    """Return one value for each page, in runs: ``SIGBUS at its address in pages 0 to 3; 0x7 in page 4``."""
    noun = "page" if _are_pages(values) else "entry"
    runs: list[_Run] = []
    for place in range(len(values)) if chosen is None else chosen:
        one = _Run.of(values[place], place)
        if not runs or not runs[-1].takes(one):
            runs.append(one)
    plural = "pages" if noun == "page" else "entries"
    if len(runs) == 1 and runs[0].last - runs[0].first + 1 == len(values):
        return f"{runs[0].told()} in all {len(values)} {plural}"
    said = [f"{run.told()} in {_range(run, noun, plural)}" for run in runs[:SHOWN]]
    if len(runs) > SHOWN:
        said.append(f"and {sum(run.last - run.first + 1 for run in runs[SHOWN:])} {plural} more")
    return "; ".join(said)


def _range(run: _Run, noun: str, plural: str) -> str:
    return f"{noun} {run.first}" if run.first == run.last else f"{plural} {run.first} to {run.last}"


def _entries(expected: Sequence[object], seen: Sequence[object]) -> tuple[str, str]:
    """Return two sequences in words; of long ones only the entries that differ."""
    if len(expected) != len(seen):
        return f"{_number_of(expected)}: {words(expected)}", f"{_number_of(seen)}: {words(seen)}"
    if len(expected) <= SHOWN and not any(isinstance(one, Fault) for one in (*expected, *seen)):
        return words(expected), words(seen)
    places = [place for place, pair in enumerate(zip(expected, seen, strict=True)) if pair[0] != pair[1]]
    if not places or len(places) == len(seen):
        return words(expected), words(seen)
    return _cut(_runs(expected, places)), _cut(_runs(seen, places))


def _number_of(values: Sequence[object]) -> str:
    return counted(len(values), "page") if _are_pages(values) else f"{len(values)} in number"
