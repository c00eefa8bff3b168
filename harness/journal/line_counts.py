"""The counts of executed lines in a results folder: as they were taken, and what was made of them.

==========================  ==================================================
``coverage/counts.jsonl``   the counters as taken out of the machines, an event for each scenario
``coverage/lines.json``     the lines that the series adds or changes: counts and scenarios of each
``coverage/report.json``    the same lines in sums, for the reports
``coverage/mutants.json``   faults that were tried in these lines later (``fault_trials``)
==========================  ==================================================
"""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.lib import jsonl
from harness.lib.errors import HarnessError
from harness.lib.files import digest, write_atomically

FOLDER = "coverage"
COUNTS = "counts.jsonl"
LINES = "lines.json"
REPORT = "report.json"
SCHEMA = 1
#: Bytes of the counters of one object, when a stored one is unpacked.
MAX_UNPACKED = 8 << 20
MAX_SENTENCE = 500  # characters about lost counters


@dataclass(frozen=True)
class Taken:
    """The counters that were taken once: those of a ``scenario``, empty for what ran outside of any.

    ``objects`` maps C files to the digests of their counters.
    """

    scenario: str
    objects: Mapping[str, str]


class CountsWriter:
    """Appends counters to the file of a results folder; one process writes equal ones once.

    Several processes may write to one file.  repair() is for the first of them.
    """

    def __init__(self, directory: Path) -> None:
        """Read which counters the file has.  Raises HarnessError if it is damaged."""
        self._path = directory / FOLDER / COUNTS
        self._path.parent.mkdir(exist_ok=True)
        with _undamaged(self._path):
            counters = [one for one in _events(self._path) if one.get("event") == "counters"]
            self._known = {str(one["digest"]) for one in counters}

    def repair(self) -> None:
        """Remove the unfinished last line that a killed run left."""
        jsonl.remove_unfinished_line(self._path)

    def lose(self, sentence: str) -> None:
        """Note that counters were lost.  Raises HarnessError."""
        jsonl.append(self._path, "lost", text=sentence[:MAX_SENTENCE])

    def add(self, scenario: str, counters: Mapping[str, bytes]) -> None:
        """Keep the ``counters`` that a scenario left.  Raises HarnessError."""
        names = {source: digest(data) for source, data in counters.items()}
        for source, data in counters.items():
            if (name := names[source]) not in self._known:
                self._known.add(name)
                packed = base64.b64encode(zlib.compress(data)).decode()
                jsonl.append(self._path, "counters", digest=name, data=packed)
        jsonl.append(self._path, "taken", scenario=scenario, objects=names)


def read_counts(directory: Path) -> tuple[list[Taken], dict[str, bytes], list[str]]:
    """Return what was taken in a run, in order, the counters by digest, and sentences about what was lost.

    Raises HarnessError if the file is damaged.
    """
    path = directory / FOLDER / COUNTS
    taken: list[Taken] = []
    counters: dict[str, bytes] = {}
    lost: list[str] = []
    with _undamaged(path):
        for one in _events(path):
            if one.get("event") == "counters":
                unpacked = zlib.decompressobj().decompress(base64.b64decode(one["data"]), MAX_UNPACKED)
                counters[str(one["digest"])] = unpacked
            elif one.get("event") == "lost":
                lost.append(str(one["text"]))
            else:
                objects = {str(source): str(name) for source, name in one["objects"].items()}
                taken.append(Taken(str(one["scenario"]), objects))
    return taken, counters, lost


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Raise HarnessError if the ``with`` block meets something in the file that is not written there."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, zlib.error) as error:
        raise HarnessError(f"{path} is damaged ({error!r}). Start a new run.") from error


def _events(path: Path) -> Iterator[dict[str, Any]]:
    for line in jsonl.whole_lines(path):
        yield json.loads(line)


def write(directory: Path, name: str, content: Mapping[str, object]) -> None:
    """Write one of the JSON files."""
    write_atomically(directory / FOLDER / name, json.dumps(content, indent=1) + "\n")


def read_report(directory: Path) -> dict[str, Any] | None:
    """Return the content of ``report.json``; None for a run without it.  Raises HarnessError if damaged."""
    path = directory / FOLDER / REPORT
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path} is damaged ({error!r}). Remove it to have reports without it.") from error
    return content if isinstance(content, dict) and content.get("schema") == SCHEMA else None
