"""Find the patch with which each violation of a run first shows (``--bisect``).

The scenarios that violate, and only these, run on prefixes of the series, by halving: another process
of this program builds and boots each prefix.  One run on a prefix serves all violations whose search it
narrows.  A prefix that does not build or boot is left out, as `git bisect skip` does.  Then each
patch is checked alone (PatchCheck), with the kernels that the search has built.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.journal.reader import read
from harness.journal.results_folder import newest_run
from harness.kernel.base import Base
from harness.lib import command, interruption, paths, time_limit
from harness.lib.text import counted
from harness.report.causes import causes, same_cause
from harness.run.machines import Machines
from harness.run.parts import RunParts
from harness.run.patch_check import PatchCheck
from harness.run.request import RunInput
from harness.series import mbox
from harness.series.series import Series
from harness.verdict import patch
from harness.verdict.halving import State, Try, upcoming, useful
from harness.verdict.record import Entry, Record, Result
from harness.verdict.verdict import STAGES, Kind, Verdict
from harness.vm.pci_devices import Layout

FOLDER = "prefixes"  # in the results folder
OUTPUT = "output.txt"
#: Violations of one cause whose first patch is searched; the clearest ones.
OF_ONE_CAUSE = 5
_FAULTS = {"build": patch.DOES_NOT_COMPILE, "boot": patch.DOES_NOT_BOOT}  # of a prefix, by the stage


def patch_entries(run_input: RunInput, shard: int) -> tuple[Entry, ...]:
    """Return the plan's entries for the patches; none without ``--bisect``."""
    if not run_input.request.bisect:
        return ()
    return patch.entries_of([_subject(run_input.series, n) for n in _counts(run_input.series)], shard)


def _counts(tested: Series) -> range:
    return range(1, len(tested.patches) + 1)


def _subject(tested: Series, count: int) -> str:
    return mbox.without_tag(tested.patches[count - 1].subject)


class Bisection:
    """The search for the patches at fault in a run."""

    def __init__(self, parts: RunParts) -> None:
        # A kernel that counts lines would be built anew for each prefix.
        self._request = replace(parts.run_input.request, coverage=False, require_coverage=0.0)
        self._parts = replace(parts, run_input=replace(parts.run_input, request=self._request))
        self._tested = parts.run_input.series
        self._progress = parts.progress
        self._results = parts.results
        self._journal = parts.journal

    @property
    def _of(self) -> int:
        return len(self._tested.patches)

    def check_patches(self, base: Base, machines: Machines, layout: Layout) -> None:
        """Check each patch that this run has in its plan.  Raises HarnessError."""
        PatchCheck(self._parts, base, machines, layout).run()

    def search(self) -> None:
        """Search the first patch of each violation, once all were compared with the base.

        Raises HarnessError if the journal cannot be written.
        """
        self._begin(read(self._results.dir))
        while True:
            interruption.check()
            record = read(self._results.dir)
            unusable = patch.unusable(record.patches)
            searches = [one for one in _violations(record).values() if one[0].tries]
            wanted = [upcoming(one[0].tries, self._of, unusable) for one in searches]
            counts = Counter(count for count in wanted if count is not None)
            if not counts:
                return
            count = counts.most_common(1)[0][0]
            concerned = [one for one in searches if useful(one[0].tries, self._of, count)]
            self._try(count, concerned)

    def _begin(self, record: Record) -> None:
        """Record that each violation shows with all patches, unless an earlier part of the run did."""
        violations = _violations(record)
        for results in violations.values():
            for result in results:
                if not result.tries:
                    self._tried(result, self._of, State.VIOLATES, result.reason.partition("\n")[0])
        new = sum(one.violated and not one.inherited for one in record.scenarios)
        if new > (searched := sum(map(len, violations.values()))):
            self._journal.note(
                f"The first patch was searched for {searched} of {counted(new, 'violation')}: for at most "
                f"{OF_ONE_CAUSE} of one cause."
            )

    def _tried(self, result: Result, count: int, state: State, reason: str) -> None:
        one = Try(count, self._of, state, reason, _subject(self._tested, count))
        self._journal.tried(result.entry.id, one)

    def _try(self, count: int, searches: Sequence[Sequence[Result]]) -> None:
        """Run the scenarios of these searches on the prefix of ``count`` patches, and record their states."""
        words = f"patch {count}/{self._of}, {counted(len(searches), 'scenario')}"
        self._progress.say("")  # pytest's line of dots is still open
        with self._progress.stage("bisect") as stage:
            stage.update(words)
            record = self._run(count, [one[0].entry.scenario for one in searches])
        found = {one.entry.id: one for one in record.scenarios} if record is not None else {}
        states = Counter[State]()
        for results in searches:
            state, reason = State.UNKNOWN, self._why(record)
            if (prefix := found.get(results[0].entry.scenario)) is not None and prefix.ended:
                state, reason = state_of(prefix, results[0])
            states[state] += 1
            for result in results:
                self._tried(result, count, state, reason)
        told = ", ".join(f"{number} {state}" for state, number in states.items())
        self._progress.say(f"bisect: {words}: {told}")

    def _run(self, count: int, scenarios: Sequence[str]) -> Record | None:
        """Run scenarios on a prefix; return the record, None if the run did not begin."""
        folder = self._results.dir / FOLDER / str(count)
        folder.mkdir(parents=True, exist_ok=True)
        asked = replace(
            self._request,
            patches=count,
            bisect=False,
            results=folder,
            junit=None,
            keep_vm=False,
            resume=None,
            repeat=1,
            random_order="",
            shard=None,
            requirement=(),
            variants="all",
            fast=False,
            no_base=True,
            no_give_up=True,
            selftests="none",
            time_limit=time_limit.left(),
        )
        ids = [str(paths.PROJECT / name) for name in scenarios]  # the user may be in another folder
        before = newest_run(folder)
        with (folder.parent / OUTPUT).open("ab") as output:
            command.run_harness([sys.executable, "-m", "harness", "run", *asked.arguments(), *ids], output)
        newest = newest_run(folder)
        return read(newest) if newest is not None and newest != before else None

    def _why(self, record: Record | None) -> str:
        """Return why a run on a prefix gave no verdict."""
        if record is None:
            return f"its run did not begin, see {FOLDER}/{OUTPUT}"
        for one in record.results:
            if one.entry.kind in STAGES and one.verdict not in (Verdict.CONFORMS, Verdict.NOT_REACHED):
                fault = _FAULTS.get(one.entry.id) if one.verdict is Verdict.VIOLATES else None
                return fault or f"its stage {one.entry.id} is {one.verdict}"
        return f"the scenario gave no verdict, see {FOLDER}/{OUTPUT}"


def _violations(record: Record) -> Mapping[str, Sequence[Result]]:
    """Return the violations to search, by scenario: new ones, at most OF_ONE_CAUSE of each cause.

    All repetitions of a scenario are one search.
    """
    chosen: dict[str, list[Result]] = {}
    for cause in causes(record):
        names: dict[str, list[Result]] = {}
        for one in cause.results:
            if one.entry.kind is Kind.SCENARIO and one.violated and not one.inherited:
                names.setdefault(one.entry.scenario, []).append(one)
        for name, results in list(names.items())[:OF_ONE_CAUSE]:
            chosen.setdefault(name, []).extend(results)
    return chosen


def state_of(prefix: Result, whole: Result) -> tuple[State, str]:
    """Return the state of a scenario on a prefix, and the reason as a clause.

    ``prefix`` is its result there, which has ended, ``whole`` its violation on the whole series.
    """
    reason = prefix.reason.partition("\n")[0]
    if prefix.verdict in (Verdict.HARNESS_ERROR, Verdict.NOT_REACHED):
        return State.UNKNOWN, reason or str(prefix.verdict)
    if prefix.verdict is Verdict.NOT_APPLICABLE:
        return State.NOT_YET, reason
    if not prefix.violated:
        expected = prefix.entry.expected is prefix.verdict and prefix.verdict is not Verdict.CONFORMS
        return (State.NOT_YET, "as the manifest expects") if expected else (State.HOLDS, "")
    base = whole.base
    refused = set(prefix.refused) - set(whole.refused)
    if base is not None and (missing := sorted(refused.intersection(base.refused))):
        return State.NOT_YET, f"refused as by the base ({missing[0]})"
    if same_cause(prefix, whole):
        if base is not None and base.refused and prefix.failure and prefix.failure == base.failure:
            return State.AS_BASE, "the base alone does the same"
        return State.VIOLATES, reason
    if refused:
        return State.NOT_YET, f"refused, and not by the whole series ({min(refused)})"
    return State.OTHERWISE, reason
