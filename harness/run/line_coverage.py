"""The lines of a series that a run executes (``--coverage``): counted by gcov, for each scenario apart.

The counters are taken out of the machine after each scenario and set to zero, so each count belongs
to one scenario.  What ran outside of any (the boot, the kernel's own test programs) has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.guest.gcov import Counters
from harness.guest.guest import Guest
from harness.journal import line_counts
from harness.journal.facts import read_facts
from harness.journal.line_counts import CountsWriter
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.kernel import gcov, profile
from harness.kernel.added_lines import AddedLine, added_lines
from harness.kernel.build import Kernel
from harness.kernel.tree import Tree
from harness.lib.errors import HarnessError
from harness.lib.text import counted
from harness.run.line_sums import Measured, report
from harness.vm.ssh import SshLostError, SshTimeoutError

STAGE = "coverage"
#: Sentences about machines whose counters were lost; the note of more would hide the others.
MAX_LOST = 20


@dataclass(frozen=True)
class _Subject:
    """The kernel whose lines are counted: the lines of its series, and its notes.

    ``sources`` are the C files that have such lines, and ``compiled`` all that were instrumented.
    """

    kernel: Kernel
    added: Mapping[str, Mapping[int, AddedLine]]
    notes: Path
    sources: tuple[str, ...]
    compiled: frozenset[str]


class LineCoverage:
    """Counts executed lines during a run.  Without ``wanted`` nothing is done."""

    def __init__(self, results: ResultsFolder, journal: JournalWriter, *, wanted: bool) -> None:
        self.wanted = wanted
        self._results = results
        self._journal = journal
        self._subject: _Subject | None = None
        self._writer: CountsWriter | None = None
        self._counters: tuple[Guest, Counters] | None = None  # of the running machine
        self._scenario = ""

    def prepare(self, kernel: Kernel, tree: Tree | None, *, worker: bool = False) -> None:
        """Find the added lines of the kernel under test, and the objects that have them.

        A ``worker`` does so after the run itself.  Raises HarnessError if the kernel was not built for this.
        """
        if not self.wanted or tree is None:
            return
        if reason := kernel.absent(profile.OPTION):
            raise HarnessError(f"--coverage {reason}, so no line can be counted. Leave --coverage out.")
        assert kernel.config is not None
        added = added_lines(tree, kernel.options or {})
        notes = kernel.config.parent / profile.NOTES
        compiled = [path for path in profile.sources(tree) if (notes / path).with_suffix(".gcno").is_file()]
        bare = gcov.read(notes, [(path, b"") for path in compiled], added)
        having = [
            path
            for path, lines in zip(compiled, bare, strict=True)
            if any(set(numbers).intersection(added[file]) for file, numbers in lines.items())
        ]
        self._subject = _Subject(kernel, added, notes, tuple(having), frozenset(compiled))
        self._writer = CountsWriter(self._results.dir)
        if not worker:
            self._writer.repair()

    def booted(self, guest: Guest) -> None:
        """Find the counters of a new machine, and take what its boot has executed.

        Raises HarnessError if it has none.
        """
        self._counters = None
        if self._subject is None:
            return
        self._scenario = ""
        self._counters = guest, Counters(guest, self._subject.sources)
        self.take(guest)

    def begin(self, scenario: str) -> None:
        """Count what is executed from now on for this scenario."""
        self._scenario = scenario

    def take(self, guest: Guest) -> None:
        """Keep what was executed since the last call; afterwards no scenario is counted for.

        Counters that a broken machine does not give any more are lost, which the report says.
        """
        scenario, self._scenario = self._scenario, ""
        if self._counters is None or self._counters[0] is not guest or self._writer is None:
            return
        try:
            if not guest.machine.alive():
                raise SshLostError("its machine has ended")
            self._writer.add(scenario, self._counters[1].take())
        except (SshLostError, SshTimeoutError) as error:
            self._counters = None
            if scenario:
                self._writer.lose(f"{scenario}: {error.message}")
        except HarnessError as error:
            self._counters = None
            self._writer.lose(f"{guest.machine.name}: {error.message}")

    def finish(
        self, requirements: Mapping[str, tuple[str, ...]], subjects: tuple[str, ...], least: float
    ) -> None:
        """Write what was counted, as the stage ``coverage``; the arguments are those of write().

        Raises HarnessError if no added line was executed, or less than ``least`` percent.
        """
        if self._subject is None or self._journal.passed(STAGE):
            return
        with self._journal.stage(STAGE):
            executed, executable = self.write(requirements, subjects)
            require(executed, executable, least)

    def write(
        self, requirements: Mapping[str, tuple[str, ...]], subjects: tuple[str, ...]
    ) -> tuple[int, int]:
        """Write what was counted so far; return how many lines were executed, and how many are executable.

        ``requirements`` are those of each scenario, ``subjects`` those of the patches, in order.
        Raises HarnessError.
        """
        subject = self._subject
        if subject is None:
            return 0, 0
        measured, lost = self._measure(subject)
        content = report(measured, requirements, subjects)
        content["lost"] = lost[:MAX_LOST]
        series = str(read_facts(self._results.dir).get("series", ""))
        facts = {"schema": line_counts.SCHEMA, "series": series, "kernel": subject.kernel.identity}
        line_counts.write(self._results.dir, line_counts.LINES, facts | {"files": measured.members()})
        line_counts.write(self._results.dir, line_counts.REPORT, facts | content)
        if lost:
            number = counted(len(lost), "machine")
            self._journal.note(f"What {number} executed last was not counted: {lost[0]}")
        return measured.executed, measured.executable

    def _measure(self, subject: _Subject) -> tuple[Measured, list[str]]:
        """Return the counts of all added lines that are executable, and what was lost."""
        taken, counters, lost = line_counts.read_counts(self._results.dir)
        measured = Measured(subject.added, subject.compiled)
        bare = [(path, b"") for path in subject.sources]
        for lines in gcov.read(subject.notes, bare, subject.added):
            measured.add(lines, ())
        by_counters: dict[tuple[str, str], list[str]] = {}
        for one in taken:
            for source, name in one.objects.items():
                by_counters.setdefault((source, name), []).append(one.scenario)
        wanted = [(source, counters[name]) for source, name in by_counters]
        answers = gcov.read(subject.notes, wanted, subject.added)
        for lines, scenarios in zip(answers, by_counters.values(), strict=True):
            measured.add(lines, scenarios)
        return measured, lost


def require(executed: int, executable: int, least: float) -> None:
    """Raise HarnessError if no added line was executed, or less than ``least`` percent of them."""
    if executed == 0:
        what = (
            f"None of the {executable} executable lines that the series adds was executed"
            if executable
            else "The kernel under test has no executable line that the series adds"
        )
        raise HarnessError(
            f"{what}. So no verdict of this run says anything about the code of the series: it may be the "
            "wrong base, an option of the kernel that is off (--kconfig), or a selection of scenarios that "
            "do not use it."
        )
    share = 100 * executed / executable
    if share < least:
        raise HarnessError(
            f"{executed} of {executable} executable lines that the series adds were executed, which is "
            f"{share:.1f} %, and --require-coverage asks for {least:g} %."
        )
