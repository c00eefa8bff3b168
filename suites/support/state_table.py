"""The state table, ``suites/state_table.toml``: what becomes of a DMABUF in each of its states."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.lib.errors import HarnessError

STATES = Path(__file__).resolve().parent.parent / "state_table.toml"


@dataclass(frozen=True)
class StateTable:
    """Event to state to what is seen then; every event has a cell for every state."""

    states: tuple[str, ...]
    events: Mapping[str, Mapping[str, str]]


@functools.cache
def load(path: Path = STATES) -> StateTable:
    """Read the table.  Raises HarnessError that says which row is malformed."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        states, rows = tuple(content["states"]), content["events"].items()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, LookupError, AttributeError) as error:
        raise HarnessError(f"{path} holds no table of states and events: {error}.") from error
    for event, cells in rows:
        if len(cells) != len(states) or not all(isinstance(cell, str) and cell for cell in cells):
            raise HarnessError(
                f"{path}: the row {event!r} does not have a word for each of {', '.join(states)}."
            )
    return StateTable(states, {event: dict(zip(states, cells, strict=True)) for event, cells in rows})
