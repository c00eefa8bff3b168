"""Sum up which of the lines that a series adds were executed: by patch, by function, by requirement group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.kernel.added_lines import AddedLine
from harness.kernel.gcov import Line, Lines

#: Lines of source text in the report; a series that is tested at all has fewer that were not executed.
MAX_TEXTS = 5000


@dataclass
class Counted:
    """An added line that is executable: its count in the whole run, and the scenarios that executed it."""

    line: Line
    scenarios: set[str] = field(default_factory=set)


class Measured:
    """The counts of the ``added`` lines of a series, by file and line number; ``compiled`` are C files."""

    def __init__(self, added: Mapping[str, Mapping[int, AddedLine]], compiled: Collection[str]) -> None:
        self.added = added
        self.compiled = compiled
        self.files: dict[str, dict[int, Counted]] = {}

    @property
    def executable(self) -> int:
        """The number of added lines that the compiler made code of."""
        return sum(map(len, self.files.values()))

    @property
    def executed(self) -> int:
        """The number of those that were executed."""
        return sum(1 for lines in self.files.values() for one in lines.values() if one.line.count)

    def add(self, lines: Lines, scenarios: Sequence[str]) -> None:
        """Add counts that each of the ``scenarios`` left; an empty one counts for no scenario."""
        for path, numbers in lines.items():
            added = self.added.get(path, {})
            kept = self.files.setdefault(path, {})
            for number, line in numbers.items():
                if number not in added:
                    continue
                one = kept.setdefault(number, Counted(Line()))
                for scenario in scenarios or [""]:
                    one.line.add(line)
                    if scenario and line.count:
                        one.scenarios.add(scenario)

    def members(self) -> dict[str, Any]:
        """Return the member ``files`` of lines.json."""
        return {
            path: {
                "lines": {
                    str(number): {
                        "patch": self.added[path][number].patch,
                        "function": self.added[path][number].function,
                        "count": one.line.count,
                        "scenarios": sorted(one.scenarios),
                        **({"branches": one.line.branches} if one.line.branches else {}),
                    }
                    for number, one in sorted(lines.items())
                }
            }
            for path, lines in sorted(self.files.items())
            if lines
        }


def report(
    measured: Measured, requirements: Mapping[str, Sequence[str]], subjects: Sequence[str]
) -> dict[str, Any]:
    """Return the sums for report.json.

    ``requirements`` are those of each scenario; ``subjects`` are those of the patches, from 1.
    """
    lines = [
        (path, number, measured.added[path][number], one)
        for path, numbers in sorted(measured.files.items())
        for number, one in sorted(numbers.items())
    ]
    executed = [one for one in lines if one[3].line.count]
    branches = [count for *_, one in lines for count in one.line.branches]
    return {
        "added": sum(len(numbers) for numbers in measured.added.values()),
        "executable": len(lines),
        "executed": len(executed),
        "branches": len(branches),
        "branches_taken": sum(1 for count in branches if count),
        "groups": _groups(executed, requirements),
        "patches": _patches(lines, subjects),
        "missed": _missed(measured, [one for one in lines if not one[3].line.count]),
        "not_compiled": _not_compiled(measured),
    }


def _groups(
    executed: Sequence[tuple[str, int, AddedLine, Counted]], requirements: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Return how many of the executed lines each requirement group has executed."""
    found: dict[str, int] = {}
    for *_, one in executed:
        groups = {
            name.partition("-")[0] for scenario in one.scenarios for name in requirements.get(scenario, ())
        }
        for group in groups:
            found[group] = found.get(group, 0) + 1
    return dict(sorted(found.items()))


def _patches(
    lines: Sequence[tuple[str, int, AddedLine, Counted]], subjects: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "patch": number,
            "subject": subject,
            "executable": sum(1 for one in lines if one[2].patch == number),
            "executed": sum(1 for one in lines if one[2].patch == number and one[3].line.count),
        }
        for number, subject in enumerate(subjects, 1)
    ]


def _missed(measured: Measured, lines: Sequence[tuple[str, int, AddedLine, Counted]]) -> list[dict[str, Any]]:
    """Return the lines that were not executed, by patch and function, with their text."""
    found: dict[tuple[int, str, str], list[list[object]]] = {}
    entered = {
        (path, measured.added[path][number].function)
        for path, numbers in measured.files.items()
        for number, one in numbers.items()
        if one.line.count
    }
    for path, number, added, _ in lines[:MAX_TEXTS]:
        found.setdefault((added.patch, path, added.function), []).append([number, added.text])
    return [
        {
            "patch": patch,
            "file": path,
            "function": function,
            "lines": those,
            "never_called": bool(function) and (path, function) not in entered,
        }
        for (patch, path, function), those in sorted(found.items())
    ]


def _not_compiled(measured: Measured) -> list[dict[str, Any]]:
    """Return the added lines that were not compiled, by patch and file: of a whole C file, or below #if."""
    found: dict[tuple[int, str], list[list[object]]] = {}
    for path, numbers in measured.added.items():
        whole = path.endswith(".c") and path not in measured.compiled
        for number, one in numbers.items():
            if (whole or one.left_out) and one.text.strip():
                found.setdefault((one.patch, path), []).append([number, one.text])
    return [
        {"patch": patch, "file": path, "lines": those[:MAX_TEXTS]}
        for (patch, path), those in sorted(found.items())
    ]
