"""Read the two runs of a comparison, name them for a reader, and say why they cannot be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.lib.errors import HarnessError
from harness.lib.text import one_line, printable
from harness.verdict.interruption import how
from harness.verdict.record import Record

LABEL_LIMIT = 48  # characters of the name of a run


@dataclass(frozen=True)
class Run:
    """A run: its results folder, record and facts, and the ``label`` that names it beside the other."""

    directory: Path
    record: Record
    facts: Mapping[str, object]
    label: str

    def fact(self, name: str) -> str:
        """Return a fact as text on one line; empty if the run did not record it."""
        value = self.facts.get(name)
        return "" if value is None else one_line(str(value))


def read_both(first: Path, second: Path) -> tuple[Run, Run]:
    """Read two results folders.

    Raises HarnessError if one of them holds no run, or cannot be read.
    """
    folders = first, second
    records = [_read(folder) for folder in folders]
    facts = [read_facts(folder) for folder in folders]
    labels = _labels(folders, facts)
    before, after = (
        Run(folder, record, known, label)
        for folder, record, known, label in zip(folders, records, facts, labels, strict=True)
    )
    return before, after


def obstacles(before: Run, after: Run) -> tuple[str, ...]:
    """Return why the runs cannot be compared, a sentence each; empty if they can be."""
    return (*_program(before, after), *_cut_off(before), *_cut_off(after))


def damage(run: Run) -> str:
    """Return what is wrong with the journal of a run as a sentence; empty if nothing is."""
    if not run.record.damage:
        return ""
    return (
        f"The journal of {run.label} has entries that this program does not understand: a newer program "
        f"wrote it, or it is damaged ({printable(one_line(run.record.damage))})."
    )


def _read(folder: Path) -> Record:
    try:
        return read(folder)
    except OSError as error:
        raise HarnessError(f"The run in {folder} cannot be read ({error.strerror or error}).") from error


def _labels(folders: tuple[Path, Path], facts: list[Mapping[str, object]]) -> tuple[str, str]:
    """Return short names of the runs that differ: their revisions, series or folders, else A and B."""
    revisions, series = (
        [one_line(str(known.get(name) or "")) for known in facts] for name in ("revision", "series")
    )
    numbers = [f"v{one}" if one.isdecimal() else one for one in revisions]
    names = [_folder(folder, name) for folder, name in zip(folders, series, strict=True)]
    for one, other in (numbers, series, names):
        if one and other and one != other:
            labels = _label(one, other), _label(other, one)
            if labels[0] != labels[1]:
                return labels
    return "A", "B"


def _folder(folder: Path, series: str) -> str:
    """Return the name of a results folder, of ``SERIES-TIME`` the time alone."""
    name = one_line(folder.resolve().name)
    return name.removeprefix(f"{series}-") or name


def _label(name: str, other: str) -> str:
    """Return a name for a reader; that of a series with a mutant, ``SERIES+MUTANT``, without ``other``."""
    return printable(name.removeprefix(f"{other}+") or name, LABEL_LIMIT)


def _program(before: Run, after: Run) -> Iterator[str]:
    """Yield a sentence if the scenarios of the two runs may not be the same programs."""
    unknown = [run for run in (before, after) if not run.fact("program")]
    for run in unknown:
        yield (
            f"The run {run.label} in {run.directory} is of an older version of this program, which did not "
            "record its digest: its scenarios may check something else."
        )
    if not unknown and before.fact("program") != after.fact("program"):
        yield (
            f"The two runs are of different programs: {before.label} of {before.fact('program')[:12]}, "
            f"{after.label} of {after.fact('program')[:12]}. A scenario of the same name may check something "
            "else. Run both with one program."
        )


def _cut_off(run: Run) -> Iterator[str]:
    """Yield a sentence if a run did not come to its own end."""
    if run.record.interrupted or not run.record.complete:
        end = how(run.record.interrupted) if run.record.interrupted else "was cut off"
        yield (
            f"The run {run.label} in {run.directory} {end}: what it lacks cannot be said to conform. "
            f"Resume it: python -m harness run --resume {run.directory}."
        )
