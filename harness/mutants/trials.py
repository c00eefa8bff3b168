"""Try mutants: build each one, and run the scenarios that must catch it.

The scenarios of the requirements that must catch a mutant run first, and a run
ends with the first failure.  Meanwhile the next mutant is built.  The scenarios
that killed mutants then run on the control, the series without a fault, where
they must pass.  Each result is on the disk before the next trial begins, so an
interrupted run can be continued.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from harness.kernel import apply, build, module
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.fetch import fetch_base
from harness.lib import files, locks, paths
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, PatchproofError
from harness.lib.host import host_errors
from harness.lib.progress import Progress
from harness.mutants.fate import Fate, judge
from harness.mutants.jobs import DEBUG, Builder, Job, job_of, jobs_of
from harness.mutants.ledger import CleanRun, Ledger, MutantTrial
from harness.mutants.one_run import run_suites
from harness.mutants.report import line
from harness.run.request import Request
from harness.series.mutant import Mutant
from harness.series.series import DEFAULT_BASE
from harness.verdict.record import Record
from harness.verdict.requirements import Scenario

STAGES = "stages.txt"

Say = Callable[[str], None]


def checked_requirements(dialect: str, scenarios: Sequence[Scenario]) -> frozenset[str]:
    """Return the requirements that some scenario checks in this dialect."""
    return frozenset(name for one in scenarios if dialect in one.dialects for name in one.requirements)


def locked(folder: Path) -> AbstractContextManager[None]:
    """Lock the results folder against other runs that try mutants; see locks.claim()."""
    return locks.claim(folder, ".lock", "tries mutants")


class Trials:
    """The trials of mutants by ``scenarios``, with their results in ``folder``.

    ``request`` names the machine of each run, ``say`` prints a line of progress.
    ``quick`` leaves out the scenarios that need not catch a mutant.
    """

    def __init__(
        self,
        cache: Store,
        folder: Path,
        scenarios: Sequence[Scenario],
        request: Request,
        say: Say,
        *,
        quick: bool = False,
    ) -> None:
        self.store = cache
        self.folder = folder
        self.ledger = Ledger(folder)
        # A mutant that survives the scenarios of --fast may be killed by the others.
        self.suites = files.digest(paths.program_digest(), "fast") if request.fast else paths.program_digest()
        self._scenarios = tuple(scenarios)
        self._request = request
        self._say = say
        self._quick = quick

    def run(self, mutants: Sequence[Mutant]) -> None:
        """Try the mutants that were not tried yet, and report each trial.  Raises PatchproofError."""
        started = time.monotonic()
        counted = [one for one in mutants if not one.equivalent]
        wanted = [one for one in counted if not self._is_done(one)]
        before = [one for one in counted if one not in wanted]
        if before:
            self._say(f"{len(before)} of {len(counted)} mutants were tried before: {self.folder}")
        unconfirmed = [one for one in before if self.ledger.is_unconfirmed(self.ledger.trials[one.id])]
        jobs = jobs_of(wanted, unconfirmed)
        ended = tried = 0
        with Builder(jobs, self._build) as builder:
            for job, built in builder:
                ended += 1
                if job.mutant is None:
                    self._check_killers(job, built)
                    continue
                trial = self._try(job, job.mutant, built)
                self.ledger.ended(trial)
                tried += 1
                self._say(line(trial, tried, len(wanted)))
        if ended < len(jobs):
            raise HarnessError(
                "The builds ended before the last mutant. This is a defect of this program: report the "
                "traceback above."
            )
        if tried:
            minutes = (time.monotonic() - started) / 60
            self._say(f"{tried} mutants in {minutes:.1f} minutes, {60 * tried / minutes:.0f} an hour")

    def _is_done(self, one: Mutant) -> bool:
        key = job_of(one).key
        return self.ledger.is_done(one, key, self.suites) or (
            self._quick and self.ledger.is_done(one, key, self._quick_suites)
        )

    @property
    def _quick_suites(self) -> str:
        return files.digest(self.suites, "quick")

    def _place(self, job: Job) -> Path:
        if job.mutant is not None:
            return self.folder / "runs" / job.mutant.id
        return self.folder / "controls" / (job.whole.name + ("-debug" if job.debug else ""))

    def _build(self, job: Job) -> Kernel:
        ids = job.mutant.caught_by if job.mutant is not None else ()
        if ids and not checked_requirements(job.whole.dialect, self._scenarios).intersection(ids):
            raise HarnessError(f"No scenario for the dialect {job.whole.dialect} checks {', '.join(ids)}.")
        return self.make(job)

    def make(self, job: Job) -> Kernel:
        folder = self._place(job)
        with host_errors(self.store.root, self.folder):
            if job.mutant is not None:  # the folder of a control may be that of a run in progress
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / STAGES).open("w") as output:
                progress = Progress(self.store, output)
                base = fetch_base(self.store, progress, job.whole.base or DEFAULT_BASE)
                applied = apply.apply_series(self.store, progress, base, job.series, folder / "apply.log")
                early = module.build_early(
                    self.store, progress, applied, job.fragments, folder / "module.log"
                )
                try:
                    return build_kernel(
                        self.store, progress, applied, job.fragments, folder / "build.log", early
                    )
                finally:
                    self.store.report = locks.plainly  # that of ``progress`` writes into a closed file

    # -- one run -------------------------------------------------------------------------

    def run_suites(self, job: Job, request: Request, scenarios: Iterable[str] = ()) -> Record:
        """Run the suites, or the named scenarios, on the kernel of a job, in a process of its own.

        Raises HarnessError if no run began, or the patches changed meanwhile.
        """
        kconfig = (DEBUG,) if job.debug else ()
        asked = replace(request, series=job.whole.name, results=self._place(job), kconfig=kconfig)
        return run_suites(asked, job.series, scenarios)

    def _check_killers(self, job: Job, built: Kernel | PatchproofError) -> None:
        """Run the scenarios that killed mutants of this kind on the control, where they must pass."""
        if isinstance(built, PatchproofError):
            raise built
        key = self._control_key(job)
        unconfirmed = [
            trial
            for trial in self.ledger.trials.values()
            if trial.control == key and self.ledger.is_unconfirmed(trial)
        ]
        if not unconfirmed:
            return
        killers = dict.fromkeys(trial.killer for trial in unconfirmed if "::" in trial.killer)
        self._say(f"  {job.whole.name} without a fault: {len(killers)} scenarios that killed mutants")
        # Every run has the stages, so a mutant that a stage killed needs just any scenario.
        self._run_control(job, unconfirmed, list(killers) or [next(one.id for one in self._scenarios)])
        for trial in unconfirmed:
            if self.ledger.is_unconfirmed(trial):
                reason = f"{job.whole.name} fails {trial.killer} without a fault, so the trial proves nothing"
                self.ledger.ended(replace(trial, fate=Fate.ERROR, reason=reason))
                self._say(f"! {trial.id}: {reason}")

    def _control_key(self, job: Job) -> str:
        return files.digest(job.control.key, self.suites)

    def _run_control(self, job: Job, unconfirmed: Sequence[MutantTrial], scenarios: Sequence[str]) -> None:
        """Run the named scenarios on the control, and record which passed."""
        record = self.run_suites(job, self._request, scenarios)
        if record.interrupted or not record.complete:
            raise HarnessError(
                f"The run of {job.whole.name} itself did not come to its end, so no killer of mutants "
                f"can be confirmed. Its results: {self._place(job)}"
            )
        control = CleanRun.of(record, (trial.killer for trial in unconfirmed))
        self.ledger.controlled(self._control_key(job), control)

    def _try(self, job: Job, one: Mutant, built: Kernel | PatchproofError) -> MutantTrial:
        """Run a mutant until it is killed, and take its kernel out of the cache."""
        trial = MutantTrial(
            one.id, job.key, self.suites, self._control_key(job), Fate.ERROR, results=f"runs/{one.id}"
        )
        if isinstance(built, PatchproofError):
            return replace(trial, reason=str(built))
        self.ledger.started(one, job.key)
        started = time.monotonic()
        try:
            asked = replace(self._request, series=job.whole.name, mutant=one.name, until_violated=True)
            record = self.run_suites(job, replace(asked, requirement=one.caught_by) if self._quick else asked)
        except HarnessError as error:
            return replace(trial, reason=str(error))
        # Not after an interruption: the mutant will be tried again soon.
        module.remove_from_cache(self.store, built)
        build.remove_from_cache(self.store, built)
        fate, shown_by, reason = judge(one, record)
        trial = trial.ended(fate, shown_by, reason, run=record.run, seconds=time.monotonic() - started)
        return replace(trial, suites=self._quick_suites) if self._quick and shown_by is None else trial
