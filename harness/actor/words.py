"""Say values that a scenario compares in words: replies, faults, pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from itertools import groupby

from harness.actor.reply import Fault, Sigbus

PAGE = 0x1000
SHOWN = 4  # entries of a long list that are said one by one
LONGEST = 300  # characters of one value

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

    Where two sequences differ in a few entries, only these are said.
    """
    if operator == "==" and _are_lists(left, right):
        assert isinstance(left, Sequence)
        assert isinstance(right, Sequence)
        return _entries(right, left)
    if operator == "==" and isinstance(left, Mapping) and isinstance(right, Mapping):
        names = [name for name in {**right, **left} if left.get(name, _NOTHING) != right.get(name, _NOTHING)]
        return _members(right, names), _members(left, names)
    if operator in ("<=", ">=") and isinstance(right, Set):
        word = "nothing but " if operator == "<=" else "at least "
        return word + words(right), words(left)
    return _OPERATORS.get(operator, f"{operator} ") + words(right), words(left)


def reply_of(value: object) -> str:
    """Return the reply of an actor that has this value; empty if the value is not that of one reply."""
    match value:
        case None:
            return "ok"
        case Fault() if value.offset is not None:
            name = "sigbus" if isinstance(value, Sigbus) else "sigsegv"
            return f"{name} code={value.code} offset={value.offset:#x}"
        case str() if re.fullmatch(r"E[A-Z0-9]+", value):
            return f"error {value}"
        case str() if value == "success":
            return "ok"
    return ""


def words(value: object) -> str:
    """Return a value in words, on one line: None, the answer of an access that succeeds, is "success"."""
    text = _words(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _words(value: object) -> str:
    match value:
        case None:
            return "success"
        case bool():
            return "yes" if value else "no"
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
        case Sequence():
            return _listed(value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in fields(value) if one.repr]
        pairs = ", ".join(f"{name} {_words(getattr(value, name))}" for name in names)
        return f"{type(value).__name__} ({pairs})"
    return str(value)


class _Nothing:
    """A member that a mapping does not have."""

    def __str__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


def _fault(fault: Fault) -> str:
    name = "SIGBUS" if isinstance(fault, Sigbus) else "SIGSEGV"
    return name if fault.code in ("adrerr", "maperr") else f"{name} ({fault.code})"


def _are_lists(*values: object) -> bool:
    """Return whether all values are sequences of several entries, but no texts."""
    return all(isinstance(one, Sequence) and not isinstance(one, (str, bytes)) for one in values)


def _members(value: Mapping[object, object], names: Iterable[object]) -> str:
    return words({name: value.get(name, _NOTHING) for name in names})


def _listed(values: Sequence[object]) -> str:
    """Return the entries, one by one if they are few, else as runs of equal words."""
    if not values:
        return "nothing"
    if all(isinstance(one, Fault) for one in values) and len(values) > 1:
        return _pages(values)
    if len(values) > SHOWN:
        return _pages(values)
    return ", ".join(map(_words, values))


def _kind(value: object, place: int) -> str:
    """Return a page's word as a kind; a fault at its own page is of one kind for each page."""
    if isinstance(value, Fault) and value.offset == place * PAGE:
        return f"{_fault(value)} at its address"
    return _words(value)


def _pages(values: Sequence[object], chosen: Sequence[int] | None = None) -> str:
    """Return one value for each page, in runs: ``SIGBUS at its address in pages 0 to 3; 0x7 in page 4``."""
    places = list(range(len(values))) if chosen is None else list(chosen)
    runs: list[tuple[str, list[int]]] = []
    for kind, group in groupby(places, key=lambda place: _kind(values[place], place)):
        run = list(group)
        if runs and runs[-1][0] == kind and runs[-1][1][-1] + 1 == run[0]:
            runs[-1][1].extend(run)
        else:
            runs.append((kind, run))
    if len(runs) == 1 and len(places) == len(values):
        return f"{runs[0][0]} in all {len(values)} pages"
    said = [f"{kind} in {_range(run)}" for kind, run in runs[:SHOWN]]
    if len(runs) > SHOWN:
        said.append(f"and {sum(len(run) for _, run in runs[SHOWN:])} pages more")
    return "; ".join(said)


def _range(run: Sequence[int]) -> str:
    return f"page {run[0]}" if len(run) == 1 else f"pages {run[0]} to {run[-1]}"


def _entries(expected: Sequence[object], seen: Sequence[object]) -> tuple[str, str]:
    """Return two sequences in words; of long ones only the entries that differ."""
    if len(expected) != len(seen):
        return f"{len(expected)} entries: {words(expected)}", f"{len(seen)}: {words(seen)}"
    if len(expected) <= SHOWN and not any(isinstance(one, Fault) for one in (*expected, *seen)):
        return words(expected), words(seen)
    places = [place for place, pair in enumerate(zip(expected, seen, strict=True)) if pair[0] != pair[1]]
    if not places or len(places) == len(seen):
        return words(expected), words(seen)
    return _cut(_pages(expected, places)), _cut(_pages(seen, places))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
