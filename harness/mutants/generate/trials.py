"""Try generated mutants: one kernel for many of them, and the scenarios that reach the faulty line.

Every mutant first gets its most likely killers.  Those that live on get the rest of their
scenarios, when all mutants had the first.  Each result is on the disk before the next trial begins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.lib import files, interruption, paths
from harness.lib.errors import HarnessError
from harness.lib.host import host_errors
from harness.mutants.fate import Fate, judge
from harness.mutants.generate.combine import ARGUMENT
from harness.mutants.generate.mutant import GeneratedMutant
from harness.mutants.generate.order import FIRST, Order
from harness.mutants.ledger import CleanRun, Ledger, MutantTrial
from harness.mutants.one_run import run_suites
from harness.mutants.report import line
from harness.run.request import Request
from harness.series import mutant
from harness.series.series import Series
from harness.verdict.record import Record
from harness.verdict.verdict import Kind, Verdict

#: With less time than this (seconds), no other trial begins.
LEAST_SECONDS = 15.0
_PATCHES = "patches"


@dataclass(frozen=True)
class Kernels:
    """The patch with many faults, ``combined``, and the digest of the configuration of all kernels."""

    combined: Path
    configuration: str


class GeneratedTrials:
    """The trials of generated mutants of the series ``whole``, with their results in ``folder``.

    ``request`` names series, machine and configuration.  ``deadline`` is the end of the budget on the clock
    of time.monotonic(), None without one.  With ``functions`` a scenario is named without its parameters:
    the first round then takes one variant of each, and the second all.
    """

    def __init__(
        self,
        folder: Path,
        request: Request,
        whole: Series,
        kernels: Kernels,
        order: Order,
        say: Callable[[str], None],
        deadline: float | None = None,
        *,
        functions: bool = False,
    ) -> None:
        self.folder = folder
        self.ledger = Ledger(folder)
        self.suites = paths.program_digest()
        self._control = files.digest(kernels.configuration, whole.digest, self.suites)
        self._first_suites = files.digest(self.suites, f"first {FIRST}")
        self._request = replace(
            request,
            no_base=True,  # a mutant's fault is its own
            selftests="none",
            no_snapshots=True,  # most need one machine
        )
        self._whole = whole
        self._kernels = kernels
        self._order = order
        self._say = say
        self._deadline = deadline
        self._functions = functions

    def run(self, mutants: Sequence[GeneratedMutant]) -> None:
        """Try the mutants that were not tried yet, and report each trial.  Raises PatchproofError."""
        counted = [one for one in mutants if not one.equivalent]
        by_id = {one.id: one for one in counted}
        for name, earlier in self.ledger.trials.items():
            if earlier.killed and name in by_id:
                self._order.killed(by_id[name].fault, earlier.killer)
        started, tried = time.monotonic(), 0
        for whole_round in (False, True):
            wanted = [one for one in counted if self._is_wanted(one, whole_round)]
            if whole_round and wanted:
                self._say(f"{len(wanted)} mutants live after their first {FIRST} scenarios")
            elif not whole_round and (before := len(counted) - len(wanted)):
                self._say(f"{before} of {len(counted)} mutants were tried before: {self.folder}")
            for number, one in enumerate(wanted, 1):
                if self._seconds_left() < LEAST_SECONDS:
                    break
                trial = self._try(one, whole_round)
                if trial is None:  # the budget has cut it off
                    break
                self.ledger.ended(trial)
                if trial.killed:
                    self._order.killed(one.fault, trial.killer)
                tried += 1
                self._say(line(trial, number, len(wanted)))
        if tried:
            minutes = (time.monotonic() - started) / 60
            self._say(f"{tried} trials in {minutes:.1f} minutes, {60 * tried / minutes:.0f} an hour")
        self._confirm(counted)

    def _is_wanted(self, one: GeneratedMutant, whole_round: bool) -> bool:
        """Return whether a mutant is to be tried in the first round, or in that of all scenarios."""
        first_done = self._is_done(one, False)
        return first_done and not self._is_done(one, True) if whole_round else not first_done

    def all_tried(self, one: GeneratedMutant) -> bool:
        """Return whether a mutant was killed, or all of its scenarios were tried."""
        return self._is_done(one, True)

    def _is_done(self, one: GeneratedMutant, all_scenarios: bool) -> bool:
        key = one.key(self._whole, self._kernels.configuration)
        done = self.ledger.is_done(one.mutant, key, self.suites)
        return done or (not all_scenarios and self.ledger.is_done(one.mutant, key, self._first_suites))

    def _seconds_left(self) -> float:
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    # -- one run -------------------------------------------------------------------------

    def _asked(self, one: GeneratedMutant | None, place: Path, whole: bool = True) -> Request:
        """Return the request for the run of a mutant, or of the kernel with all faults off."""
        left = self._seconds_left()
        limit = "" if left == float("inf") else f"{max(5, int(left))}s"
        variants = "one" if self._functions and not whole else "all"
        asked = replace(self._request, results=place, time_limit=limit, variants=variants)
        if one is not None and not one.number:
            return replace(asked, mutant=str(self._patch(one)), until_violated=True)
        number = one.number if one is not None else 0
        return replace(
            asked,
            mutant=str(self._kernels.combined),
            kernel_argument=(f"{ARGUMENT}={number}",),
            until_violated=one is not None,
        )

    def _patch(self, one: GeneratedMutant) -> Path:
        path = (self.folder / _PATCHES / one.patch.name).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, one.patch.content)
        return path

    def _try(self, one: GeneratedMutant, all_scenarios: bool) -> MutantTrial | None:
        """Run the first scenarios of a mutant, or the rest of them; None if the budget was over before."""
        interruption.check()
        key = one.key(self._whole, self._kernels.configuration)
        whole = all_scenarios or (len(one.scenarios) <= FIRST and not self._functions)
        suites = self.suites if whole else self._first_suites
        place = self.folder / "runs" / one.id
        trial = MutantTrial(one.id, key, suites, self._control, Fate.ERROR, results=f"runs/{one.id}")
        ranked = self._order.of(one.fault, one.scenarios)
        chosen = ranked[:FIRST]
        if all_scenarios:
            chosen = ranked if self._functions else ranked[FIRST:]
        if not chosen:
            return replace(trial, fate=Fate.SURVIVED, reason="no scenario reaches the line")
        self._patch(one)
        self.ledger.started(one.mutant, key)
        started = time.monotonic()
        with host_errors(self.folder):
            shutil.rmtree(place, ignore_errors=True)
        tested = mutant.of_file(Path(self._asked(one, place, whole).mutant or ""), self._whole.name).of(
            self._whole
        )
        try:
            record = run_suites(self._asked(one, place, whole), tested, _arguments(chosen))
        except HarnessError as error:
            return replace(trial, reason=str(error))
        fate, shown_by, reason = judge(one.mutant, record)
        fate = Fate.KILLED if fate is Fate.MISTAKEN else fate  # nobody has said which scenario must see it
        if fate is not Fate.KILLED and record.interrupted and self._seconds_left() < LEAST_SECONDS:
            return None
        trial = trial.ended(fate, shown_by, reason, run=record.run, seconds=time.monotonic() - started)
        return replace(trial, suites=self.suites) if trial.killed else trial

    # -- the killers on the series without a fault ------------------------------------------

    def _confirm(self, counted: Sequence[GeneratedMutant]) -> None:
        """Run the scenarios that killed mutants on the kernel with all faults off, where they must pass."""
        names = {one.id for one in counted}
        unconfirmed = [
            trial
            for trial in self.ledger.trials.values()
            if trial.id in names and trial.control == self._control and self.ledger.is_unconfirmed(trial)
        ]
        killers = sorted({one.killer for one in unconfirmed if "::" in one.killer})
        if not unconfirmed:
            return
        control = CleanRun()
        if killers:
            self._say(f"running {len(killers)} scenarios that killed mutants with all faults off")
            asked = replace(self._asked(None, self.folder / "control"), time_limit="")
            tested = mutant.of_file(self._kernels.combined, self._whole.name).of(self._whole)
            record = run_suites(asked, tested, _arguments(killers))
            if record.interrupted or not record.complete:
                raise HarnessError(
                    "The run with all faults off did not come to its end, so no killer can be confirmed. "
                    f"Its results: {self.folder / 'control'}"
                )
            control = _passed(record)
        # A stage such as `boot`, and a complaint between two scenarios, were no fault of that run.
        control.passed |= {
            one.killer for one in unconfirmed if "::" not in one.killer and one.killer not in control.failed
        }
        self.ledger.controlled(self._control, control)
        for trial in unconfirmed:
            if trial.killer not in control.passed:
                reason = f"{trial.killer} fails without a fault as well, so the trial proves nothing"
                self.ledger.ended(replace(trial, fate=Fate.ERROR, reason=reason))
                self._say(f"! {trial.id}: {reason}")


def _arguments(scenarios: Sequence[str]) -> list[str]:
    return [str(paths.PROJECT / name) for name in scenarios]


def _passed(record: Record) -> CleanRun:
    control = CleanRun()
    for result in record.results:
        if result.ended and result.verdict is Verdict.CONFORMS:
            control.passed.add(result.entry.id)
        elif result.entry.kind is not Kind.STAGE and not result.as_expected:
            control.failed[result.entry.id] = result.reason
    return control
