"""Which of the lines that a series adds were executed (``run --coverage``), for the reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.journal import line_counts
from harness.lib.errors import HarnessError
from harness.lib.text import counted, one_line

SHOWN = 8  # functions with lines that were not executed, on the screen without -v
SHOWN_LINES = 6  # lines of each


@dataclass(frozen=True)
class Place:
    """Lines of one patch in one function that were not executed, or not compiled.

    ``lines`` are numbers in the patched tree with their text.  ``never_called`` means that no line
    of the function was executed.
    """

    patch: int
    file: str
    function: str
    lines: tuple[tuple[int, str], ...]
    never_called: bool = False

    @property
    def heading(self) -> str:
        """The place in words: ``patch 5, vfio_pci_dmabuf.c, f(): 3 lines``."""
        inside = f", {self.function}()" if self.function else ""
        never = ", which was never called" if self.never_called else ""
        return f"patch {self.patch}, {self.file}{inside}{never}: {counted(len(self.lines), 'line')}"


@dataclass(frozen=True)
class PatchLines:
    """The executable lines of one patch, and those that were executed."""

    patch: int
    subject: str
    executable: int
    executed: int


@dataclass(frozen=True)
class LineCoverage:
    """The lines of a series that a run has executed.

    ``groups`` are numbers of executed lines by requirement group.
    """

    executable: int
    executed: int
    branches: int
    branches_taken: int
    groups: tuple[tuple[str, int], ...]
    patches: tuple[PatchLines, ...]
    missed: tuple[Place, ...]
    not_compiled: tuple[Place, ...]

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        if not self.executable:
            return "NO LINE OF THE SERIES WAS EXECUTED: the kernel under test has none that is executable."
        share = f"{100 * self.executed / self.executable:.1f} %"
        branches = f", and {self.branches_taken} of {self.branches} branches taken" if self.branches else ""
        text = f"{self.executed} of {self.executable} executable lines that the series adds were executed"
        if not self.executed:
            return f"NO LINE OF THE SERIES WAS EXECUTED: {text}."
        return f"{text} ({share}){branches}."

    @property
    def by_group(self) -> str:
        """How many lines each requirement group has executed, the largest number first; may be empty."""
        found = sorted(self.groups, key=lambda one: -one[1])
        return ", ".join(f"{one_line(name)} {number}" for name, number in found)


def load(directory: Path) -> LineCoverage | None:
    """Return the coverage of a run; None if none was counted.  Raises HarnessError for a damaged file."""
    content = line_counts.read_report(directory)
    if content is None:
        return None
    try:
        return LineCoverage(
            int(content["executable"]),
            int(content["executed"]),
            int(content["branches"]),
            int(content["branches_taken"]),
            tuple((str(name), int(number)) for name, number in content["groups"].items()),
            tuple(
                PatchLines(
                    int(one["patch"]), str(one["subject"]), int(one["executable"]), int(one["executed"])
                )
                for one in content["patches"]
            ),
            tuple(map(_place, content["missed"])),
            tuple(map(_place, content["not_compiled"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        path = directory / line_counts.FOLDER / line_counts.REPORT
        raise HarnessError(f"{path} is damaged ({error!r}). Remove it to have reports without it.") from error


def _place(one: dict[str, Any]) -> Place:
    return Place(
        int(one["patch"]),
        str(one["file"]),
        str(one.get("function", "")),
        tuple((int(number), str(text)) for number, text in one["lines"]),
        bool(one.get("never_called", False)),
    )


def text(directory: Path, *, every: bool = False) -> Iterator[str]:
    """Yield the coverage as lines for the screen; nothing without one.

    Without ``every`` only the first places are shown.
    """
    found = load(directory)
    if found is None:
        return
    by = f" By requirements: {found.by_group}." if found.by_group else ""
    yield f"Lines: {found.sentence}{by}"
    yield from _places("Not executed", found.missed, every)
    yield from _places("Not compiled in this configuration, so not looked at", found.not_compiled, every)


def _places(title: str, places: Sequence[Place], every: bool) -> Iterator[str]:
    if not places:
        return
    shown = places if every else places[:SHOWN]
    left = f" (-v shows all {len(places)} places)" if len(shown) < len(places) else ""
    yield f"{title}: {counted(sum(len(one.lines) for one in places), 'line')}{left}"
    for place in shown:
        yield f"  {one_line(place.heading)}"
        lines = place.lines if every else place.lines[:SHOWN_LINES]
        yield from (f"    {number:5}  {source.expandtabs().rstrip()}" for number, source in lines)
        if len(lines) < len(place.lines):
            yield f"           and {counted(len(place.lines) - len(lines), 'more line')}"
