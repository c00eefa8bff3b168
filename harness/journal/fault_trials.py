"""The faults that were tried in the executed lines of a run, in its results folder.

``mutants --generate`` writes ``coverage/mutants.json`` after the run.  The file has the series and the
kernel of the coverage that was used, so that it is refused beside another coverage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.journal import line_counts
from harness.lib.errors import HarnessError

MUTANTS = "mutants.json"
SCHEMA = 1
#: Bytes of the largest file that is read; 500 faults have 300 KiB.
MAX_BYTES = 16 << 20
_IDENTITY = ("series", "kernel")


class Outcome(StrEnum):
    """The outcome of one fault, as the file has it."""

    KILLED = "killed"
    SURVIVED = "survived"
    ERROR = "error"
    """Its trial failed: nothing is known."""
    EQUIVALENT = "equivalent"
    """No user can notice it: it is neither tried nor counted."""
    OPEN = "not tried to the end"


def write(directory: Path, series: str, kernel: str, content: Mapping[str, object]) -> None:
    """Write the faults into the results folder ``directory``, whose coverage is of ``series`` and ``kernel``.

    Raises HarnessError if the folder has another coverage, or cannot be written.
    """
    path = directory / line_counts.FOLDER / MUTANTS
    identity = {"series": series, "kernel": kernel}
    found = line_counts.read_report(directory)
    if found is None or _identity(found) != identity:
        raise HarnessError(f"{path} was not written: the coverage there is not the one that was used.")
    try:
        line_counts.write(directory, MUTANTS, {"schema": SCHEMA, **identity, **content})
    except OSError as error:
        raise HarnessError(f"{path} was not written ({error.strerror or error}).") from error


def read(directory: Path) -> dict[str, Any] | None:
    """Return the content of the file; None for a run without it, or without coverage.

    Raises HarnessError if it is damaged, larger than MAX_BYTES, or of another series or kernel than the
    coverage beside it.
    """
    path = directory / line_counts.FOLDER / MUTANTS
    report = line_counts.read_report(directory)
    if report is None:
        return None
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        content = json.loads(data)
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(directory, error) from error
    if _identity(content) != _identity(report):
        raise HarnessError(
            f"{path} is about another series or kernel than the coverage beside it. "
            "Remove it to have reports without it."
        )
    return dict(content)


def damaged(directory: Path, error: Exception) -> HarnessError:
    """Return the error about a damaged file, with what is wrong with it."""
    path = directory / line_counts.FOLDER / MUTANTS
    return HarnessError(f"{path} is damaged ({error!r}). Remove it to have reports without it.")


def _identity(content: Mapping[str, Any]) -> dict[str, object]:
    return {name: content.get(name) for name in _IDENTITY}
