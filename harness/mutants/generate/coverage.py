"""The coverage of the lines of a series by a run.

A run with coverage leaves ``coverage/lines.json`` in its results folder::

    {"schema": 1, "series": NAME, "kernel": ID, "files": {FILE: {"lines": {"123":
        {"patch": 5, "function": "f", "count": 7, "scenarios": [ID, ...]}}}}}

The numbers are those of the patched tree.  A line with the count 0 was compiled and never ran.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.lib.errors import UsageError
from harness.lib.text import printable

LINES = Path("coverage") / "lines.json"
_SCHEMA = 1
#: Bytes of the largest file with coverage that is read.
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Covered:
    """A line that was compiled: how often it ran, and in which scenarios."""

    count: int
    scenarios: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """The coverage of the lines of a series, by file and line; ``origin`` is its file.

    ``kernel`` is the identity of the kernel that was counted, empty if the file has none.
    """

    series: str
    origin: Path
    lines: Mapping[str, Mapping[int, Covered]] = field(default_factory=dict)
    kernel: str = ""

    @property
    def run(self) -> Path | None:
        """Return the results folder that the file lies in; None if it lies elsewhere."""
        folder = self.origin.parent.parent
        return folder if self.origin == folder / LINES and folder.is_dir() else None

    def executed(self, file: str) -> set[int]:
        """Return the lines of a file that ran."""
        return {number for number, one in self.lines.get(file, {}).items() if one.count}

    def scenarios(self, file: str, first: int, last: int) -> list[str]:
        """Return the scenarios that reached one of these lines."""
        here = self.lines.get(file, {})
        found = [name for line in range(first, last + 1) if line in here for name in here[line].scenarios]
        return list(dict.fromkeys(found))


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
        return Coverage(str(content["series"]), path, lines, str(content.get("kernel", "")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"The coverage {path} cannot be read ({printable(repr(error))}).") from error


def _covered(one: Mapping[str, Any]) -> Covered:
    return Covered(int(one["count"]), tuple(map(str, one["scenarios"])))
