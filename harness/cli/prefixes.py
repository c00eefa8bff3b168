"""Check every prefix of a series: checkpatch, compiler warnings, and a run of the suites."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from harness.journal.reader import read
from harness.journal.results_folder import newest_run
from harness.kernel import apply, kconfig, static_checks, tree
from harness.kernel.base import Base
from harness.kernel.builddir import BuildDir
from harness.kernel.static_checks import TOOLS, Tool, WarningCheck
from harness.kernel.workbench import workbench
from harness.lib import command, time_limit
from harness.lib.cache import Store
from harness.lib.errors import BuildError, ExitCode
from harness.lib.progress import Progress
from harness.lib.text import visible
from harness.report import html
from harness.report.origins import summary
from harness.report.prefixes import Prefixes, PrefixRow, compared, write
from harness.run.request import Request
from harness.series import mbox
from harness.series.series import Series
from harness.verdict.interruption import how


@dataclass
class PrefixResult:
    """The result of one prefix: ``count`` patches, the last of which has ``subject``.

    ``findings`` are lines by the name of the tool.  ``outcome`` and ``code`` describe the
    run of the suites; ``outcome`` is empty if there was none.  ``folder`` is its results folder.
    """

    count: int
    subject: str
    findings: dict[str, list[str]] = field(default_factory=dict)
    outcome: str = ""
    code: ExitCode = ExitCode.OK
    folder: Path | None = None

    @property
    def good(self) -> bool:
        """Return whether no tool found anything, and the run was as expected."""
        return self.code is ExitCode.OK and not any(self.findings.values())


def check(
    store: Store, progress: Progress, tested: Series, source: Base, warnings: WarningCheck, first: int = 1
) -> list[PrefixResult]:
    """Run checkpatch, and every installed compiler, on each prefix of at least ``first`` patches.

    A compiler that does not get through the base is left out, with a word.  Raises ApplyError for a
    patch that does not apply.
    """
    base = apply.apply_series(store, progress, source, None, warnings.log)
    with workbench(store):
        builddir = BuildDir(store, source.version, warnings.request)
        builddir.check_out(base, progress)
        remarks = static_checks.checkpatch(tested.patches, builddir.source)
        folders = static_checks.folders(tested, builddir.source)
    tools = [one for one in TOOLS if folders and one.program() and _compiles(warnings, one, base, folders)]
    rows = []
    for count, (patch, lines) in list(enumerate(zip(tested.patches, remarks, strict=True), 1))[first - 1 :]:
        row = PrefixResult(count, mbox.without_tag(patch.subject), {"checkpatch": lines})
        applied = apply.apply_series(store, progress, source, tested.first(count), warnings.log)
        for tool in tools:
            row.findings[tool.name] = _new_warnings(warnings, tool, applied, base, folders)
        rows.append(row)
    return rows


def _compiles(warnings: WarningCheck, tool: Tool, base: tree.Tree, folders: Sequence[str]) -> bool:
    """Return whether the tool gets through the base; say so if it does not."""
    failure = warnings.failure_on_base(tool, base, folders)
    if failure:
        warnings.progress.say(
            f"The patches are not checked with {tool.name}, which fails on the base: {failure}"
        )
    return not failure


def _new_warnings(
    warnings: WarningCheck, tool: Tool, applied: tree.Tree, base: tree.Tree, folders: Sequence[str]
) -> list[str]:
    """Return the tool's warnings that the base does not have, or the message of a failed build."""
    try:
        return warnings.new_warnings(tool, applied, base, folders)
    except BuildError as error:
        return [error.message, *error.tail.splitlines()]


def run(rows: Iterable[PrefixResult], request: Request, pytest_options: Sequence[str]) -> None:
    """Run the suites on each prefix by ``request``, each in a process of its own.

    Sets ``code``, ``outcome`` and ``folder`` of each row.  An interrupted run is the last one.  A run
    gets what is left of the time limit of this command.  Raises Interruption.
    """
    for row in rows:
        folder = request.results / f"prefix-{row.count}"
        asked = replace(request, patches=row.count, results=folder, time_limit=time_limit.left())
        argv = [sys.executable, "-m", "harness", "run", *asked.arguments(), *pytest_options]
        before = newest_run(folder)
        try:
            status = command.run_harness(argv)
            known = status in set(ExitCode)
            row.code = ExitCode(status) if known else ExitCode.HARNESS
        finally:
            newest = newest_run(folder)
            if newest is None or newest == before:
                row.outcome = "the run did not begin"
            else:
                row.folder, row.outcome = newest.resolve(), _outcome(newest)
        if not known:
            row.outcome += f"; its process ended with the status {status}"
        if row.code is ExitCode.INTERRUPTED:
            return


def cut_off(rows: Iterable[PrefixResult], reason: str) -> None:
    """Set ``code`` and ``outcome`` of the rows whose run an interruption for this ``reason`` prevented."""
    for row in rows:
        if row.folder is not None:
            row.code = read(row.folder).exit_code
            continue
        row.code = ExitCode.HARNESS
        row.outcome = f"not reached: the command {how(reason)}"


def store(rows: Sequence[PrefixResult], tested: Series, root: Path) -> None:
    """Write what each patch brought and broke into the folder ``root``: ``prefixes.json``, ``report.html``.

    The pages of the runs are written again, as they tell which patch broke what.
    """
    root.mkdir(parents=True, exist_ok=True)
    told = (
        PrefixRow(
            row.count,
            row.subject,
            row.findings,
            row.outcome,
            str(row.folder.relative_to(root.resolve())) if row.folder else "",
        )
        for row in rows
    )
    found = Prefixes(tested.name, tested.title, tested.identity, compared(told, root))
    write(root, found)
    for row in rows:
        if row.folder:
            html.write(row.folder)
    print(f"Patch by patch: {html.write(root)}")


def _outcome(folder: Path) -> str:
    record = read(folder)
    counts = Counter(str(result.verdict) for result in record.scenarios)
    verdicts = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    return f"{verdicts}; {summary(record)}"


def show(rows: Iterable[PrefixResult], stream: TextIO) -> None:
    """Print a line for each prefix, and its findings below."""
    for row in rows:
        found = [f"{len(lines)} {tool}" for tool, lines in row.findings.items() if lines]
        compiled = row.findings.keys() - {"checkpatch"}
        said = ("" if compiled else "its C files are not compiled", row.outcome)
        remarks = [", ".join(found) or "no warnings", *filter(None, said)]
        mark = " " if row.good else "!"
        print(f"{mark} {row.count:2}  {row.subject}: {'; '.join(remarks)}", file=stream)
        for tool, lines in row.findings.items():
            for line in lines:
                print(f"        {tool}: {visible(line)}", file=stream)
    absent = [one.name for one in TOOLS if not one.program()]
    if absent:
        print(f"Not run, as not installed: {', '.join(absent)}.", file=stream)


def exit_code(rows: Iterable[PrefixResult]) -> ExitCode:
    """Return the exit code of the command: the first of this list that applies.

    1. 130: a run was interrupted.
    2. 1: a run showed a fault of the series, or a tool found something.
    3. 2: a run failed otherwise.
    4. 3: no run had an applicable scenario.
    5. 0.
    """
    rows = list(rows)
    codes = {row.code for row in rows}
    if ExitCode.INTERRUPTED in codes:
        return ExitCode.INTERRUPTED
    if ExitCode.SERIES in codes or any(found for row in rows for found in row.findings.values()):
        return ExitCode.SERIES
    if ExitCode.HARNESS in codes:
        return ExitCode.HARNESS
    return ExitCode.NOTHING_APPLICABLE if codes == {ExitCode.NOTHING_APPLICABLE} else ExitCode.OK


def request_text(fragments: Sequence[Path], version: str) -> str:
    """Return the configuration that ``fragments`` request of this kernel, as WarningCheck takes it."""
    return kconfig.fragment_text(kconfig.requested(fragments, version))
