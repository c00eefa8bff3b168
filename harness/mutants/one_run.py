"""One run of the suites in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.journal.results_folder import newest_run
from harness.lib import command
from harness.lib.errors import HarnessError
from harness.run.request import Request
from harness.series.series import Series
from harness.verdict.record import Record

OUTPUT = "output.txt"
TAIL_LINES = 10


def run_suites(request: Request, tested: Series, scenarios: Iterable[str] = ()) -> Record:
    """Run the suites, or the named scenarios in this order, as ``request`` says; return the record.

    ``tested`` is the series of the request with its mutant.  Raises HarnessError if no run began, or
    the patches changed meanwhile.
    """
    folder = request.results
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "harness", "run", *request.arguments(), *scenarios]
    with (folder / OUTPUT).open("ab") as output:
        command.run_harness(argv, output)
    if (newest := newest_run(folder)) is not None:
        if read_facts(newest).get("digest", tested.digest) != tested.digest:
            raise HarnessError(f"The patches of {tested.name} were changed while it was tried.")
        return read(newest)
    last_lines = (folder / OUTPUT).read_text(errors="replace").splitlines()[-TAIL_LINES:]
    raise HarnessError("The run did not begin.", log=folder / OUTPUT, tail="\n".join(last_lines))
