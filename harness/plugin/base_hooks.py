"""The hook of pytest that asks the base about the violations, after the last scenario."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from harness.lib.errors import ExitCode, PatchproofError
from harness.lib.host import host_errors
from harness.plugin.items import RUN
from harness.run.run import Run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Compare the violations with the base, also after ``-x``, but not after an interruption."""
    run = session.config.stash.get(RUN, None)
    try:
        result = yield
    except session.Failed:
        _compare(run)
        raise
    _compare(run)
    return result


def _compare(run: Run | None) -> None:
    if run is None or run.failures:
        return  # a host on which the stages failed would not boot the base either
    try:
        with host_errors(run.results.dir):
            run.compare_with_base()
    except PatchproofError as error:
        run.failures.append(error)
        pytest.exit("the run cannot go on", returncode=int(ExitCode.HARNESS))
