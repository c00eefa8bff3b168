"""Resume a run that was cut off: the same kernel, the same plan, only the scenarios never reached."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.lib.errors import HarnessError
from harness.verdict.record import Entry, Record, Result
from harness.verdict.verdict import STAGES, Kind, Verdict

NAMED = 5  # entries that an error names; the others are counted
OPTION = "--resume"


def command_line(folder: Path, given: list[str]) -> list[str]:
    """Return the command line that resumes the run in ``folder``, and enter its working directory.

    It has the arguments that the run was started with, those ``given`` now (unless
    they are the same), and ``--resume FOLDER``.

    Raises HarnessError if ``folder`` is not that of a run, its ``run.json`` has no
    arguments, or the directory cannot be entered.
    """
    results = ResultsFolder.reopen(folder)
    started_with, directory = _selection(results.dir)
    try:
        os.chdir(directory)
    except OSError as error:
        raise HarnessError(
            f"The run in {folder} was started in {directory}, which cannot be entered ({error.strerror}); "
            "its options may name files there. Make it, or start a new run."
        ) from error
    return [*started_with, *([] if given == started_with else given), OPTION, str(results.dir)]


def _selection(folder: Path) -> tuple[list[str], str]:
    """Return the arguments that a run was started with, and its working directory."""
    facts = read_facts(folder)
    arguments, directory = facts.get("selection"), facts.get("directory")
    if not isinstance(arguments, list) or not isinstance(directory, str):
        raise HarnessError(
            f"{folder} cannot be resumed: its run.json does not hold the run's arguments. Start a new run."
        )
    return [str(argument) for argument in arguments], directory


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run that can be resumed; ``facts`` are those of run.json when it was opened."""

    results: ResultsFolder
    journal: JournalWriter
    record: Record
    facts: Mapping[str, object]

    @classmethod
    def of(cls, folder: Path) -> EarlierRun:
        """Open the run in ``folder`` and take its lock; nothing is written yet.

        Raises HarnessError if it is no run, still runs, or has a damaged journal.
        """
        results = ResultsFolder.reopen(folder)
        journal = results.journal()
        journal.lock()
        record = read(results.dir)
        if record.damage:
            raise HarnessError(
                f"The run in {results.dir} cannot be resumed, because its journal contradicts itself "
                f"({record.damage}). Start a new run."
            )
        return cls(results, journal, record, results.earlier_facts)

    @property
    def finished(self) -> bool:
        """Return whether the run came to its own end, uninterrupted, and nothing is left to run."""
        left = self.left or self.selftests_left
        return self.record.complete and not self.record.interrupted and not left

    @property
    def left(self) -> tuple[str, ...]:
        """The ids of the scenarios that were never reached, in the order of the plan.

        It is empty if the series failed in a stage.
        """
        return self._never_reached(self.record.scenarios)

    @property
    def selftests_left(self) -> tuple[str, ...]:
        """The ids of the kernel's own test programs that were never reached; empty as for ``left``."""
        return self._never_reached(self.record.selftests)

    def _never_reached(self, results: Sequence[Result]) -> tuple[str, ...]:
        stages = [result for result in self.record.results if result.entry.kind in STAGES]
        if any(result.verdict is Verdict.VIOLATES for result in stages):
            return ()
        return tuple(result.entry.id for result in results if result.verdict is Verdict.NOT_REACHED)

    def check(self, entries: Sequence[Entry]) -> None:
        """Raise HarnessError if ``entries`` differ from the plan that the run was started with."""
        results = self.record.results
        planned = {one.entry.id: one.entry for one in results if one.entry.kind is not Kind.MACHINE}
        now = {entry.id: entry for entry in entries}
        for ids, words in (
            (
                [name for name in planned if name not in now],
                "entries that no longer exist or are not selected",
            ),
            ([name for name in now if name not in planned], "entries that are not in its plan"),
            (
                [name for name in planned if name in now and planned[name] != now[name]],
                "entries that its plan describes or expects otherwise",
            ),
        ):
            if ids:
                arguments, _ = _selection(self.results.dir)
                raise HarnessError(
                    f"The run in {self.results.dir} cannot be resumed, because of {words}: {_some(ids)}. It "
                    f"was started with `{shlex.join(arguments)}`. Start a new run."
                )

    def begin(self) -> None:
        """Remove the leftovers of the killed part, and prepare the journal for the next one."""
        self.results.sweep()
        self.journal.resume(self.record)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
