"""The messages between a run and its workers, other processes of this program with machines of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeAlias

from harness.lib.errors import PatchproofError
from harness.run.give_up import GivenUp
from harness.run.machines import TestedSoftware
from harness.run.snapshots import Shared

# -- from the run to a worker ----------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """The stages have made the ``software``; ``machines`` is the number that the run has started.

    ``snapshots`` are those of the run, as Snapshots.all() returns them.
    """

    software: TestedSoftware
    machines: int
    snapshots: Sequence[Shared]


@dataclass(frozen=True)
class Do:
    """Run this scenario; ``given_up`` is what the run has given up so far."""

    id: str
    given_up: GivenUp


@dataclass(frozen=True)
class End:
    """End after the scenario in progress; at once, if ``interrupted`` says what ended the run early."""

    interrupted: str = ""


# -- from a worker to the run ----------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """A report of pytest about a phase of the scenario, as plain data."""

    data: Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """The journal has the verdict; ``violated`` is as in Runner."""

    id: str
    violated: bool


@dataclass(frozen=True)
class Tally:
    """A call of the GiveUp of the run: the name of the method, and its arguments."""

    method: Literal["lost", "kept", "booted", "not_booted"]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Failed:
    """The worker cannot go on, so the run cannot either."""

    error: PatchproofError


@dataclass(frozen=True)
class Over:
    """The worker has ended its machine, and ends."""


Order: TypeAlias = Begin | Do | End
News: TypeAlias = Report | Done | Tally | Failed | Over
ToWorker: TypeAlias = "Connection[Order, News]"
ToRun: TypeAlias = "Connection[News, Order]"
