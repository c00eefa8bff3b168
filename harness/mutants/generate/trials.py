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
from harness.lib.text import counted
from harness.mutants.fate import Fate, judge
from harness.mutants.generate.combine import ARGUMENT
from harness.mutants.generate.mutant import GeneratedMutant
from harness.mutants.generate.order import FIRST, Order
from harness.mutants.generate.report import Tried
from harness.mutants.ledger import CleanRun, Ledger, MutantTrial
from harness.mutants.one_run import run_suites
from harness.mutants.report import line
from harness.run.request import Request
from harness.series import mutant
from harness.series.series import Series

#: With less time than this (seconds), no other trial begins.
LEAST_SECONDS = 15.0
_PATCHES = "patches"


@dataclass(frozen=True)
class Kernels:
    """The patch with many faults, ``combined``, and the digest of the configuration of all kernels.

    ``combined`` is None if no kernel has many faults: each mutant gets a kernel of its own.
    """

    combined: Path | None
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
        self._ran: dict[str, frozenset[str]] = {}  # in the first round, by the id of the mutant

    def run(self, mutants: Sequence[GeneratedMutant]) -> None:
        """Try the mutants that were not tried yet, and report each trial.  Raises PatchproofError."""
        able = [one for one in mutants if not one.equivalent]
        by_id = {one.id: one for one in mutants}
        for name, earlier in self.ledger.trials.items():
            if earlier.killed and name in by_id:
                self._order.killed(by_id[name].fault, earlier.killer)
                if by_id[name].equivalent:
                    self._say(f"! {name} is named as one that nobody can notice: {earlier.killer} did")
        started, tried = time.monotonic(), 0
        for whole_round in (False, True):
            wanted = [one for one in able if self._is_wanted(one, whole_round)]
            if whole_round and wanted:
                self._say(f"{len(wanted)} mutants live after their first {FIRST} scenarios")
            elif not whole_round and (before := len(able) - len(wanted)):
                self._say(f"{before} of {len(able)} mutants were tried before: {self.folder}")
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
        self._confirm(able)

    def _is_wanted(self, one: GeneratedMutant, whole_round: bool) -> bool:
        """Return whether a mutant is to be tried in the first round, or in that of all scenarios."""
        first_done = self._is_done(one, False)
        return first_done and not self._is_done(one, True) if whole_round else not first_done

    def tried(self, mutants: Sequence[GeneratedMutant]) -> list[Tried]:
        """Return these mutants with their trials."""
        confirmed = self.ledger.confirmed
        return [Tried(one, confirmed.get(one.id), self._is_done(one, True)) for one in mutants]

    def _is_done(self, one: GeneratedMutant, all_scenarios: bool) -> bool:
        key = one.key(self._whole, self._kernels.configuration)
        done = self.ledger.is_done(one.mutant, key, self.suites)
        return done or (not all_scenarios and self.ledger.is_done(one.mutant, key, self._first_suites))

    def _seconds_left(self) -> float:
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    # -- one run -------------------------------------------------------------------------

    def _asked(self, one: GeneratedMutant | None, place: Path, whole: bool = True) -> Request:
        """Return the request for the run of a mutant, or of the kernel without a fault."""
        left = self._seconds_left()
        limit = "" if left == float("inf") else f"{max(5, int(left))}s"
        variants = "one" if self._functions and not whole else "all"
        asked = replace(self._request, results=place, time_limit=limit, variants=variants)
        if one is not None and not one.number:
            return replace(asked, mutant=str(self._patch(one)), until_violated=True)
        if self._kernels.combined is None:
            return asked  # the series itself
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
            # Kills since then have changed the order.  What an earlier session ran is not known.
            ran = frozenset() if self._functions else self._ran.get(one.id, frozenset())
            chosen = [name for name in ranked if name not in ran]
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
        self._ran[one.id] = frozenset(result.entry.scenario for result in record.scenarios if result.ended)
        trial = trial.ended(fate, shown_by, reason, run=record.run, seconds=time.monotonic() - started)
        return replace(trial, suites=self.suites) if trial.killed else trial

    # -- the killers on the series without a fault ------------------------------------------

    def _confirm(self, mutants: Sequence[GeneratedMutant]) -> None:
        """Run the scenarios that killed mutants on the kernel without a fault, where they must pass."""
        by_id = {one.id: one for one in mutants}
        unconfirmed = [
            trial
            for trial in self.ledger.trials.values()
            if trial.id in by_id and trial.control == self._control and self.ledger.is_unconfirmed(trial)
        ]
        if not unconfirmed:
            return
        killers = sorted({one.killer for one in unconfirmed if "::" in one.killer})
        # Every run has the stages, so a mutant that a stage killed needs just any scenario.
        scenarios = killers or list(by_id[unconfirmed[0].id].scenarios[:1])
        self._say(f"running {counted(len(scenarios), 'scenario')} without a fault, to confirm what killed")
        control = self._run_control(scenarios, unconfirmed)
        self.ledger.controlled(self._control, control)
        for trial in unconfirmed:
            if trial.killer not in control.passed:
                reason = f"{trial.killer} fails without a fault as well, so the trial proves nothing"
                self.ledger.ended(replace(trial, fate=Fate.ERROR, reason=reason))
                self._say(f"! {trial.id}: {reason}")

    def _run_control(self, scenarios: Sequence[str], unconfirmed: Sequence[MutantTrial]) -> CleanRun:
        """Run scenarios on the kernel without a fault, and return what passed."""
        asked = replace(self._asked(None, self.folder / "control"), time_limit="")
        combined, tested = self._kernels.combined, self._whole
        if combined is not None:
            tested = mutant.of_file(combined, tested.name).of(tested)
        record = run_suites(asked, tested, _arguments(scenarios))
        if record.interrupted or not record.complete:
            raise HarnessError(
                "The run without a fault did not come to its end, so no killer can be confirmed. "
                f"Its results: {self.folder / 'control'}"
            )
        return CleanRun.of(record, (one.killer for one in unconfirmed))


def _arguments(scenarios: Sequence[str]) -> list[str]:
    return [str(paths.PROJECT / name) for name in scenarios]
