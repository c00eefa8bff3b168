"""What the classes that do a part of a run work with."""

from __future__ import annotations

from dataclasses import dataclass

from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.lib.cache import Store
from harness.lib.progress import Progress
from harness.run.request import RunInput


@dataclass(frozen=True)
class RunParts:
    """The input of a run, the cache, and where the run tells its progress and its results."""

    run_input: RunInput
    store: Store
    progress: Progress
    results: ResultsFolder
    journal: JournalWriter
