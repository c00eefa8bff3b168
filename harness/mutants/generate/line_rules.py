"""Faults of single lines, by universalmutator with the rules of ``kernel.rules``."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Set
from pathlib import Path

from universalmutator import mutator

from harness.mutants.generate.c_source import Source
from harness.mutants.generate.fault import Fault

RULES = Path(__file__).parent / "kernel.rules"
_ARROW = " ==>"
#: Characters of a line that is changed.  A rule may take the square of them as time.
MAX_LINE = 500


def faults(file: str, source: Source, wanted: Set[int]) -> Iterator[Fault]:
    """Yield the faults of the ``wanted`` lines that are inside of functions, by line and rule."""
    names = _names()
    inside = {line for one in source.functions for line in range(one.body.first, one.body.last + 1)}
    chosen = {number for number in inside & wanted if len(source.lines[number - 1]) <= MAX_LINE}
    lines = [text if number in chosen else "\n" for number, text in enumerate(source.lines, 1)]
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
        mutants = mutator.mutants_regexp(
            lines, ruleFiles=[str(RULES)], ignorePatterns=[], ignoreStringOnly=True
        )
    for number, new, (rule, _place), _ in mutants:
        function = source.function_at(number)
        old = source.lines[number - 1]
        if function is None or not old.endswith("\n"):
            continue
        yield Fault(file, number, number, function.identifier, names[rule], old, new)


def _names() -> dict[str, str]:
    """Return the name of each rule: the comment above it."""
    names: dict[str, str] = {}
    name = ""
    for line in RULES.read_text().splitlines():
        if line.startswith("#"):
            name = line.removeprefix("#").strip()
        elif _ARROW in line:
            names[line] = name
    return names


def check() -> list[str]:
    """Return the rules whose left side is no regular expression; universalmutator would ignore them."""
    wrong = []
    for rule in _names():
        try:
            re.compile(rule.partition(_ARROW)[0])
        except re.error as error:
            wrong.append(f"{rule}: {error}")
    return wrong
