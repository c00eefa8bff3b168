"""What is known of a detector: whether its silence on a machine means anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

KMEMLEAK = "kmemleak"


class State(StrEnum):
    """Whether a detector can be believed when it says nothing."""

    PROVEN = "proven"
    """It was shown something on this machine, and saw it."""
    NOT_PROVEN = "not proven"
    """Nothing that it could see could be provoked on this machine."""
    NOT_BUILT = "not built"
    """The kernel does not have it."""
    BLIND = "blind"
    """It was shown something, and did not see it: the machine gives no verdicts."""


@dataclass(frozen=True)
class Detector:
    """A detector on one machine; ``words`` say how it is known to be in this state."""

    name: str
    state: State
    words: str


def blind(detectors: tuple[Detector, ...]) -> str:
    """What the blind ones of a machine did not see, as a clause; empty if none is blind."""
    return "; ".join(f"{one.name}: {one.words}" for one in detectors if one.state is State.BLIND)


def counts_leaks(detectors: Iterable[Detector]) -> bool:
    """Whether the kernel has kmemleak."""
    return any(one.name == KMEMLEAK and one.state is not State.NOT_BUILT for one in detectors)


def unasked(machine: str) -> str:
    """What to tell of a machine that ended before it was asked what its kernel has lost."""
    return f"{machine} was not asked what memory its kernel has lost: the run was cut off."


def by_name(machines: Mapping[str, tuple[Detector, ...]]) -> dict[str, dict[Detector, list[str]]]:
    """For each detector's name what was found of it, and on which machines."""
    found: dict[str, dict[Detector, list[str]]] = {}
    for machine, detectors in machines.items():
        for one in detectors:
            found.setdefault(one.name, {}).setdefault(one, []).append(machine)
    return found


def sentences(machines: Mapping[str, tuple[Detector, ...]]) -> dict[str, str]:
    """A line for each detector's name: its state, how that is known, and where, if it differs."""
    lines = {}
    for name, variants in by_name(machines).items():
        lines[name] = "; ".join(
            f"{one.state}: {one.words}" + (f" ({', '.join(where)})" if len(variants) > 1 else "")
            for one, where in variants.items()
        )
    return lines
