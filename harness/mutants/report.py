"""Print mutants on the terminal: a line for each trial as it ends, and the score at the end.

Control characters in the text of a guest or a patch are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from harness.lib.text import visible
from harness.mutants.fate import Fate
from harness.mutants.ledger import MutantTrial, Score
from harness.series.mutant import Mutant

REASON_LIMIT = 160  # characters
MARK = "!"  # before a trial that is not KILLED


def line(trial: MutantTrial, number: int, total: int) -> str:
    """Return the line for a trial, the ``number``-th of ``total`` in this run."""
    mark = " " if trial.fate is Fate.KILLED else MARK
    detail = "  ".join(filter(None, (_killer(trial), _short(trial.reason))))
    return f"{mark} {number}/{total}  {trial.id}  {trial.fate} ({trial.seconds:.0f} s)  {detail}"


def show_list(mutants: Iterable[Mutant], stream: TextIO) -> None:
    """Print a line for each mutant, with the requirements that must catch it."""
    listed = list(mutants)
    ids = [", ".join(one.caught_by) for one in listed]
    widths = [max(map(len, column), default=0) for column in ([one.id for one in listed], ids)]
    for one, caught_by in zip(listed, ids, strict=True):
        remarks = [f"[{one.shown_by}]"] if one.shown_by else []
        remarks += [f"(equivalent: {visible(one.equivalent)})"] if one.equivalent else []
        words = " ".join([visible(one.subject), *remarks])
        print(f"{one.id:{widths[0]}}  {caught_by:{widths[1]}}  {words}".rstrip(), file=stream)
    series = len({one.series for one in listed})
    equivalent = sum(bool(one.equivalent) for one in listed)
    print(f"{len(listed)} mutants of {series} series, {equivalent} of them equivalent", file=stream)


def show(score: Score, mutants: Mapping[str, Mutant], suites: str, folder: Path, stream: TextIO) -> None:
    """Print killers, survivors and score; ``suites`` is the present digest of harness and scenarios."""
    for trial in score.with_fate(Fate.KILLED):
        _entry(" ", trial, stream)
    for fate in (Fate.MISTAKEN, Fate.SURVIVED, Fate.ERROR):
        for trial in score.with_fate(fate):
            _entry(MARK, trial, stream)
            _about(mutants[trial.id], folder / trial.results, stream)
    for one in score.equivalent:
        print(f"  equivalent  {one.id}: {visible(one.equivalent)}", file=stream)
    print(file=stream)
    print(_closing(score), file=stream)
    if older := sum(trial.suites != suites for trial in score.with_fate(Fate.KILLED)):
        print(
            f"{older} of them were killed by an earlier version of the scenarios. "
            f"Delete {folder} to try all again.",
            file=stream,
        )
    print(f"Results: {folder}", file=stream)


def _entry(mark: str, trial: MutantTrial, stream: TextIO) -> None:
    print(f"{mark} {trial.fate}  {trial.id}", file=stream)
    for text in filter(None, (_killer(trial), _short(trial.reason))):
        print(f"      {visible(text)}", file=stream)


def _about(mutant: Mutant, results: Path, stream: TextIO) -> None:
    for text in (
        f"{visible(mutant.subject)}: {visible(mutant.message)}",
        f"must be caught by {', '.join(mutant.caught_by)}",
        f"results: {results}",
    ):
        print(f"      {text}", file=stream)


def _killer(trial: MutantTrial) -> str:
    if not trial.killer:
        return ""
    ids = f" ({', '.join(trial.requirements)})" if trial.requirements else ""
    return f"{trial.killer}{ids}: {trial.verdict}"


def _short(text: str) -> str:
    words = " ".join(visible(text).split())
    return words if len(words) <= REASON_LIMIT else f"{words[:REASON_LIMIT]}..."


def _closing(score: Score) -> str:
    killed = score.count(Fate.KILLED)
    share = 100 * killed / score.total if score.total else 100
    others: Sequence[tuple[int, str]] = (
        (score.count(Fate.MISTAKEN), "killed by the wrong scenario"),
        (score.count(Fate.SURVIVED), "survived"),
        (score.count(Fate.ERROR), "could not be tried"),
        (len(score.untried), "not tried to the end"),
        (len(score.equivalent), "equivalent and not counted"),
    )
    rest = "".join(f", {number} {what}" for number, what in others if number)
    return f"Score: {killed} of {score.total} mutants killed, {share:.1f} %{rest}"
