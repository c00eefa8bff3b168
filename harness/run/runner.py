"""What runs scenarios on machines of its own: the run itself, and each of its workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.journal.base_verdicts import BaseVerdicts
from harness.journal.facts import read_facts
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.kernel.build import Kernel
from harness.kernel.dialect import missing
from harness.lib.cache import Store
from harness.lib.errors import PatchproofError
from harness.lib.interruption import Interruption
from harness.run.examine_kernel import Examiner
from harness.run.give_up import GiveUp
from harness.run.machines import Machines
from harness.run.needs import Needs
from harness.run.request import Request
from harness.run.scenario import ScenarioRun
from harness.verdict.interruption import is_time_limit
from harness.verdict.record import Entry

# Scenarios from one look at the size of the results to the next.
SCENARIOS_PER_LOOK = 10


class Runner:
    """Runs scenarios, one after the other, on machines of its own.

    ``scenarios`` are the selected ones with their needs, by id.  ``store`` is given for a base
    alone, whose verdicts are cached there.

    ``failures`` are the errors that ended it early.  ``violated`` is true after a scenario
    showed an unexpected fault of the kernel.
    """

    def __init__(
        self,
        request: Request,
        results: ResultsFolder,
        journal: JournalWriter,
        give_up: GiveUp,
        scenarios: Mapping[str, tuple[Entry, Needs]],
        store: Store | None,
    ) -> None:
        self.request = request
        self.results = results
        self.journal = journal
        self.failures: list[PatchproofError] = []
        self.violated = False
        self.machines = Machines(request, results, journal, give_up)
        self.scenarios = scenarios
        self.store = store
        self._begun = 0  # scenarios
        self._current: ScenarioRun | None = None
        self._examiner = Examiner(self.machines, results)

    def interface_missing(self, dialects: Sequence[str], attributes: Sequence[str]) -> str:
        """Return why a scenario that needs one of these interfaces cannot run; empty if it can.

        ``dialects`` and ``attributes`` are empty for a scenario that runs with any.  Raises
        HarnessError before the stages have found the interfaces.
        """
        software = self.machines.ready
        return missing(dialects, attributes, software.dialect, software.interfaces.attribute)

    @property
    def kernel(self) -> Kernel:
        """The kernel under test.  Raises HarnessError before the stages have built it."""
        return self.machines.ready.kernel

    def scenario(self, entry_id: str) -> ScenarioRun:
        """Return the run of a planned scenario, not yet begun.

        Raises HarnessError if there is no room for its results, or they are too large.
        """
        self.results.require_room()
        if self._begun % SCENARIOS_PER_LOOK == 0:
            self.results.require_within_limit()
        self._begun += 1
        entry, needs = self.scenarios[entry_id]
        self._current = ScenarioRun(
            entry,
            needs,
            machines=self.machines,
            examiner=self._examiner,
            results=self.results,
            journal=self.journal,
        )
        return self._current

    def end(self, scenario: ScenarioRun) -> None:
        """Record the verdict of a scenario whose phases are over.  Raises HarnessError if that fails."""
        if scenario.failure is not None:
            raise scenario.failure
        self.violated = scenario.end() or self.violated
        self._current = None
        if self.store is not None and scenario.answer is not None:
            cache = BaseVerdicts(self.store, read_facts(self.results.dir))
            cache.put(scenario.entry.scenario, scenario.answer)

    def retire(self, reason: str, last: Callable[[], None] | None = None) -> None:
        """End a machine that is needed no more, as Machines.retire() does."""
        self._examiner.check_between_scenarios()
        self.machines.retire(reason, last)

    def end_machines(self, interrupted: str, reason: str, last: Callable[[], None] | None = None) -> None:
        """End the last machine for this ``reason``, at once if ``interrupted`` says what ended the run early.

        A scenario that the time limit has cut off gets its verdict if it has violated already.
        """
        try:
            if not interrupted:
                self.retire(reason, last)
        except Interruption as end:
            interrupted = end.reason
        finally:
            if interrupted:
                if is_time_limit(interrupted) and self._current is not None:
                    self._current.cut_off()
                self.was_interrupted(interrupted)
            self.machines.close()

    def was_interrupted(self, reason: str) -> None:
        """Take in that the run ends early for this ``reason``; a worker leaves that to the run."""
