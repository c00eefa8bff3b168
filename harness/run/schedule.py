"""The order in which the scenarios of a run are given out to machines that work side by side.

Scenarios that can share a machine are a group.  A machine stays with its group until that is done.
Then it takes the group with the most work left that no other machine is at; if there is none, it joins
another machine, if there is more work left than its boot costs.  One machine at most has a big layout,
as two of these need too much memory.  Within a group the longest scenarios are the first, so that no
machine is left alone with one at the end.  Those of about the same length are mixed: the variants of
one scenario wait for the same thing, and side by side they leave the processors idle.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.run.needs import Needs, is_big
from harness.vm.pci_devices import Layout

#: Seconds of work that are worth another machine: it boots, and its detectors are proven.
WORTH_A_BOOT = 8.0
#: The number of the run's own process; workers have numbers from 1.
OWN = 0


@dataclass(frozen=True)
class Job:
    """A scenario to give out: it takes ``seconds``; ``round`` is the number of its repetition."""

    id: str
    needs: Needs
    seconds: float
    round: int = 1


_Key = tuple[int, Layout, str]  # the round, the layout, and the scenario that has a machine alone


@dataclass
class _Group:
    """The scenarios left of those that can share a machine; ``at`` are the processes that run them."""

    jobs: deque[Job]
    at: set[int] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.jobs)


class Schedule:
    """The scenarios left to give out, to the run's own process and its workers; safe for threads.

    ``jobs`` are in the order of a run with one machine.  With ``keep_order``, each group keeps it.
    Without ``big_beside`` no other machine works beside one of a big layout.
    """

    def __init__(self, jobs: Sequence[Job], *, keep_order: bool = False, big_beside: bool = True) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._place: dict[int, _Key] = {}

        def is_quiet(job: Job) -> bool:
            return job.needs.quiet or (is_big(job.needs.layout) and not big_beside)

        self._shared = _groups((one for one in jobs if not is_quiet(one)), keep_order)
        self._quiet = _groups(filter(is_quiet, jobs), keep_order)
        if self._shared:
            first = next(iter(self._shared))  # the first machine is booted for it
            self._place[OWN] = first
            self._shared[first].at.add(OWN)

    def next(self, process: int) -> str | None:
        """Return the id of the next scenario for a process; None if none is left that runs beside others."""
        with self._lock:
            return None if self._closed else self._next(process, self._shared, WORTH_A_BOOT)

    def next_quiet(self) -> str | None:
        """Return the id of the next scenario that the run's own process runs when all workers have ended.

        It is one whose machine must be the only one, or one that a worker which died has left.
        """
        with self._lock:
            if self._closed:
                return None
            return self._next(OWN, self._shared, 0.0) or self._next(OWN, self._quiet, 0.0)

    def leave(self, process: int) -> None:
        """Take in that a worker has ended."""
        with self._lock:
            for group in self._shared.values():
                group.at.discard(process)

    def close(self) -> None:
        """Give out no more scenarios."""
        with self._lock:
            self._closed = True

    def _next(self, process: int, groups: dict[_Key, _Group], least: float) -> str | None:
        key = self._place.get(process)
        if key not in groups or not groups[key].jobs:
            key = self._choose(process, groups, least)
            if key is None:
                return None
            for group in groups.values():
                group.at.discard(process)
            self._place[process] = key
        groups[key].at.add(process)
        return groups[key].jobs.popleft().id

    @staticmethod
    def _choose(process: int, groups: dict[_Key, _Group], least: float) -> _Key | None:
        """Return the group that a machine takes next: of the earliest round, a free one first."""
        big = any(group.at - {process} for key, group in groups.items() if is_big(key[1]))
        left = [key for key, group in groups.items() if group.jobs and not (big and is_big(key[1]))]
        for number in sorted({key[0] for key in left}):
            for free in (True, False):
                keys = [key for key in left if key[0] == number and bool(groups[key].at) is not free]
                best = max(keys, key=lambda key: groups[key].seconds, default=None)
                if best is not None and (free or groups[best].seconds > least):
                    return best
        return None


def _groups(jobs: Iterable[Job], keep_order: bool) -> dict[_Key, _Group]:
    found: dict[_Key, list[Job]] = {}
    for one in jobs:
        found.setdefault((one.round, one.needs.layout, one.id if one.needs.alone else ""), []).append(one)
    if not keep_order:
        for group in found.values():
            # As in a run with one machine, those that taint the kernel themselves are the last ones.
            group.sort(key=lambda one: (bool(one.needs.taints), -_magnitude(one.seconds), _mixed(one.id)))
    return {key: _Group(deque(group)) for key, group in found.items()}


def _magnitude(seconds: float) -> int:
    """Return the exponent of the power of two that is just above ``seconds``."""
    return math.frexp(seconds)[1]


def _mixed(text: str) -> int:
    """Return a number that is the same in each run, and has nothing to do with the order of texts."""
    return zlib.crc32(text.encode(errors="surrogateescape"))
