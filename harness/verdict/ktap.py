"""Parse KTAP, the output of the kernel's own test programs (Documentation/dev-tools/ktap.rst).

The output is hostile: the number of cases, their nesting and the length of each text
are limited, and the parser does not recurse.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.lib.text import printable
from harness.verdict.case import Case
from harness.verdict.verdict import Verdict

MAX_CASES = 2000
MAX_DEPTH = 16
MAX_FAULTS = 20
SHOWN = 4  # diagnostic lines that are kept for a case
NAME_LIMIT = 200  # characters
LINE_LIMIT = 300  # characters of a line that are read and shown
SEPARATOR = " > "  # between the names of a case and its parent

_VERSION = re.compile(r"(?:K?TAP) version \d{1,3}\s*")
_PLAN = re.compile(r"1\.\.(\d{1,9})(?:\s*#\s*(?P<skip>SKIP)\b[\s:]*(?P<why>.*))?\s*", re.IGNORECASE)
_RESULT = re.compile(
    r"(?P<word>ok|not ok)\s+(?P<number>\d{1,9})(?:\s+-(?=\s|$))?(?P<name>(?:\\#|[^#])*)"
    r"(?:#\s*(?P<directive>\w+)?[\s:]*(?P<why>.*))?"
)
_BAIL_OUT = re.compile(r"Bail out!\s*(.*)", re.IGNORECASE)
_SUBTEST = re.compile(r"#\s*Subtest:.*", re.IGNORECASE)
_KNOWN_FAILURES = ("TODO", "XFAIL")


@dataclass(frozen=True)
class Report:
    """The results in the output of a program.

    ``cases`` are those without subtests, in order, and a parent that failed by itself.
    ``faults`` are sentences about output that is no valid KTAP.  ``found`` is true if a version,
    a plan or a result was printed.  ``skipped`` is the reason in a plan of no tests, None without one.
    """

    cases: tuple[Case, ...] = ()
    faults: tuple[str, ...] = ()
    found: bool = False
    skipped: str | None = None


@dataclass
class _Level:
    """The results of one level of nesting, whose lines begin with ``indent`` blanks."""

    indent: int
    planned: int | None = None
    results: int = 0
    cases: list[Case] = field(default_factory=list)
    diagnostics: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN))


def parse(lines: Iterable[str]) -> Report:
    """Return the results in the lines of a program's output."""
    reader = _Reader()
    for line in lines:
        reader.read(line)
    return reader.report()


class _Reader:
    def __init__(self) -> None:
        self.levels = [_Level(0)]
        self.faults: dict[str, None] = {}
        self.found = False
        self.skipped: str | None = None
        self.count = 0

    def read(self, line: str) -> None:
        """Read one line, without its newline."""
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        text = text[:LINE_LIMIT].rstrip()
        if _VERSION.fullmatch(text) or _SUBTEST.fullmatch(text):
            self._level(indent)
        elif plan := _PLAN.fullmatch(text):
            self._plan(indent, plan)
        elif result := _RESULT.fullmatch(text):
            self._result(indent, result)
        elif bail := _BAIL_OUT.fullmatch(text):
            self.found = True
            self._fault(f"it bailed out: {printable(bail[1]) or 'without a reason'}")
        elif text and (level := self._known_level(indent)) is not None:
            level.diagnostics.append(printable(text, LINE_LIMIT))

    def report(self) -> Report:
        """Return the results, after the last line."""
        while len(self.levels) > 1:
            self._fault("its last subtests have no result of their parent")
            self._close_deepest()
        top = self.levels[0]
        if self.found and self.skipped is None:
            self._check_plan(top, "it")
        return Report(tuple(top.cases), tuple(self.faults), self.found, self.skipped)

    def _level(self, indent: int) -> _Level | None:
        """Return the level of lines with this indentation, a new one if it is deeper.

        The result is None for a line that is too deep.
        """
        self.found = True
        while len(self.levels) > 1 and self.levels[-1].indent > indent:
            self._fault("a line of its KTAP is indented less than the subtests before it, which have no end")
            self._close_deepest()
        if self.levels[-1].indent < indent:
            if len(self.levels) > MAX_DEPTH:
                self._fault(f"its subtests are nested more than {MAX_DEPTH} deep")
                return None
            self.levels.append(_Level(indent))
        return self.levels[-1]

    def _known_level(self, indent: int) -> _Level | None:
        """Return the level to which a diagnostic line belongs."""
        return next((one for one in reversed(self.levels) if one.indent <= indent), None)

    def _plan(self, indent: int, match: re.Match[str]) -> None:
        level = self._level(indent)
        if level is None:
            return
        if level.planned is not None:
            self._fault("it printed two plans")
        level.planned = int(match[1])
        if match["skip"] and level.planned == 0 and len(self.levels) == 1:
            self.skipped = printable(match["why"]).strip() or "it gave no reason"

    def _result(self, indent: int, match: re.Match[str]) -> None:
        children: _Level | None = None
        if len(self.levels) > 1 and self.levels[-2].indent <= indent < self.levels[-1].indent:
            children = self.levels.pop()
        level = self._level(indent)
        if level is None:
            return
        level.results += 1
        number = int(match["number"])
        if number != level.results:
            self._fault(f"the result {number} stands where {level.results} was to come")
            level.results = max(level.results, min(number, MAX_CASES))
        case = _case(match, number, list(level.diagnostics))
        level.diagnostics.clear()
        if children is None:
            self._add(level, case)
            return
        self._check_plan(children, f"the test {case.name}")
        self._adopt(level, children, case.name)
        failed = any(one.verdict is Verdict.VIOLATES for one in children.cases)
        if case.verdict is Verdict.VIOLATES and not failed:
            self._add(level, case)
        elif case.verdict is Verdict.CONFORMS and failed:
            self._fault(f"the test {case.name} is ok, and one of its subtests is not")

    def _add(self, level: _Level, case: Case) -> None:
        self.count += 1
        if self.count > MAX_CASES:
            self._fault(f"it printed more than {MAX_CASES} results, and only these are told")
            if case.verdict is not Verdict.VIOLATES or self.count > 2 * MAX_CASES:
                return
        level.cases.append(case)

    @staticmethod
    def _adopt(level: _Level, children: _Level, name: str) -> None:
        level.cases += [
            Case(f"{name}{SEPARATOR}{one.name}"[: 4 * NAME_LIMIT], one.verdict, one.reason)
            for one in children.cases
        ]

    def _close_deepest(self) -> None:
        """End a level whose parent has no result; its cases are kept."""
        level = self.levels.pop()
        self._adopt(self.levels[-1], level, "(no parent)")

    def _check_plan(self, level: _Level, who: str) -> None:
        if level.planned is None:
            self._fault(f"{who} printed no plan (1..N), so that missing results would not be noticed")
        elif level.planned != level.results:
            self._fault(f"{who} planned {level.planned} results and printed {level.results}")

    def _fault(self, sentence: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults[sentence] = None


def _case(match: re.Match[str], number: int, diagnostics: list[str]) -> Case:
    """Return the case of a result line; ``diagnostics`` are the last lines before it."""
    name = printable(match["name"].replace("\\#", "#").strip(), NAME_LIMIT) or f"test {number}"
    directive = (match["directive"] or "").upper()
    why = printable(match["why"] or "").strip()
    if directive == "SKIP":
        return Case(name, Verdict.NOT_APPLICABLE, why or "it gave no reason")
    if directive in _KNOWN_FAILURES:
        return Case(
            name, Verdict.NOT_APPLICABLE, f"it is expected to fail ({directive}): {why or 'no reason'}"
        )
    if match["word"] == "ok":
        return Case(name, Verdict.CONFORMS)
    told = " ".join(part for part in (match["directive"] or "", why) if part)
    lines = [f"{told}", *diagnostics] if told else diagnostics
    return Case(name, Verdict.VIOLATES, "\n".join(lines) or "it printed no reason")
