"""The mutants: does every fault of a kernel show in the scenarios that are there to see it?

Each mutant is built and run by itself, the scenarios of the requirements that
must catch it first, until one of them fails.  While it runs, the next one is
built.  The scenarios that killed some are then run on the series without a
fault.  What came out is on the disk before the next trial begins, so a run that
was ended goes on where it was.
"""

from __future__ import annotations

import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from _pytest.mark.expression import Expression
from filelock import FileLock, Timeout

from harness.journal.folder import LATEST, read_facts
from harness.journal.reader import read
from harness.kernel import apply, kconfig
from harness.kernel import build as kernel
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.fetch import fetch_base
from harness.lib import command, files, paths
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, PatchproofError, UsageError
from harness.lib.host import host_errors
from harness.lib.progress import Progress
from harness.mutants.ledger import CleanRun, Fate, Ledger, MutantTrial, judge
from harness.mutants.report import line
from harness.run.request import Request
from harness.series import mutant, series
from harness.series.mutant import Mutant
from harness.series.series import Series
from harness.verdict.record import Record
from harness.verdict.requirements import Matrix, Scenario
from harness.verdict.words import Kind, Verdict

DEBUG = paths.KCONFIG / "debug.config"
OUTPUT, STAGES = "output.txt", "stages.txt"
TAIL_LINES = 10
BATCH = 20  # mutants, after which their killers are held against the series without a fault

Say = Callable[[str], None]


def load(rules: Matrix, only: str | None, expression: str | None, shard: str | None) -> list[Mutant]:
    """The mutants that a user asks for, in the order in which they are best tried.

    ``only`` names a series, ``expression`` is what pytest's -k takes and is looked up
    in names and subjects, ``shard`` says "2/4" for the second of four parts.  Raises
    UsageError.
    """
    found = mutant.load(paths.PATCHES, rules, only)
    # A kernel with a debugging configuration has a build folder of its own, and is slow: last.
    found.sort(key=lambda one: (one.needs_debug_kernel, one.series, one.name))
    if expression is not None:
        found = [one for one in found if _matches(expression, one)]
        if not found:
            raise UsageError(f"No mutant has a name or subject that fits -k {expression!r}.")
    return found if shard is None else _part(found, shard)


def _matches(expression: str, one: Mutant) -> bool:
    text = f"{one.id} {one.subject}".lower()

    def stands_there(word: str, /, **_: object) -> bool:
        return word.lower() in text

    try:
        return Expression.compile(expression).evaluate(stands_there)
    except SyntaxError as error:
        raise UsageError(
            f"-k {expression!r} is not an expression of words, and, or, not: {error.msg}."
        ) from None


def _part(mutants: Sequence[Mutant], shard: str) -> list[Mutant]:
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", shard)
    number, total = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= total:
        raise UsageError(f"--shard {shard!r} names no part: the second of four is 2/4.")
    return list(mutants[number - 1 :: total])


def checked(dialect: str, scenarios: Sequence[Scenario]) -> frozenset[str]:
    """The requirements that a scenario checks in this dialect."""
    return frozenset(name for one in scenarios if dialect in one.dialects for name in one.requirements)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of the results folder; HarnessError if there is one, or no folder can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HarnessError(
            f"Another run tries mutants in {folder}. Give this one another --results."
        ) from error
    except OSError as error:
        raise HarnessError(f"The results folder {folder} cannot be made: {error.strerror}.") from error
    with lock:
        yield


@dataclass(frozen=True)
class Job:
    """One kernel: that of a mutant, or the one without a fault that mutants are held against."""

    whole: Series
    debug: bool
    mutant: Mutant | None = None

    @property
    def series(self) -> Series:
        """What is built."""
        return self.whole if self.mutant is None else self.mutant.of(self.whole)

    @property
    def fragments(self) -> tuple[Path, ...]:
        """Its kernel config fragments."""
        return Request(kconfig=(DEBUG,) if self.debug else ()).fragments

    @property
    def key(self) -> str:
        """The digest of what is built."""
        return files.digest(self.series.digest, kconfig.fragment_text(kconfig.requested(self.fragments)))

    @property
    def without_fault(self) -> Job:
        """The job that it is held against."""
        return replace(self, mutant=None)


def job_of(one: Mutant) -> Job:
    """The job that tries a mutant."""
    return Job(series.load(one.series, paths.PATCHES), one.needs_debug_kernel, one)


def jobs_of(wanted: Sequence[Mutant], unheld: Sequence[Mutant] = ()) -> list[Job]:
    """The jobs of the wanted mutants, and after each batch of them the one without a fault.

    Mutants of one series and configuration must stand together.  Those that are
    ``unheld`` were tried before, and not held against it.
    """
    kinds: dict[tuple[str, bool], list[Job]] = {}
    for one in [*wanted, *unheld]:
        mine = kinds.setdefault((one.series, one.needs_debug_kernel), [])
        if one in wanted or not mine:
            mine.append(job_of(one))
    jobs: list[Job] = []
    for mine in kinds.values():
        control = mine[0].without_fault
        tried = [job for job in mine if job.mutant in wanted]
        for start in range(0, len(tried) or 1, BATCH):
            jobs += [*tried[start : start + BATCH], control]
    return jobs


class Builder:
    """Builds the kernels of jobs in a thread, one or two ahead of who takes them."""

    def __init__(self, jobs: Sequence[Job], build: Callable[[Job], Kernel]) -> None:
        self._jobs = jobs
        self._build = build
        self._ready: queue.Queue[tuple[Job, Kernel | PatchproofError] | None] = queue.Queue(maxsize=1)
        # Its compiler ends with it, and it with the program: nobody waits for a kernel that nobody wants.
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            for job in self._jobs:
                built: Kernel | PatchproofError
                try:
                    built = self._build(job)
                except PatchproofError as error:
                    built = error
                self._ready.put((job, built))
        finally:
            self._ready.put(None)

    def __iter__(self) -> Iterator[tuple[Job, Kernel | PatchproofError]]:
        while (one := self._ready.get()) is not None:
            yield one


class Trials:
    """Tries mutants by ``scenarios``, results in ``folder``; each run is on the machine of ``request``.

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
        self.suites = paths.program_digest()
        self._scenarios = tuple(scenarios)
        self._request = request
        self._say = say
        self._quick = quick

    def run(self, mutants: Sequence[Mutant]) -> None:
        """Try those that were not tried yet, and say of each what came out.  Raises PatchproofError."""
        started = time.monotonic()
        counted = [one for one in mutants if not one.equivalent]
        wanted = [one for one in counted if not self._is_done(one)]
        before = [one for one in counted if one not in wanted]
        if before:
            self._say(f"{len(before)} of {len(counted)} mutants were tried before: {self.folder}")
        unheld = [one for one in before if self.ledger.is_open(self.ledger.trials[one.id])]
        jobs = jobs_of(wanted, unheld)
        ended = tried = 0
        for job, built in Builder(jobs, self._build):
            ended += 1
            if job.mutant is None:
                self._control(job, built)
                continue
            trial = self._try(job, job.mutant, built)
            self.ledger.ended(trial)
            tried += 1
            self._say(line(trial, tried, len(wanted)))
        if ended < len(jobs):
            raise HarnessError(
                "The builds ended before the last mutant: a defect of this program, told above."
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
        if ids and not checked(job.whole.dialect, self._scenarios).intersection(ids):
            raise HarnessError(f"No scenario for the dialect {job.whole.dialect} checks {', '.join(ids)}.")
        return self._make(job)

    def _make(self, job: Job) -> Kernel:
        place = self._place(job)
        with host_errors(self.store.root, self.folder):
            if job.mutant is not None:  # the last control may still be going on
                shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True, exist_ok=True)
            with (place / STAGES).open("w") as said:
                progress = Progress(self.store, said)
                base = fetch_base(self.store, progress, job.whole.base)
                applied = apply.apply_series(self.store, progress, base, job.series, place / "apply.log")
                return build_kernel(self.store, progress, applied, job.fragments, place / "build.log")

    # -- one run -------------------------------------------------------------------------

    def _run(self, job: Job, request: Request, scenarios: Iterable[str] = ()) -> Record:
        """Run the suites, or the named scenarios, on the kernel of a job, in a process of its own.

        HarnessError if the run did not begin.
        """
        place = self._place(job)
        place.mkdir(parents=True, exist_ok=True)
        kconfig = (DEBUG,) if job.debug else ()
        asked = replace(request, series=job.whole.name, results=place, kconfig=kconfig).arguments()
        argv = [sys.executable, "-m", "harness", "run", *asked, *scenarios]
        with (place / OUTPUT).open("ab") as output:
            command.wait_for(argv, output)
        if (place / LATEST).exists():
            tested = read_facts(place / LATEST).get("digest", job.series.digest)
            if tested != job.series.digest:
                raise HarnessError(f"The patches of {job.series.name} were changed while it was tried.")
            return read(place / LATEST)
        said = (place / OUTPUT).read_text(errors="replace").splitlines()[-TAIL_LINES:]
        raise HarnessError("The run did not begin.", log=place / OUTPUT, tail="\n".join(said))

    def _control(self, job: Job, built: Kernel | PatchproofError) -> None:
        """See that the scenarios which killed mutants of this kind pass where there is no fault."""
        if isinstance(built, PatchproofError):
            raise built
        key = self._control_key(job)
        unheld = [
            trial
            for trial in self.ledger.trials.values()
            if trial.control == key and self.ledger.is_open(trial)
        ]
        if not unheld:
            return
        killers = dict.fromkeys(trial.killer for trial in unheld if "::" in trial.killer)
        self._say(f"  {job.whole.name} itself: {len(killers)} scenarios that killed mutants of it")
        # A stage that killed one is part of any run.
        self._hold(job, unheld, list(killers) or [next(one.id for one in self._scenarios)])
        for trial in unheld:
            if self.ledger.is_open(trial):
                why = f"{job.whole.name} itself does not pass {trial.killer}, so that shows nothing"
                self.ledger.ended(replace(trial, fate=Fate.ERROR, reason=why))
                self._say(f"! {trial.id}: {why}")

    def _control_key(self, job: Job) -> str:
        return files.digest(job.without_fault.key, self.suites)

    def _hold(self, job: Job, unheld: Sequence[MutantTrial], scenarios: Sequence[str]) -> None:
        """Run what is selected on the series without a fault, and take down what passed.

        What the kernel did between scenarios, it did on no machine if the record has none.
        """
        record = self._run(job, self._request, scenarios)
        if record.interrupted or not record.complete:
            raise HarnessError(
                f"The run of {job.whole.name} itself did not come to its end, so there is nothing to hold "
                f"mutants against. Its results: {self._place(job)}"
            )
        control = CleanRun()
        for result in record.results:
            if result.ended and result.verdict is Verdict.CONFORMS:
                control.passed.add(result.entry.id)
            elif not result.as_expected:
                control.failed[result.entry.id] = result.reason
        if not any(result.entry.kind is Kind.MACHINE for result in record.results):
            control.passed |= {trial.killer for trial in unheld if trial.killer.startswith("machine-")}
        self.ledger.controlled(self._control_key(job), control)

    def _try(self, job: Job, one: Mutant, built: Kernel | PatchproofError) -> MutantTrial:
        """Run a mutant until it is killed, and forget its kernel."""
        trial = MutantTrial(
            one.id, job.key, self.suites, self._control_key(job), Fate.ERROR, results=f"runs/{one.id}"
        )
        if isinstance(built, PatchproofError):
            return replace(trial, reason=str(built))
        self.ledger.started(one, job.key)
        begin = time.monotonic()
        try:
            asked = replace(self._request, series=job.whole.name, mutant=one.name, until_violated=True)
            record = self._run(job, replace(asked, requirement=one.caught_by) if self._quick else asked)
        except HarnessError as error:
            return replace(trial, reason=str(error))
        kernel.forget(self.store, built)  # one that was interrupted will be tried again soon
        fate, shown_by, reason = judge(one, record)
        trial = replace(
            trial,
            fate=fate,
            reason=reason,
            results=f"{trial.results}/{record.run}",
            seconds=round(time.monotonic() - begin, 1),
        )
        if shown_by is None:
            return replace(trial, suites=self._quick_suites) if self._quick else trial
        entry = shown_by.entry
        return replace(trial, killer=entry.id, requirements=entry.requirements, verdict=shown_by.verdict)
