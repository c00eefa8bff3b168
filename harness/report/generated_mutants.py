"""Which faults in the executed lines the scenarios noticed (``mutants --generate``), for the reports."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.journal import fault_trials, line_counts
from harness.journal.facts import read_facts
from harness.journal.fault_trials import Outcome
from harness.lib.text import counted, one_line, printable, shortened, visible

SHOWN = 4  # survivors on the screen without -v
MAX_WORDS = 200  # characters of a name, or of a line
MAX_LINES = 20  # changed lines of a fault


@dataclass(frozen=True)
class Fault:
    """A fault that was put into ``line`` of ``file``, in the patched tree.

    ``patch`` is the number of the patch that brought the line, 0 if that is not known.  ``changed`` has the
    number, the old text and the new text of each line that differs.  ``scenarios`` is the number of those
    that execute a line of it.
    """

    patch: int
    file: str
    line: int
    function: str
    rule: str
    changed: tuple[tuple[int, str, str], ...]
    scenarios: int

    @property
    def heading(self) -> str:
        """The fault in words: ``patch 5, drivers/x/x.c:80, f(): drop a statement``."""
        patch = f"patch {self.patch}, " if self.patch else ""
        inside = f", {self.function}()" if self.function else ""
        unseen = "" if self.scenarios else " (no scenario was tried)"
        return f"{patch}{self.file}:{self.line}{inside}: {self.rule}{unseen}"

    @property
    def difference(self) -> str:
        """The changed lines, each as it was and as it is with the fault."""
        return "\n".join(
            f"{number:5} - {was}\n{number:5} + {now or '(nothing)'}" for number, was, now in self.changed
        )


@dataclass(frozen=True)
class Faults:
    """The faults of a session.

    ``noticed``, ``open`` (not tried to the end) and ``equivalent`` are numbers.  ``failed`` are faults whose
    trial ended in an error.  ``shard`` is the part of a session, such as ``1/2``; empty for a whole one.
    """

    noticed: int
    survived: tuple[Fault, ...]
    failed: tuple[Fault, ...]
    open: int
    equivalent: int
    shard: str

    @property
    def sentence(self) -> str:
        """The answer in a sentence or two; first what was not tried to the end.

        As long as one is open there is no percentage: a fault that is noticed ends its trial early, and one
        that is not stays open for long.
        """
        tried = self.noticed + len(self.survived)
        total = tried + len(self.failed) + self.open
        others = (
            (len(self.survived), "survived"),
            (len(self.failed), "could not be tried"),
            (self.equivalent, "equivalent and not counted"),
        )
        rest = ", ".join(f"{number} {what}" for number, what in others if number)
        parts = []
        if self.open:
            head = "NOT ALL FAULTS WERE TRIED" if tried else "NO FAULT WAS TRIED TO THE END"
            parts.append(f"{head}: nothing is known of {self.open} of {total}.")
        elif not tried:
            parts.append("NO FAULT WAS TRIED TO THE END.")
        if tried:
            share = "" if self.open else f" ({100 * self.noticed / tried:.1f} %)"
            was = "was" if self.noticed == 1 else "were"
            noticed = f"{self.noticed} of {counted(tried, 'fault')} put into executed lines {was} noticed"
            parts.append(f"{noticed}{share}" + (f"; {rest}." if rest else "."))
        elif rest:
            parts.append(f"{rest[0].upper()}{rest[1:]}.")
        if self.shard:
            parts.append(f"These are the faults of part {self.shard}.")
        return " ".join(parts)


def load(directory: Path) -> Faults | None:
    """Return the faults that were tried on a run's lines; None if none were.

    Raises HarnessError for a file that is damaged, or about another coverage.
    """
    content = fault_trials.read(directory)
    if content is None:
        return None
    found: dict[Outcome, list[Fault]] = {outcome: [] for outcome in Outcome}
    try:
        for one in content["mutants"]:
            found[Outcome(one["fate"])].append(_fault(one))
        shard = _words(content.get("shard", ""))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise fault_trials.damaged(directory, error) from error
    return Faults(
        len(found[Outcome.KILLED]),
        tuple(found[Outcome.SURVIVED]),
        tuple(found[Outcome.ERROR]),
        len(found[Outcome.OPEN]),
        len(found[Outcome.EQUIVALENT]),
        shard,
    )


def _fault(one: Mapping[str, Any]) -> Fault:
    first = int(one["line"])
    pairs = zip(str(one["was"]).split("\n"), str(one["now"]).split("\n"), strict=True)
    changed = [
        (number, _source(was), _source(now)) for number, (was, now) in enumerate(pairs, first) if was != now
    ]
    return Fault(
        int(one["patch"]),
        _words(one["file"]),
        first,
        _words(one["function"]),
        _words(one["rule"]),
        tuple(changed[:MAX_LINES]),
        int(one["scenarios"]),
    )


def _words(text: object) -> str:
    return printable(one_line(str(text)), MAX_WORDS)


def _source(line: str) -> str:
    return shortened(visible(line.strip().expandtabs()), MAX_WORDS)


def advice(directory: Path, facts: Mapping[str, object], results: str) -> str:
    """Return how to try faults on a run with coverage and without faults; else an empty text.

    ``facts`` are those of the run, and ``results`` is its results folder as a reader names it.
    """
    covered = line_counts.read_report(directory)
    if not covered or not covered.get("executed") or fault_trials.read(directory) is not None:
        return ""
    series = shlex.quote(_words(_series(facts)))
    command = f"tox -e mutants -- --generate --series {series} --coverage {shlex.quote(results)}"
    return f"none were tried; `{command}` tries some."


def _series(facts: Mapping[str, object]) -> str:
    """Return the series as the run was given it."""
    given = facts.get("selection")
    words = iter([str(word) for word in given] if isinstance(given, list) else [])
    for word in words:
        name, _, value = word.partition("=")
        if name == "--series" and (value := value or next(words, "")):
            return value
    return str(facts.get("series", "SERIES"))


def text(directory: Path, *, every: bool = False) -> Iterator[str]:
    """Yield the faults as lines for the screen; nothing for a run without coverage.

    Without ``every`` only the first survivors are shown.
    """
    found = load(directory)
    if found is None:
        if words := advice(directory, read_facts(directory), str(directory)):
            yield f"Faults: {words}"
        return
    yield f"Faults: {found.sentence}"
    shown = found.survived if every else found.survived[:SHOWN]
    if shown:
        left = f" (-v shows all {len(found.survived)})" if len(shown) < len(found.survived) else ""
        yield f"Not noticed: {counted(len(found.survived), 'fault')}{left}"
    for fault in shown:
        yield f"  {fault.heading}"
        yield from (f"    {line}" for line in fault.difference.splitlines())
    if every and found.failed:
        yield f"Could not be tried: {counted(len(found.failed), 'fault')}"
        yield from (f"  {fault.heading}" for fault in found.failed)
