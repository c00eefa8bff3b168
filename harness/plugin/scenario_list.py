"""Collect the scenarios of the suites with pytest, without a machine."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from harness.lib import paths
from harness.lib.errors import HarnessError
from harness.plugin.items import dialects_of, requirement_ids, words_of
from harness.plugin.start import CONFIGURATION
from harness.verdict.requirements import Scenario


def scenarios(suites: Path = paths.SUITES) -> tuple[Scenario, ...]:
    """Return every scenario in ``suites``, in pytest's order, each once for all of its parameters.

    Raises HarnessError, with the output of pytest, if the suites cannot be collected.
    """
    collector = _Collector()
    output = io.StringIO()
    quiet = ["--collect-only", "-q", "-s", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = pytest.main([*CONFIGURATION, *quiet, str(suites)], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise HarnessError(
            f"The scenarios in {suites} cannot be collected (pytest ended with {int(code)}).",
            tail=output.getvalue().strip(),
        )
    return tuple(collector.scenarios)


class _Collector:
    """A pytest plugin that keeps the collected scenarios."""

    def __init__(self) -> None:
        self.scenarios: dict[Scenario, None] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep the scenarios among the collected items, in order."""
        for item in session.items:
            if ids := requirement_ids(item):
                name, attributes = item.nodeid.partition("[")[0], words_of(item)[1]
                self.scenarios[Scenario(name, ids, dialects_of(item), attributes)] = None
