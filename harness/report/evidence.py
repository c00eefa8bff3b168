"""Read the evidence of a result from its results folder: transcript, console, call traces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.journal.results_folder import STACKS
from harness.lib.text import visible
from harness.verdict.record import Complaint, Result

PROMPT = "> "
BESIDE = ("#", "!", "=")  # begin a line that is neither operation nor reply
STEP = "! "  # a step beside the actors
LIMIT = 16 * 1024  # bytes of one file; the results folder has all of it


def located(directory: Path, name: str) -> Path | None:
    """Return the file ``name`` of a results folder; None if there is none, or it lies elsewhere."""
    try:
        path = (directory / name).resolve()
        return path if path.is_relative_to(directory.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # too long a name, or a NUL in it
        return None


def excerpt(directory: Path, name: str, start: int = 0, end: int | None = None, limit: int = LIMIT) -> str:
    """Return the last ``limit`` bytes of ``start`` to ``end`` of a file in the results folder, as plain text.

    The text says how many bytes are left out, or that there is no such file: ``name`` comes
    from a journal, and may be hostile.
    """
    path = located(directory, name)
    if path is None:
        return "(there is no such file in the results folder)"
    with path.open("rb") as stream:
        size = path.stat().st_size
        end = size if end is None else min(end, size)
        first = max(0, start, end - limit)
        stream.seek(first)
        text = visible(stream.read(max(0, end - first)).decode("utf-8", "surrogateescape"))
    return text if first <= start else f"({first - start} bytes left out)\n{text}"


def traces(result: Result, directory: Path) -> dict[str, str]:
    """Return the call traces of a result's complaints: text by the name of the file, once each."""
    names = dict.fromkeys(f"{STACKS}/{one.fingerprint}.txt" for one in result.complaints)
    return {name: excerpt(directory, name) for name in names if (directory / name).is_file()}


def splat(complaint: Complaint, directory: Path) -> str:
    """Return a complaint with its call trace: its file with source lines, or the console's text."""
    path = directory / STACKS / f"{complaint.fingerprint}.txt"
    return excerpt(directory, f"{STACKS}/{path.name}") if path.is_file() else visible(complaint.text)


@dataclass(frozen=True)
class Step:
    """A line of a transcript: its number from 1, its text, and whether its answer was the wrong one."""

    number: int
    text: str
    decisive: bool = False

    @property
    def operation(self) -> bool:
        """True for an operation or another step, false for a reply, what was expected, or a comment."""
        return self.text.startswith((PROMPT, STEP))


def steps(result: Result, directory: Path, limit: int = LIMIT) -> tuple[Step, ...]:
    """Return the last lines of a result's transcript, at most ``limit`` bytes; empty if it has none.

    The operation that decided, and its reply, are ``decisive``; where the kernel complained, none is.
    """
    path = located(directory, result.transcript)
    if path is None:
        return ()
    raw = path.read_bytes()
    first = max(0, len(raw) - limit)
    first = raw.find(b"\n", first - 1) + 1 if first else 0
    number = raw.count(b"\n", 0, first) + 1
    deviation = result.deviation
    decisive = 0 if deviation is None or deviation.of_kernel else deviation.line
    lines = visible(raw[first:].decode("utf-8", "surrogateescape")).splitlines()
    return tuple(
        Step(number + place, line, bool(decisive) and decisive <= number + place <= decisive + 1)
        for place, line in enumerate(lines)
    )


def last_steps(result: Result, directory: Path, count: int) -> tuple[Step, ...]:
    """Return the ``count`` lines of the transcript that end with the reply to the decisive operation.

    Without one they end with the last reply of an actor.
    """
    found = steps(result, directory)
    decisive = [place for place, step in enumerate(found) if step.decisive]
    answered = [place for place, step in enumerate(found) if step.text[:1] not in BESIDE]
    last = max(decisive or answered or [len(found) - 1])
    return found[max(0, last + 1 - count) : last + 1]
