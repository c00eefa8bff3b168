"""A results folder that a test fills."""

from __future__ import annotations

from pathlib import Path

from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.report import html
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Strength, Verdict


class Run:
    """A results folder that a test fills, with scenarios of the requirements REV-01, MAP-01 and ATTR-04."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.results = ResultsFolder(folder)
        self.journal = JournalWriter(folder)
        self.boot = Entry("boot", Kind.STAGE, "The kernel boots to a shell")
        self.revoke = Entry(
            "suites/test_revoke.py::test_zap[c]", Kind.SCENARIO, "A revoke zaps.", ("REV-01",)
        )
        self.map = Entry("suites/test_map.py::test_map[c]", Kind.SCENARIO, "A DMABUF is mapped.", ("MAP-01",))
        self.told = Entry(
            "suites/test_attr.py::test_told",
            Kind.SCENARIO,
            "The attribute.",
            ("ATTR-04",),
            strength=Strength.INFO,
        )

    def begin(self, *more: Entry) -> None:
        """Write the plan and the stages."""
        self.journal.plan([self.boot, self.revoke, self.map, self.told, *more])
        self.journal.run_started()
        with self.journal.stage("boot"):
            pass

    def end(self, entry: Entry, verdict: Verdict, transcript: str = "", **members: object) -> None:
        """Run one scenario; ``members`` are those of JournalWriter.ended()."""
        path = self.results.transcript(entry.id)
        path.parent.mkdir(exist_ok=True)
        path.write_text(transcript, errors="surrogateescape")
        self.journal.started(entry.id)
        self.journal.ended(entry.id, verdict, transcript=path, **members)  # type: ignore[arg-type]

    def finish(self) -> Path:
        """End the run, write its page and return that."""
        self.journal.run_ended()
        return html.write(self.folder)
