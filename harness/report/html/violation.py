"""The evidence of one result, as the page shows it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from harness.report import patches
from harness.report.evidence import LIMIT, Step, excerpt, steps, traces
from harness.report.html.environment import Room
from harness.report.html.marks import Mark, mark
from harness.report.html.page_tables import Picture, picture
from harness.report.html.tested import source_options
from harness.report.prefixes import Prefixes
from harness.verdict import requirements
from harness.verdict.record import Result
from harness.verdict.requirements import Requirement
from harness.verdict.verdict import Kind, Verdict

READ = 64 * 1024  # bytes of a transcript that are searched for page tables
LINE = 400  # characters of a transcript's line
BEFORE, AFTER = 30, 4  # lines around the decisive one
BRIEF = 10  # lines before the decisive one, for a result that only repeats its cause
HOST_LINES = 8
CONSOLE = 4 * 1024  # bytes of the console of a kernel that died
HOST = "! host"  # what is done from outside the guest, with the memory behind a BAR
WANTED = "= "
MARKS = ("> ", "! ", WANTED, "# ")  # of lines that are no replies


@dataclass(frozen=True)
class File:
    """A file of the results folder: its relative URL, and its name for people."""

    url: str
    name: str


@dataclass(frozen=True)
class Line:
    """A line of a transcript; ``style`` is ``ask``, ``reply``, ``want``, ``note`` or ``host``."""

    number: int
    text: str
    style: str
    wrong: bool


@dataclass(frozen=True)
class Splat:
    """A complaint of the kernel, with its stack: decoded, if the kernel has line numbers."""

    title: str
    fingerprint: str
    text: str
    file: File | None


@dataclass(frozen=True)
class Violation:
    """The evidence of one result.

    ``anchor`` is the element's id.  ``expected`` and ``seen`` are clauses, ``asked`` is the
    operation that decided; each is empty if it is not known.  ``left_out`` is true if the page
    had no room for the transcript and the stacks.
    """

    anchor: str
    mark: Mark
    result: Result
    promised: tuple[Requirement, ...]
    expected: str
    seen: str
    asked: str
    origin: str
    base: str
    lines: tuple[Line, ...]
    hidden: int
    picture: Picture | None
    host: tuple[Line, ...]
    splats: tuple[Splat, ...]
    console: str
    files: tuple[File, ...]
    since: str
    again: tuple[str, ...]
    left_out: bool = False
    details: str = ""


@dataclass
class Evidence:
    """Collect the evidence of results from their results folder ``directory``."""

    directory: Path
    facts: Mapping[str, object]
    room: Room
    prefixes: Prefixes | None = None
    _told: set[str] = field(default_factory=set)  # fingerprints whose stack the page has already

    def of(self, result: Result, anchor: str, *, brief: bool = False) -> Violation:
        """Return the evidence of a result; if ``brief``, only the end of its transcript."""
        found = steps(result, self.directory, LIMIT if brief else READ)
        lines, hidden = _lines(found, BRIEF if brief else BEFORE)
        drawn = picture(found)
        left_out = not self.room.take("".join(line.text for line in lines))
        if left_out:
            lines, drawn = (), None
        deviation, comparison = result.deviation, result.comparison
        known = requirements.load().requirements
        stage = result.entry.kind in (Kind.STAGE, Kind.HARNESS, Kind.PATCH)
        return Violation(
            anchor=anchor,
            mark=mark(result),
            result=result,
            promised=tuple(known[name] for name in result.entry.requirements if name in known),
            expected=deviation.expected if deviation else "",
            seen=deviation.seen if deviation else result.reason,
            asked=deviation.operation if deviation else "",
            origin=str(comparison.origin) if comparison else "",
            base=comparison.reason if comparison else "",
            lines=lines,
            hidden=hidden,
            picture=drawn,
            host=() if left_out or brief else _host(found),
            splats=tuple(self._splats(result)),
            console=self._console(result),
            files=self.files(result),
            since=patches.since(result, self.prefixes),
            again=self._again(result),
            left_out=left_out,
            details=result.details if stage and self.room.take(result.details) else "",
        )

    def files(self, result: Result) -> tuple[File, ...]:
        """Return the files of a result that the results folder has."""
        names = [result.transcript, *traces(result, self.directory)]
        names += [result.console.file] if result.console is not None else []
        return tuple(file for name in dict.fromkeys(names) if (file := link(self.directory, name)))

    def _splats(self, result: Result) -> Sequence[Splat]:
        found = traces(result, self.directory)
        splats = []
        for one in result.complaints:
            name = f"stacks/{one.fingerprint}.txt"
            text = "" if one.fingerprint in self._told else found.get(name) or one.text
            if not self.room.take(text):
                text = ""
            self._told.add(one.fingerprint)
            splats.append(Splat(one.title, one.fingerprint, text, link(self.directory, name)))
        return splats

    def _console(self, result: Result) -> str:
        """Return the end of the console of a kernel that died without a complaint that the page shows."""
        span = result.console
        if result.verdict is not Verdict.KERNEL_DIED or span is None or result.complaints:
            return ""
        text = excerpt(self.directory, span.file, span.start, span.end, CONSOLE)
        return text if self.room.take(text) else ""

    def _again(self, result: Result) -> tuple[str, ...]:
        """Return the commands that show a scenario's result again."""
        if result.entry.kind is not Kind.SCENARIO:
            return ()
        folder = shlex.quote(f"results/{self.directory.resolve().name}")
        scenario = shlex.quote(result.entry.scenario)
        options = source_options(self.facts)
        return (
            f"python -m harness reproduce {folder} {scenario}",
            " ".join(word for word in ("tox -e vm --", options, scenario) if word),
        )


def link(directory: Path, name: str) -> File | None:
    """Return a file in the results folder; None if there is none of this name, which may be hostile."""
    if not name or "\0" in name:
        return None
    path = (directory / name).resolve()
    inside = directory.resolve()
    if not path.is_relative_to(inside) or not path.is_file():
        return None
    relative = str(path.relative_to(inside))
    return File(quote(relative.encode(errors="surrogateescape")), relative)


def _lines(found: Sequence[Step], before: int) -> tuple[tuple[Line, ...], int]:
    """Return the lines around the decisive one, and the number of those before them."""
    last = max((place for place, step in enumerate(found) if step.decisive), default=len(found) - 1)
    first = max(0, last - before)
    shown = found[first : last + 1 + AFTER]
    lines = tuple(Line(one.number, _cut(one.text), _style(one), one.decisive) for one in shown)
    return lines, (lines[0].number - 1 if lines else 0)


def _host(found: Sequence[Step]) -> tuple[Line, ...]:
    """Return the last steps of the host up to the decisive one, each with its reply."""
    last = max((place for place, step in enumerate(found) if step.decisive), default=len(found) - 1)
    lines = []
    for place, step in enumerate(found[: last + 1]):
        if step.text.startswith(HOST):
            lines.append(Line(step.number, _cut(step.text), "host", step.decisive))
            if place + 1 < len(found) and not found[place + 1].text.startswith(MARKS):
                reply = found[place + 1]
                lines.append(Line(reply.number, _cut(reply.text), "reply", reply.decisive))
    return tuple(lines[-HOST_LINES:])


def _style(step: Step) -> str:
    if step.text.startswith(HOST):
        return "host"
    if step.operation:
        return "ask"
    if step.text.startswith(WANTED):
        return "want"
    return "note" if step.text.startswith("#") else "reply"


def _cut(text: str) -> str:
    if len(text) <= LINE:
        return text
    return f"{text[:LINE]} … ({len(text) - LINE} characters more)"
