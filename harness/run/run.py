"""A run of the suites: the plan, the stages, the scenarios one after the other, the reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.journal.base_verdicts import BaseVerdicts
from harness.journal.facts import Facts, read_facts
from harness.journal.plan_file import own_entries
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.resume import EarlierRun
from harness.lib import interruption, locks, output, paths
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, PatchproofError
from harness.lib.interruption import Interruption
from harness.lib.progress import Progress
from harness.lib.resources import require
from harness.lib.shard import FIRST
from harness.report import html, junit
from harness.run import resources
from harness.run.base_alone import BaseAlone
from harness.run.bisect import Bisection, patch_entries
from harness.run.give_up import GiveUp
from harness.run.machines import hold
from harness.run.needs import USUAL, Needs
from harness.run.parts import RunParts
from harness.run.request import RunInput
from harness.run.runner import Runner
from harness.run.schedule import Job
from harness.run.selftests import Selftests, entry_of
from harness.run.stages import COVERAGE, Stages, stages_of
from harness.verdict.interruption import is_time_limit
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind

# Facts of run.json that may change when a run is resumed; the journal notes each change.
MUTABLE_FACTS = {
    "accelerator": "the accelerator",
    "qemu": "the version of QEMU",
    "image": "the identity of the guest's root file system",
    "program": "the digest of suites, probes and harness",
}


class Run(Runner):
    """A run: its results folder, its journal, its machines.

    ``scenarios`` are all selected ones, with their needs, in order; a shard runs only its own.
    ``selection`` are the facts of the command line, for run.json.

    ``planned`` are the entries of this run.

    ``left`` are the ids of the scenarios that this process runs: all, or those that an
    ``earlier`` run, which is resumed, never reached.  ``failures`` are the errors that
    ended the run early.  ``refusal`` is the error that kept it from beginning.
    ``violated`` is true after a scenario showed an unexpected fault of the kernel.  ``note`` is a sentence
    for the report about the selection of scenarios, empty if there is none.
    ``left_behind`` is true if a worker has died, whose machine then left its keys.

    Raises HarnessError if the host lacks a resource, or the results folder cannot be made or resumed.
    """

    def __init__(
        self, run_input: RunInput, scenarios: Sequence[tuple[Entry, Needs]], selection: Facts
    ) -> None:
        self.request = run_input.request
        series = run_input.series
        store = Store()
        self.earlier = EarlierRun.of(self.request.resume) if self.request.resume is not None else None
        programs, shard = run_input.selftests, self.request.shard
        release = run_input.base.version if run_input.base is not None else series.base
        whole = (
            *stages_of(self.request),
            *(entry for entry, _ in scenarios),
            *(replace(entry_of(one), shard=0 if shard is None else FIRST) for one in programs),
            *patch_entries(run_input, 0 if shard is None else FIRST),
            *((COVERAGE,) if self.request.coverage else ()),
        )
        self.planned = own_entries(whole, shard)
        if shard is not None and shard.number != FIRST:
            programs = ()
        if self.earlier is not None:
            self.results, self.journal = self.earlier.results, self.earlier.journal
            if self.request.tree is None and self.request.kernel is None:
                self.results.require(series=series.name, base_wanted=series.base)
            self.results.require(series=series.name, digest=series.digest)
            self.earlier.check(self.planned)
            self.left = list(self.earlier.left)
            if self.left:
                self._require_resources(store, release, scenarios)
            programs = tuple(one for one in programs if entry_of(one).id in self.earlier.selftests_left)
        else:
            self._require_resources(store, release, scenarios)
            self.results = ResultsFolder.create(self.request.results, series.name)
            self.results.write_run(**selection)
            self.results.write_run(digest=series.digest, resumed=[])
            self.journal = self.results.journal()
            self.journal.plan(whole, shard)
            self.left = [entry.id for entry in self.planned if entry.kind is Kind.SCENARIO]
        locks.introduce(f"the run of {series.name} in {self.results.dir}")
        self.results.write_run(program=paths.program_digest())
        self._copy_report()  # a run that is killed leaves a report in which nothing was reached
        self.refusal: PatchproofError | None = None
        self.note = ""
        self.left_behind = False
        self._progress = Progress(store)
        # With --until-violated the first violation ends the run; it loses no second machine.
        giving_up = not self.request.no_give_up and not self.request.until_violated
        super().__init__(
            self.request,
            self.results,
            self.journal,
            GiveUp(self._tell, enabled=giving_up),
            {entry.id: (entry, needs) for entry, needs in scenarios},
            store if run_input.base is not None else None,
        )
        parts = RunParts(run_input, store, self._progress, self.results, self.journal)
        self._base = BaseAlone(parts)
        self._bisection = Bisection(parts) if self.request.bisect else None
        self._stages = Stages(parts, self._base)
        self._selftests = Selftests(programs, parts, self.machines, self._examiner)
        self._programs = programs
        self._caught_by = run_input.caught_by
        self._subjects = tuple(patch.subject for patch in series.patches)

    def _require_resources(
        self, store: Store, release: str, scenarios: Sequence[tuple[Entry, Needs]]
    ) -> None:
        """Raise HarnessError unless the host has what the machines of the planned scenarios need."""
        planned = {entry.id for entry in self.planned}
        layouts = [needs.layout for entry, needs in scenarios if entry.id in planned]
        require(resources.needs(store, self.request, release, layouts))

    def _tell(self, sentence: str) -> None:
        """Say a sentence at once, and note it for the report."""
        self._progress.say("")  # pytest's line of dots is still open
        self._progress.say(sentence)
        self.journal.note(sentence)

    def machines_at_once(self, jobs: Sequence[Job]) -> int:
        """Return how many machines run these scenarios side by side."""
        return resources.machines_at_once(self.request, jobs)

    @property
    def keeps_order(self) -> bool:
        """Return whether scenarios run in the planned order: it is random, or catches a mutant early."""
        return bool(read_facts(self.results.dir).get("random_order") or self._caught_by)

    def prepare(self) -> bool:
        """Run the stages; return whether there are scenarios to run.

        The result is false if a stage failed, which the journal records, or if no scenario
        is left.
        """
        try:
            if self.earlier is not None:
                self.earlier.begin()
                self.machines.count = len(self.earlier.record.machines)
            unfinished = self.earlier is not None and not self.earlier.finished
            if self.left or self._programs or (self._bisection is not None and unfinished):
                self.journal.run_started()
                if self.results.note:
                    self._progress.say(self.results.note)  # the report of a failed stage has no notes
                    self.journal.note(self.results.note)
                if self.note:
                    self.journal.note(self.note)
                layout = self.scenarios[self.left[0]][1].layout if self.left else USUAL
                self._stages.prepare(self.machines, layout)
        except PatchproofError as error:
            interruption.again()
            self.failures.append(error)
            if self.journal.unwritten:
                self.refusal = error
            return False
        finally:
            if self.earlier is not None and not self.refusal and not self.earlier.finished:
                self._note_resumption(self.earlier)
        return bool(self.left)

    def run_selftests(self) -> None:
        """Run the kernel's own test programs, once no scenario is left to run.

        Raises HarnessError if the journal cannot be written.
        """
        if self.machines.software is None or (self.violated and self.request.until_violated):
            return
        self._selftests.run()
        if self.store is not None:
            cache = BaseVerdicts(self.store, read_facts(self.results.dir))
            for key, answer in self._selftests.answers.items():
                cache.put(key, answer)

    def compare_with_base(self) -> None:
        """Ask the base alone about each scenario and test program that violated, once all have run.

        Raises HarnessError if the journal cannot be written.
        """
        self._base.compare(self._end_machine, self._programs)

    def bisect(self) -> None:
        """Search the first patch of each violation, and check each patch, if the request asks for it.

        Raises HarnessError if the journal cannot be written.
        """
        base = self._base.known()
        finished = self.earlier is not None and self.earlier.finished
        if self._bisection is None or base is None or finished:
            return
        self._end_machine()
        self._bisection.search()
        self._bisection.check_patches(base, self.machines, USUAL)

    def _end_machine(self) -> None:
        """End the machine, which would be idle while the base is built, unless the user keeps it."""
        if not self.request.keep_vm:
            self.retire("all scenarios have run")

    def finish(self, interrupted: str = "") -> ExitCode:
        """End the machine, write the reports, and return the exit code.

        ``interrupted`` is what ended the run early, empty if nothing did.  Raises HarnessError
        if the copy of the report that was asked for cannot be written.
        """
        try:
            self._end(interrupted)
        finally:
            self._copy_report()  # also of a journal that could not be written to its end
        return self.refusal.exit_code if self.refusal else read(self.results.dir).exit_code

    def _end(self, interrupted: str) -> None:
        """End the machine and the journal, and write the report of the results folder."""
        self.end_machines(interrupted, "the run is over", self._keep)
        if not interrupted or is_time_limit(interrupted):
            self._finish_coverage(judged=not interrupted)
        if self.left_behind:
            self.results.sweep()
        if not self.unchanged:
            self.journal.run_ended()
            junit.write(self.results.dir)
            write_page(self.results.dir, self._progress)
        self.journal.unlock()

    def was_interrupted(self, reason: str) -> None:
        """Record that the run was ended early."""
        self.journal.interrupted(reason)

    def _finish_coverage(self, *, judged: bool) -> None:
        """Write which lines were executed; unless ``judged``, without a verdict."""
        requirements = {entry.scenario: entry.requirements for entry, _ in self.scenarios.values()}
        try:
            lines, least = self.machines.lines, self.request.require_coverage
            if judged:
                lines.finish(requirements, self._subjects, least)
            else:
                lines.write(requirements, self._subjects)
        except PatchproofError as error:
            interruption.again()
            self.failures.append(error)

    def _copy_report(self) -> None:
        """Write the copy of junit.xml that was asked for (--junit)."""
        if self.request.junit is not None:
            output.write(self.request.junit, junit.render(self.results.dir))

    @property
    def unchanged(self) -> bool:
        """Return whether the journal is as before: the run was refused, or was finished before."""
        finished = self.earlier is not None and self.earlier.finished
        return (self.refusal is not None or finished) and self.journal.unwritten

    def _keep(self) -> None:
        """Keep the machine running for the user if the request has --keep-vm."""
        guest = self.machines.guest
        if self.request.keep_vm and guest is not None and guest.machine.alive():
            self._progress.say("")  # pytest's line of dots is still open
            hold(guest.machine, self._progress)

    def _note_resumption(self, earlier: EarlierRun) -> None:
        """Record when the run was resumed, and note each changed fact of MUTABLE_FACTS."""
        self.results.write_changed_facts()
        facts = read_facts(self.results.dir)
        before = earlier.facts.get("resumed")
        times = [str(time) for time in before] if isinstance(before, list) else []
        self.results.write_run(resumed=[*times, datetime.now(UTC).isoformat(timespec="seconds")])
        for name, words in MUTABLE_FACTS.items():
            then, now = earlier.facts.get(name), facts.get(name)
            if then is not None and then != now:
                self.journal.note(f"Since the run was resumed, {words} is {now} instead of {then}.")


def write_page(directory: Path, progress: Progress) -> None:
    """Write report.html; whatever is wrong with the page hides no verdict, so it is only told."""
    try:
        html.write(directory)
    except Exception as error:  # noqa: BLE001
        progress.say(
            f"{html.REPORT} was not written ({error!r}). The verdicts do not depend on it; "
            f"`python -m harness judge {directory}` tries again."
        )


def run_without_scenarios(run_input: RunInput) -> ExitCode:
    """Run the kernel's own test programs of ``run_input`` alone; return the exit code."""
    run = Run(run_input, (), Facts(selection=[], directory="", repeat=1, random_order=""))
    interrupted = ""
    try:
        run.prepare()
        if not run.failures:
            run.run_selftests()
    except PatchproofError as error:
        run.failures.append(error)
    except Interruption as end:
        interrupted = end.reason
    return run.finish(interrupted)
