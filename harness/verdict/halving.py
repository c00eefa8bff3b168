"""The first patch with which a violation shows, found by halving over the prefixes of a series.

A prefix is the first patches of a series, by their number.  Values only: whoever runs a scenario on a
prefix reports a Try.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The state of one scenario on one prefix."""

    HOLDS = "holds"
    """It does not violate."""
    NOT_YET = "not yet"
    """It is not applicable, an operation of the series' interface is refused, or the manifest expects it."""
    AS_BASE = "as the base"
    """It violates as on the whole series, and as on the base without the series: both refuse the same."""
    OTHERWISE = "otherwise"
    """It violates in another way than on the whole series."""
    VIOLATES = "violates"
    """It violates as on the whole series."""
    UNKNOWN = "unknown"
    """The prefix does not build or boot, or the scenario gave no verdict."""


_SHOWS = (State.VIOLATES,)
_SHOWS_SOMEHOW = (State.VIOLATES, State.OTHERWISE)


@dataclass(frozen=True)
class Try:
    """A scenario on the prefix of ``count`` patches of ``of``; ``subject`` is that of the last one."""

    count: int
    of: int
    state: State
    reason: str = ""
    subject: str = ""

    def members(self) -> dict[str, Any]:
        """Return the try as members of a JSON object."""
        return {
            "count": self.count,
            "of": self.of,
            "state": self.state,
            "reason": self.reason,
            "subject": self.subject,
        }

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> Try:
        """Return the try of members().

        Raises KeyError, TypeError, ValueError or OverflowError for anything else.
        """
        count, of = int(members["count"]), int(members["of"])
        if not 0 < count <= of:
            raise ValueError(f"there are no first {count} of {of} patches")
        state = State(members["state"])
        return cls(count, of, state, str(members["reason"]), str(members["subject"]))


@dataclass(frozen=True)
class Since:
    """The first patch with which a violation shows: ``first`` to ``last`` of ``of``, from 1.

    ``subject`` is that of the patch ``last``.  ``skipped`` are the prefixes between, which gave no
    verdict, with the reasons.  ``otherwise`` is the last prefix that violates in another way, 0
    without one.  ``before`` is the state of the prefix before ``first``.  ``done`` is false if prefixes
    are left to try.
    """

    first: int
    last: int
    of: int
    subject: str
    before: State = State.HOLDS
    skipped: Mapping[int, str] = field(default_factory=dict)
    otherwise: int = 0
    done: bool = True

    @property
    def exact(self) -> bool:
        """Return whether it is one patch."""
        return self.first == self.last

    @property
    def patch(self) -> str:
        """Return ``patch 5/9``, or ``one of the patches 5/9 to 7/9``."""
        if self.exact:
            return f"patch {self.last}/{self.of}"
        return f"one of the patches {self.first}/{self.of} to {self.last}/{self.of}"

    @property
    def words(self) -> str:
        """Return the patch and its subject, and what else a reader has to know, as a clause."""
        parts = [f"{self.patch}, {self.subject}" if self.exact and self.subject else self.patch]
        if self.before is State.NOT_YET and self.exact and self.first > 1:
            parts.append(f"{self.first - 1}/{self.of} does not have what the scenario needs")
        if self.otherwise:
            parts.append(f"up to {self.otherwise}/{self.of} it violates in another way")
        parts += [f"{count}/{self.of} says nothing ({why})" for count, why in self.skipped.items()]
        if not self.done:
            parts.append("the search is not finished")
        return "; ".join(parts)


@dataclass(frozen=True)
class _Search:
    """It shows with ``high`` patches and not with ``low``; ``left`` are the prefixes between to try."""

    low: int
    high: int
    left: tuple[int, ...]
    otherwise: int = 0


def upcoming(tries: Iterable[Try], of: int, unusable: Collection[int] = ()) -> int | None:
    """Return the prefix to try next, the nearest to the middle; None if nothing is left to try.

    ``unusable`` prefixes are known to build no kernel, or one that does not boot.
    """
    found = _search({one.count: one for one in tries}, of, unusable)
    middle = (found.low + found.high) / 2
    return min(found.left, key=lambda one: (abs(one - middle), one), default=None)


def useful(tries: Iterable[Try], of: int, count: int) -> bool:
    """Return whether a try of the prefix of ``count`` patches would narrow the search."""
    return count in _search({one.count: one for one in tries}, of, ()).left


def since(tries: Iterable[Try], unusable: Mapping[int, str] | None = None) -> Since | None:
    """Return the first patch that the tries of a violation have found so far.

    The result is None without a try, and if all that shows is that the series never offers something.
    """
    known = {one.count: one for one in tries}
    if not known:
        return None
    of = next(iter(known.values())).of
    excluded = {one.count: one.reason for one in known.values() if one.state is State.UNKNOWN}
    excluded |= unusable or {}
    found = _search(known, of, excluded)
    if found.low in known and known[found.low].state is State.AS_BASE:
        return None
    return Since(
        first=found.low + 1,
        last=found.high,
        of=of,
        subject=known[found.high].subject if found.high in known else "",
        before=known[found.low].state if found.low in known else State.HOLDS,
        skipped={n: excluded[n] for n in range(found.low + 1, found.high) if n in excluded},
        otherwise=found.otherwise,
        done=not found.left,
    )


def _search(known: Mapping[int, Try], of: int, unusable: Collection[int]) -> _Search:
    """Return where the search stands.

    If the violation begins where the scenario violates in another way, the first patch with which it
    violates at all is searched below.
    """
    low, high = _bracket(known, of, of, _SHOWS)
    left = tuple(n for n in range(low + 1, high) if n not in known and n not in unusable)
    if left or low not in known or known[low].state is not State.OTHERWISE:
        return _Search(low, high, left)
    otherwise = low
    low, high = _bracket(known, otherwise, of, _SHOWS_SOMEHOW)
    left = tuple(n for n in range(low + 1, high) if n not in known and n not in unusable)
    return _Search(low, high, left, otherwise)


def _bracket(known: Mapping[int, Try], top: int, of: int, shows: Collection[State]) -> tuple[int, int]:
    """Return the last prefix below ``top`` without the violation, 0 by default, and the next one with it."""
    without = (n for n, one in known.items() if n < top and one.state not in (*shows, State.UNKNOWN))
    low = max(without, default=0)
    return low, min((n for n, one in known.items() if n > low and one.state in shows), default=of)
