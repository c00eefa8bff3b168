"""Every prefix of a series: is each patch well written, does it compile cleanly, and what does it give?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from harness.journal.folder import LATEST
from harness.journal.reader import read
from harness.kernel import apply, kconfig, static_checks, tree
from harness.kernel.base import Base
from harness.kernel.builddir import BuildDir
from harness.kernel.static_checks import TOOLS, Tool, WarningCheck
from harness.lib import command
from harness.lib.cache import Store
from harness.lib.errors import BuildError, ExitCode
from harness.lib.progress import Progress
from harness.run.request import Request
from harness.series import mbox
from harness.series.series import Series


@dataclass
class PrefixResult:
    """One prefix: ``count`` patches, the last of which has ``subject``.

    ``findings`` by the name of who found them; ``outcome`` and ``code`` are those of
    the run, where there was one.
    """

    count: int
    subject: str
    findings: dict[str, list[str]] = field(default_factory=dict)
    outcome: str = ""
    code: ExitCode = ExitCode.OK

    @property
    def good(self) -> bool:
        """Whether nobody found anything, and the run was as expected."""
        return self.code is ExitCode.OK and not any(self.findings.values())


def check(
    store: Store, progress: Progress, tested: Series, source: Base, bench: WarningCheck, first: int = 1
) -> list[PrefixResult]:
    """Ask checkpatch, and every compiler that is installed, of each prefix of at least ``first`` patches.

    Raises ApplyError for a patch that does not apply.
    """
    tools = [tool for tool in TOOLS if tool.program()]
    base = apply.apply_series(store, progress, source, None, bench.log)
    workbench = BuildDir(store, bench.request)
    with store.lock("workbench"):
        base.check_out(workbench.source, progress)
        said = static_checks.checkpatch(tested.patches, workbench.source)
        where = static_checks.folders(tested, workbench.source)
    rows = []
    for count, (patch, lines) in list(enumerate(zip(tested.patches, said, strict=True), 1))[first - 1 :]:
        row = PrefixResult(count, mbox.without_tag(patch.subject), {"checkpatch": lines})
        applied = apply.apply_series(store, progress, source, tested.first(count), bench.log)
        for tool in tools if where else []:
            row.findings[tool.name] = _asked(bench, tool, applied, base, where)
        rows.append(row)
    return rows


def _asked(
    bench: WarningCheck, tool: Tool, applied: tree.Tree, base: tree.Tree, where: Sequence[str]
) -> list[str]:
    try:
        return bench.new_warnings(tool, applied, base, where)
    except BuildError as error:
        return [error.message, *error.tail.splitlines()]


def run(rows: Iterable[PrefixResult], request: Request, pytest_options: Sequence[str]) -> None:
    """Run the suites on each prefix as ``request`` asks, in a program of its own for each."""
    for row in rows:
        folder = request.results / f"prefix-{row.count}"
        asked = replace(request, patches=row.count, results=folder).arguments()
        argv = [sys.executable, "-m", "harness", "run", *asked, *pytest_options]
        row.code = ExitCode(command.run_harness(argv))
        latest = folder / LATEST
        row.outcome = _outcome(latest) if latest.exists() else "the run did not begin"
        if row.code is ExitCode.INTERRUPTED:
            return


def _outcome(folder: Path) -> str:
    record = read(folder)
    counts = Counter(str(result.verdict) for result in record.scenarios)
    surprises = sum(not result.as_expected for result in record.results)
    said = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    return f"{said}; {f'{surprises} not as expected' if surprises else 'all as expected'}"


def show(rows: Iterable[PrefixResult], stream: TextIO) -> None:
    """One line for each prefix, and below it what was found."""
    for row in rows:
        found = [f"{len(lines)} {who}" for who, lines in row.findings.items() if lines]
        remarks = [", ".join(found) or "no warnings", *([row.outcome] if row.outcome else [])]
        mark = " " if row.good else "!"
        print(f"{mark} {row.count:2}  {row.subject}: {'; '.join(remarks)}", file=stream)
        for who, lines in row.findings.items():
            for line in lines:
                print(f"        {who}: {line}", file=stream)
    absent = [tool.name for tool in TOOLS if not tool.program()]
    if absent:
        print(f"Not asked, as not installed: {', '.join(absent)}.", file=stream)


def exit_code(rows: Iterable[PrefixResult]) -> ExitCode:
    """The first row that is not good decides: the code of its run, else the series' fault."""
    for row in rows:
        if not row.good:
            return row.code or ExitCode.SERIES
    return ExitCode.OK


def request_text(fragments: Sequence[Path]) -> str:
    """The configuration that ``fragments`` ask for, as a Bench wants it."""
    return kconfig.fragment_text(kconfig.requested(fragments))
