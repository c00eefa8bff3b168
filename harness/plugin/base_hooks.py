"""The hook of pytest after the last scenario: the kernel's own tests, and the base's answers."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager

import pytest

from harness.journal.reader import read
from harness.lib import interruption
from harness.lib.errors import BootError, BuildError, ExitCode, PatchproofError
from harness.lib.host import host_errors
from harness.plugin.items import RUN
from harness.run.run import Run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Run the kernel's own tests, compare the violations with the base, and search their patches.

    After ``-x`` the kernel's own tests do not run, after an interruption nothing is done.
    """
    run = session.config.stash.get(RUN, None)
    try:
        result = yield
        interruption.check()
    except session.Failed:
        _compare(run, session.config)
        _bisect(run)
        raise
    _run_selftests(run)
    _compare(run, session.config)
    _bisect(run)
    return result


@contextmanager
def _ends_the_run(run: Run) -> Iterator[None]:
    """Record an error of the ``with`` block, and end pytest."""
    try:
        with host_errors(run.results.dir):
            yield
    except PatchproofError as error:
        interruption.again()
        run.failures.append(error)
        pytest.exit("the run cannot go on", returncode=int(ExitCode.HARNESS))


def _run_selftests(run: Run | None) -> None:
    if run is None or run.failures:
        return
    with _ends_the_run(run):
        run.run_selftests()


def _compare(run: Run | None, config: pytest.Config) -> None:
    if run is None or run.failures:
        return  # a host on which the stages failed would not boot the base either
    with _ends_the_run(run):
        run.compare_with_base()
        _set_inherited_apart(config, {one.entry.id for one in read(run.results.dir).results if one.inherited})


def _bisect(run: Run | None) -> None:
    """Check the patches and search those at fault; also if the series itself failed in a stage."""
    if run is None or any(not isinstance(one, (BuildError, BootError)) for one in run.failures):
        return
    with _ends_the_run(run):
        run.bisect()


def _set_inherited_apart(config: pytest.Config, ids: Collection[str]) -> None:
    """Let pytest's closing line count inherited violations apart, as they fail no run."""
    terminal: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not ids:
        return
    for category in ("failed", "error"):
        reports = terminal.stats.pop(category, [])
        terminal.stats.setdefault("inherited", []).extend(one for one in reports if one.nodeid in ids)
        if others := [one for one in reports if one.nodeid not in ids]:
            terminal.stats[category] = others
