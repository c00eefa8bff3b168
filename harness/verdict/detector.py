"""The state of a detector on one machine.

A detector that reports no fault is believed only if it has seen a real fault on the
same machine before (a positive control).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

KMEMLEAK = "kmemleak"


class State(StrEnum):
    """The result of a detector's positive control."""

    PROVEN = "proven"
    """The detector was shown a fault on this machine, and reported it."""
    NOT_PROVEN = "not proven"
    """No fault that the detector could report could be provoked on this machine."""
    NOT_BUILT = "not built"
    """The kernel does not have the detector."""
    BLIND = "blind"
    """The detector was shown a fault, and did not report it: the machine gives no verdicts."""


@dataclass(frozen=True)
class Detector:
    """A detector on one machine; ``words`` give the evidence for its state."""

    name: str
    state: State
    words: str


def blind_clause(detectors: tuple[Detector, ...]) -> str:
    """Return what the blind ones of ``detectors`` did not report, as ``NAME: WORDS; NAME: WORDS``.

    The result is empty if none is blind.
    """
    return "; ".join(f"{one.name}: {one.words}" for one in detectors if one.state is State.BLIND)


def has_kmemleak(detectors: Iterable[Detector]) -> bool:
    """Return whether the kernel of these detectors has kmemleak."""
    return any(one.name == KMEMLEAK and one.state is not State.NOT_BUILT for one in detectors)


def unscanned_note(machine: str) -> str:
    """Return the note on a machine that ended before its kernel was scanned for leaks (kmemleak)."""
    return f"{machine} was not scanned for leaks: the run was cut off."


def by_name(machines: Mapping[str, tuple[Detector, ...]]) -> dict[str, dict[Detector, list[str]]]:
    """Group the detectors of all machines: detector name -> detector -> names of the machines.

    Two machines share an inner key if the detector has the same state and words on both.
    """
    found: dict[str, dict[Detector, list[str]]] = {}
    for machine, detectors in machines.items():
        for one in detectors:
            found.setdefault(one.name, {}).setdefault(one, []).append(machine)
    return found


def sentences(machines: Mapping[str, tuple[Detector, ...]]) -> dict[str, str]:
    """Return a line for each detector's name: its state and words.

    If machines differ, the line has each variant with its machines.
    """
    lines = {}
    for name, variants in by_name(machines).items():
        lines[name] = "; ".join(
            f"{one.state}: {one.words}" + (f" ({', '.join(names)})" if len(variants) > 1 else "")
            for one, names in variants.items()
        )
    return lines
