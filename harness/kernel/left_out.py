"""The lines of a C file that a configuration leaves out: those below ``#ifdef CONFIG_X`` and the like.

Only conditions of configuration options are decided.  Lines below any other condition count as compiled,
so this list has no line too many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_DIRECTIVE = re.compile(r"\s*#\s*(ifdef|ifndef|if|elif|else|endif)\b(.*)")
_ATOM = re.compile(
    r"(?:(?P<how>IS_ENABLED|IS_BUILTIN|IS_MODULE|IS_REACHABLE|defined)\s*\(\s*CONFIG_(?P<name>\w+)\s*\)"
    r"|defined\s+CONFIG_(?P<bare>\w+))"
)
_COMMENT = re.compile(r"/\*.*?\*/|//.*|/\*.*")
#: Characters of a condition, and conditions in one another, that are looked at.
MAX_CONDITION = 500
MAX_DEPTH = 100


@dataclass
class _Block:
    """An open ``#if``: whether its lines are compiled (None: not known), and an earlier branch was."""

    compiled: bool | None
    before: bool | None


def left_out(lines: Sequence[str], options: Mapping[str, str]) -> set[int]:
    """Return the numbers, from 1, of the ``lines`` that a kernel with these ``options`` does not compile."""
    found: set[int] = set()
    blocks: list[_Block] = []
    for number, line in enumerate(lines, 1):
        directive = _DIRECTIVE.match(line)
        if directive is None:
            if any(block.compiled is False for block in blocks) and line.strip():
                found.add(number)
            continue
        word, condition = directive[1], _COMMENT.sub(" ", directive[2]).strip()
        if word in ("if", "ifdef", "ifndef"):
            if len(blocks) >= MAX_DEPTH:
                return found
            value = _value(word, condition, options)
            blocks.append(_Block(value, value))
        elif blocks and word == "endif":
            blocks.pop()
        elif blocks:
            value = True if word == "else" else _value("if", condition, options)
            blocks[-1] = _next(blocks[-1], value)
    return found


def _next(block: _Block, value: bool | None) -> _Block:
    """Return the block at its next branch, whose own condition has this ``value``."""
    if block.before is True:
        return _Block(False, True)
    compiled = value if block.before is False else (False if value is False else None)
    before = True if compiled is True else (False if block.before is False and value is False else None)
    return _Block(compiled, before)


def _value(word: str, condition: str, options: Mapping[str, str]) -> bool | None:
    """Return whether a condition is met; None if it depends on anything but options."""
    if len(condition) > MAX_CONDITION:
        return None
    if word in ("ifdef", "ifndef"):
        name = re.fullmatch(r"CONFIG_(\w+)", condition)
        return None if name is None else (_has("defined", name[1], options) == (word == "ifdef"))
    text = _ATOM.sub(lambda one: _word(one, options), condition)
    tokens = re.findall(r"&&|\|\||[!()TF]|\S", text)
    try:
        value, rest = _either(tokens)
    except (ValueError, RecursionError):
        return None
    return None if rest else value


def _word(one: re.Match[str], options: Mapping[str, str]) -> str:
    return "T" if _has(one["how"] or "defined", one["name"] or one["bare"], options) else "F"


def _has(how: str, name: str, options: Mapping[str, str]) -> bool:
    value = options.get(name.removesuffix("_MODULE") if how == "defined" else name, "n")
    if how == "defined" and name.endswith("_MODULE"):
        return value == "m"
    allowed = {
        "IS_MODULE": ("m",),
        "IS_BUILTIN": ("y",),
        "IS_ENABLED": ("y", "m"),
        "IS_REACHABLE": ("y", "m"),
    }
    return value in allowed[how] if how in allowed else value not in ("n", "m")


def _either(tokens: Sequence[str]) -> tuple[bool, Sequence[str]]:
    """Parse ``a || b``; return the value and the tokens behind it.  Raises ValueError for other words."""
    value, rest = _both(tokens)
    while rest[:1] == ["||"]:
        other, rest = _both(rest[1:])
        value = value or other
    return value, rest


def _both(tokens: Sequence[str]) -> tuple[bool, Sequence[str]]:
    value, rest = _single(tokens)
    while rest[:1] == ["&&"]:
        other, rest = _single(rest[1:])
        value = value and other
    return value, rest


def _single(tokens: Sequence[str]) -> tuple[bool, Sequence[str]]:
    if not tokens or tokens[0] not in "!(TF":
        raise ValueError(tokens)
    first, rest = tokens[0], tokens[1:]
    if first == "!":
        value, rest = _single(rest)
        return not value, rest
    if first == "(":
        value, rest = _either(rest)
        if rest[:1] != [")"]:
            raise ValueError(tokens)
        return value, rest[1:]
    return first == "T", rest
