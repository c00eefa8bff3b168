"""Print the score of generated mutants: what lived on, line by line, and what was not tried."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from harness.journal import fault_trials
from harness.journal.fault_trials import Outcome
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.files import write_atomically
from harness.lib.shard import Shard
from harness.lib.text import counted, visible
from harness.mutants.fate import Fate
from harness.mutants.generate.coverage import Coverage
from harness.mutants.generate.mutant import GeneratedMutant
from harness.mutants.ledger import MutantTrial
from harness.mutants.report import MARK


@dataclass(frozen=True)
class Tried:
    """A mutant with its confirmed trial, None if there is none; ``whole`` if it needs no further trial."""

    mutant: GeneratedMutant
    trial: MutantTrial | None
    whole: bool

    @property
    def unconfirmed(self) -> bool:
        """Return whether a scenario has killed it that has not passed without the fault yet."""
        return self.whole and self.trial is None

    @property
    def killed(self) -> bool:
        """Return whether a scenario has killed it."""
        return self.trial is not None and self.trial.fate is Fate.KILLED

    @property
    def survived(self) -> bool:
        """Return whether all scenarios that reach it were tried, and none noticed."""
        return self.trial is not None and self.trial.fate is Fate.SURVIVED and self.whole

    @property
    def failed(self) -> bool:
        """Return whether its trial ended in an error."""
        return self.trial is not None and self.trial.fate is Fate.ERROR


def exit_code(tried: Sequence[Tried]) -> ExitCode:
    """Return OK if every mutant that counts was killed, SERIES if one survived, else HARNESS."""
    counts = [one for one in tried if not one.mutant.equivalent]
    if any(one.survived for one in counts):
        return ExitCode.SERIES
    return ExitCode.OK if counts and all(one.killed for one in counts) else ExitCode.HARNESS


def show(tried: Sequence[Tried], folder: Path, stream: TextIO) -> None:
    """Print the mutants that were not killed, with line and change, and the score."""
    counts = [one for one in tried if not one.mutant.equivalent]
    for one in counts:
        if one.survived or one.failed:
            _entry(one, folder, stream)
    for one in tried:
        if one.mutant.equivalent:
            _line("  equivalent", one.mutant, stream)
            print(f"      {visible(one.mutant.equivalent)}", file=stream)
    print(file=stream)
    _rules(counts, stream)
    print(closing(tried), file=stream)
    unconfirmed = sum(one.unconfirmed for one in counts)
    if unconfirmed:
        what = f"{counted(unconfirmed, 'mutant')} not counted: the scenarios that killed them"
        print(f"{what} did not run without a fault yet. The same command goes on.", file=stream)
    open_ones = [one for one in counts if not (one.killed or one.survived or one.failed or one.unconfirmed)]
    if open_ones:
        begun = sum(one.trial is not None for one in open_ones)
        also = f" {begun} of these were tried with their most likely killers alone." if begun else ""
        done = f"{len(counts) - len(open_ones)} of {counted(len(counts), 'mutant')}"
        rest = f"the rest was not looked at, and is not green.{also} The same command goes on."
        print(f"{done} were tried to the end; {rest}", file=stream)
    print(f"Results: {folder}", file=stream)


def write(tried: Sequence[Tried], folder: Path) -> None:
    """Write ``mutants.json`` for other programs: a member for each mutant, with its fault and its fate."""
    content = {"schema": fault_trials.SCHEMA, **_content(tried)}
    write_atomically(folder / fault_trials.MUTANTS, json.dumps(content, indent=1) + "\n")


def keep_with_run(tried: Sequence[Tried], coverage: Coverage | None, shard: Shard | None) -> str:
    """Write the same into the results folder of the run whose coverage was used, for its reports.

    Returns a sentence about it, also if the folder cannot be written.  Nothing is written, and the text is
    empty, without such a run, and as long as no mutant was tried.
    """
    run = coverage.run if coverage is not None else None
    if coverage is None or run is None or all(one.trial is None for one in tried):
        return ""
    part = {"shard": f"{shard.number}/{shard.total}"} if shard is not None else {}
    try:
        fault_trials.write(run, coverage.series, coverage.kernel, part | _content(tried))
    except HarnessError as error:
        return f"The reports of the run will not have these faults: {error}"
    return f"The reports of the run have these faults, too: `python -m harness judge {run}` makes them anew."


def _content(tried: Sequence[Tried]) -> dict[str, object]:
    members = []
    for one in tried:
        fault, trial = one.mutant.fault, one.trial
        members.append(
            {
                "id": one.mutant.id,
                "file": fault.file,
                "line": fault.first,
                "patch": one.mutant.origin,
                "function": fault.function,
                "rule": fault.rule,
                "was": fault.old,
                "now": fault.new,
                "fate": _fate(one),
                "killer": trial.killer if trial is not None else "",
                "seconds": trial.seconds if trial is not None else 0.0,
                "scenarios": len(one.mutant.scenarios),
            }
        )
    return {"score": closing(tried), "mutants": members}


def _fate(one: Tried) -> Outcome:
    if one.mutant.equivalent:
        return Outcome.EQUIVALENT
    ended = one.trial is not None and (one.killed or one.survived or one.failed)
    return Outcome(one.trial.fate) if ended and one.trial is not None else Outcome.OPEN


def closing(tried: Sequence[Tried]) -> str:
    """Return the score as one line."""
    counts = [one for one in tried if not one.mutant.equivalent]
    ended = [one for one in counts if one.killed or one.survived]
    killed = sum(one.killed for one in ended)
    failed = sum(one.failed for one in counts)
    unconfirmed = sum(one.unconfirmed for one in counts)
    share = f", {100 * killed / len(ended):.1f} %" if ended else ""
    others = (
        (len(ended) - killed, "survived"),
        (failed, "could not be tried"),
        (unconfirmed, "killed but not confirmed"),
        (len(counts) - len(ended) - failed - unconfirmed, "not tried to the end"),
        (len(tried) - len(counts), "equivalent and not counted"),
    )
    rest = "".join(f", {number} {what}" for number, what in others if number)
    return f"Score: {killed} of {len(ended)} generated mutants killed{share}{rest}"


def _entry(one: Tried, folder: Path, stream: TextIO) -> None:
    assert one.trial is not None
    _line(f"{MARK} {one.trial.fate}", one.mutant, stream)
    fault = one.mutant.fault
    for number, (was, now) in enumerate(_changed(fault.old, fault.new), fault.first):
        if was != now:
            print(f"      {number:5} - {visible(was.strip())}", file=stream)
            print(f"      {number:5} + {visible(now.strip())}", file=stream)
    print(f"      {visible(one.trial.reason)}; results: {folder / one.trial.results}", file=stream)


def _changed(old: str, new: str) -> list[tuple[str, str]]:
    return list(zip(old.split("\n"), new.split("\n"), strict=True))


def _line(head: str, one: GeneratedMutant, stream: TextIO) -> None:
    fault = one.fault
    where = f"{visible(fault.place)} {visible(fault.function)}()"
    patch = f", patch {one.origin}" if one.origin else ""
    print(f"{head}  {one.id}  {where}{patch}: {fault.rule}", file=stream)


def _rules(counts: Sequence[Tried], stream: TextIO) -> None:
    """Print how many mutants of each rule were killed."""
    total = Counter(one.mutant.fault.rule for one in counts if one.killed or one.survived)
    killed = Counter(one.mutant.fault.rule for one in counts if one.killed)
    for rule, number in total.most_common():
        print(f"  {killed[rule]:4} of {number:4} killed  {rule}", file=stream)
