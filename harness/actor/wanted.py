"""The reply that a scenario expected, in the words of the actor that gave another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set

from harness.actor.reply import Fault, Sigbus
from harness.actor.scene import Operation
from harness.actor.words import is_list
from harness.vm.word_runs import told_bytes, told_words


def wanted_reply(operator: str, left: object, right: object, latest: Operation) -> str:
    """Return the pattern that the reply to ``latest`` should match, where ``left OPERATOR right`` is false.

    ``left`` has to be the value of this very reply; if it is not, or no pattern says what was
    expected, the result is empty.
    """
    forms = _forms(latest)
    fitting = _fitting(left, latest)
    if not fitting:
        return ""

    def told(value: object) -> str:
        return next(filter(None, (form(value) for form in (*fitting, *forms))), "")

    if operator in ("==", "is"):
        return told(right)
    if operator in ("!=", "is not"):
        return f"not {told(right)}" if told(right) else ""
    if operator in ("in", "not in") and isinstance(right, (Set, Sequence)) and not isinstance(right, str):
        either = " | ".join(sorted(filter(None, map(told, right))))
        return f"not {either}" if either and operator == "not in" else either
    return ""


def wrong_part(
    left: object, right: object, recent: Sequence[Operation]
) -> tuple[Operation, object, object] | None:
    """Return the operation of the first part of ``left`` that is not as in ``right``, and both parts.

    The parts have to be the values of the latest replies, one each and in order; if they are
    not, the result is None.
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping) and list(left) == list(right):
        left, right = list(left.values()), list(right.values())
    if not is_list(left) or not is_list(right) or not 1 < len(left) == len(right) <= len(recent):
        return None
    parts = list(zip(recent[len(recent) - len(left) :], left, right, strict=True))
    if not all(_fitting(one, operation) for operation, one, _ in parts):
        return None
    return next((part for part in parts if part[1] != part[2]), None)


def _fitting(value: object, operation: Operation) -> list[Callable[[object], str]]:
    """Return the ways in which the reply to an operation says this value."""
    return [form for form in _forms(operation) if (seen := form(value)) and _same(seen, operation.reply)]


def _same(seen: str, reply: str) -> bool:
    if seen.endswith(" *"):
        return f"{reply} ".startswith(seen[:-1])
    return seen == reply or (seen.startswith("error ") and reply.startswith(f"{seen} "))


def _forms(latest: Operation) -> Sequence[Callable[[object], str]]:
    """Return the ways to say a value as a reply; those with numbers say them as this operation does."""
    reply = latest.reply
    digits = re.match(r"ok 0x([0-9a-f]+)", reply)
    if load := re.match(r"load(8|16|32|64) ", latest.call):
        width = int(load[1]) // 4
    else:
        width = len(digits[1]) if digits else 0
    padded = width in (2, 4, 8, 16)

    def number(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return ""
        if padded:
            return f"ok {value:#0{width + 2}x}"
        return f"ok {value:#x}" if digits else f"ok {value}"

    def plain_hexadecimal(value: object) -> str:
        return f"ok {value:#x}" if isinstance(value, int) and not isinstance(value, bool) else ""

    def answer(value: object) -> str:
        return ("ok" if reply == "ok" else "ok *") if value is None else _answer(value)

    def named_number(value: object) -> str:
        """Say a count as ``outlive`` does: ``sigbus=250``."""
        name = re.fullmatch(r"ok ([a-z]+)=\d+", reply)
        is_count = isinstance(value, int) and not isinstance(value, bool)
        return f"ok {name[1]}={value}" if name and is_count else ""

    return (answer, number, named_number, plain_hexadecimal, _pages, _runs, _bytes, _tally, _words)


def _answer(value: object) -> str:
    match value:
        case Fault() if value.offset is not None:
            name = "sigbus" if isinstance(value, Sigbus) else "sigsegv"
            return f"{name} code={value.code} offset={value.offset:#x}"
        case str() if re.fullmatch(r"E[A-Z0-9]+", value):
            return f"error {value}"
        case str() if value == "success":
            return "ok *"
    return ""


def _pages(value: object) -> str:
    """Say a list of words and faults as ``loadpages`` does."""
    if not is_list(value):
        return ""
    said = ["ok"]
    for one in value:
        if isinstance(one, Fault) and one.offset is not None:
            said.append(f"{'sigbus' if isinstance(one, Sigbus) else 'sigsegv'}:{one.code}:{one.offset:#x}")
        elif isinstance(one, int) and one >= 0:
            said.append(f"{one:#010x}")
        else:
            return ""
    return " ".join(said)


def _runs(value: object) -> str:
    """Say a list of words as the host's steps do."""
    if not is_list(value):
        return ""
    words = [one for one in value if isinstance(one, int) and 0 <= one < 1 << 32]
    return f"ok {told_words(words)}" if words and len(words) == len(value) else ""


def _bytes(value: object) -> str:
    return f"ok {told_bytes(value)}" if isinstance(value, bytes) else ""


def _tally(value: object) -> str:
    """Say counts by name as ``attempts`` does; in another order they are another reply."""
    if not isinstance(value, Mapping) or not all(isinstance(one, int) for one in value.values()):
        return ""
    return " ".join(["ok", *(f"{name}={count}" for name, count in value.items())])


def _words(value: object) -> str:
    return _answer(value) or f"ok {value}".rstrip() if isinstance(value, str) else ""
