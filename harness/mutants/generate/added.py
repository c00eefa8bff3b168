"""The C lines that a series adds or changes, and the coverage of them by a run.

A run with coverage leaves ``coverage/lines.json`` in its results folder::

    {"schema": 1, "series": NAME, "kernel": ID, "files": {FILE: {"lines": {"123":
        {"patch": 5, "function": "f", "count": 7, "scenarios": [ID, ...]}}}}}

The numbers are those of the patched tree.  A line with the count 0 was compiled and never ran.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.kernel.tree import Tree
from harness.lib import git
from harness.lib.errors import UsageError
from harness.lib.text import printable

LINES = Path("coverage") / "lines.json"
_SCHEMA = 1
#: Bytes of the largest file with coverage that is read.
MAX_BYTES = 64 << 20
_HUNK = re.compile(rb"@@ -\S+ \+(\d+)(?:,(\d+))? @@")


def added_lines(tree: Tree) -> dict[str, frozenset[int]]:
    """Return by file the numbers, in the patched tree, of the C lines that differ from the base."""
    plain = ["--unified=0", "--no-renames", "--no-ext-diff", "--no-color", "--no-prefix"]
    argv = ["diff", *plain, tree.base.commit, tree.commit, "--", "*.c"]
    found: dict[str, set[int]] = {}
    file = ""
    for line in git.query(argv, env=git.environment(tree.repository)).split(b"\n"):
        if line.startswith(b"+++ "):
            file = line[4:].decode(errors="surrogateescape")
        elif hunk := _HUNK.match(line):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            found.setdefault(file, set()).update(range(first, first + count))
    return {name: frozenset(lines) for name, lines in found.items() if lines}


@dataclass(frozen=True)
class Covered:
    """A line that was compiled: how often it ran, in which scenarios, and the patch that brought it."""

    count: int
    scenarios: tuple[str, ...] = ()
    patch: int = 0


@dataclass(frozen=True)
class Coverage:
    """The coverage of the lines of a series, by file and line; ``origin`` is its file."""

    series: str
    origin: Path
    lines: Mapping[str, Mapping[int, Covered]] = field(default_factory=dict)

    def executed(self, file: str) -> set[int]:
        """Return the lines of a file that ran."""
        return {number for number, one in self.lines.get(file, {}).items() if one.count}

    def scenarios(self, file: str, first: int, last: int) -> list[str]:
        """Return the scenarios that reached one of these lines."""
        here = self.lines.get(file, {})
        found = [name for line in range(first, last + 1) if line in here for name in here[line].scenarios]
        return list(dict.fromkeys(found))

    def reach(self) -> dict[str, int]:
        """Return by scenario the number of lines that it reached."""
        found: dict[str, int] = {}
        for here in self.lines.values():
            for one in here.values():
                for name in one.scenarios:
                    found[name] = found.get(name, 0) + 1
        return found


def read_coverage(results: Path) -> Coverage:
    """Return the coverage that a run has left in its results folder.  Raises UsageError."""
    path = results if results.is_file() else results / LINES
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"The coverage {path} is larger than {MAX_BYTES >> 20} MiB.")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"There is no {LINES} in {results}. A run with `--coverage` leaves one in its results folder."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"The coverage {path} cannot be read: {error}.") from error
    try:
        if content["schema"] != _SCHEMA:
            raise UsageError(f"The coverage {path} has the schema {content['schema']}; {_SCHEMA} is known.")
        lines = {
            str(file): {int(number): _covered(one) for number, one in members["lines"].items()}
            for file, members in content["files"].items()
        }
        return Coverage(str(content["series"]), path, lines)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"The coverage {path} cannot be read ({printable(repr(error))}).") from error


def _covered(one: Mapping[str, Any]) -> Covered:
    return Covered(int(one["count"]), tuple(map(str, one["scenarios"])), int(one.get("patch") or 0))
