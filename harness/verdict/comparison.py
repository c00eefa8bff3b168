"""Compare a violation with the verdict of the base alone: is it the series' fault?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from harness.verdict.verdict import Verdict

REFUSED_SHOWN = 3  # operations that a sentence names


class Origin(StrEnum):
    """The origin of a violation."""

    NEW = "new"
    """The base does not do the same."""
    INHERITED = "inherited"
    """The base does the same: the same verdict, failure and complaints of the kernel."""
    NOT_COMPARABLE = "not comparable"
    """The base could not be asked, or lacks an interface that the scenario uses."""


@dataclass(frozen=True)
class BaseAnswer:
    """The result of a scenario on the base alone.

    ``verdict`` is ``not-reached`` if the base was not asked, or gave no verdict, and
    ``reason`` then says why.  ``failure`` is as in Result, ``complaints`` are the
    places of the kernel's faults (Splat.place).  ``refused`` are the operations of the series'
    interface that the base refused.
    """

    verdict: Verdict
    reason: str = ""
    failure: str = ""
    complaints: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def members(self) -> dict[str, Any]:
        """Return the answer as members of a JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> BaseAnswer:
        """Return the answer of members(); raise KeyError, TypeError or ValueError for anything else."""
        return cls(
            Verdict(members["verdict"]),
            str(members["reason"]),
            str(members["failure"]),
            tuple(str(one) for one in members["complaints"]),
            tuple(str(one) for one in members["refused"]),
        )


@dataclass(frozen=True)
class Comparison:
    """The origin of a violation, and the reason as a clause."""

    origin: Origin
    reason: str


def compare(verdict: Verdict, failure: str, complaints: Iterable[str], base: BaseAnswer) -> Comparison:
    """Return the origin of a violation with this ``verdict``, ``failure`` and places of complaints.

    ``inherited`` needs proof in each respect.  A base that refuses an operation of the
    series' interface proves nothing: a series that adds nothing fails in the same way.
    """
    seen = sorted(set(complaints))
    words = f"the base is {base.verdict}" + (f": {base.reason}" if base.reason else "")
    match base.verdict:
        case Verdict.CONFORMS | Verdict.UNEXPECTEDLY_CONFORMS:
            return Comparison(Origin.NEW, "the base conforms")
        case Verdict.NOT_REACHED:
            return Comparison(Origin.NOT_COMPARABLE, base.reason)
        case Verdict.NOT_APPLICABLE | Verdict.HARNESS_ERROR:
            return Comparison(Origin.NOT_COMPARABLE, words)
    if base.refused:
        calls = "; ".join(base.refused[:REFUSED_SHOWN])
        return Comparison(Origin.NOT_COMPARABLE, f"the base refuses what the series offers ({calls})")
    if verdict is not base.verdict:
        return Comparison(Origin.NEW, words)
    if missing := [one for one in seen if one not in base.complaints]:
        return Comparison(Origin.NEW, f"the base does not have the complaint {', '.join(missing)}")
    if verdict is Verdict.KERNEL_DIED and not seen:
        reason = "the kernel of the base died as well, and this one did not say why"
        return Comparison(Origin.NOT_COMPARABLE, reason)
    if verdict is Verdict.VIOLATES and not failure:
        reason = f"a missed deadline is not compared; {words}"
        return Comparison(Origin.NOT_COMPARABLE, reason)
    if verdict is Verdict.VIOLATES and failure != base.failure:
        return Comparison(Origin.NEW, f"the base fails in another way: {base.reason}")
    return Comparison(Origin.INHERITED, "the base does the same")
