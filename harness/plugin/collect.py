"""The scenarios of the suites, found by pytest without a machine."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from harness.lib import paths
from harness.lib.errors import HarnessError
from harness.plugin.items import dialects_of, requirement_ids
from harness.plugin.start import CONFIGURATION, HOOKS
from harness.verdict.requirements import Scenario


def scenarios(suites: Path = paths.SUITES) -> tuple[Scenario, ...]:
    """Every scenario in ``suites``, in pytest's order, once whatever its parameters are.

    Raises HarnessError, with what pytest said, if the suites cannot be collected.
    """
    found = _Found()
    said = io.StringIO()
    quiet = ["--collect-only", "-q", "-s", "-p", "no:cacheprovider", "-p", HOOKS]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main([*CONFIGURATION, *quiet, str(suites)], plugins=[found])
    if code != pytest.ExitCode.OK:
        raise HarnessError(
            f"The scenarios in {suites} cannot be collected (pytest ended with {int(code)}).",
            tail=said.getvalue().strip(),
        )
    return tuple(found.scenarios)


class _Found:
    """To pytest: takes down what was collected."""

    def __init__(self) -> None:
        self.scenarios: dict[Scenario, None] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take them down, in order."""
        for item in session.items:
            if ids := requirement_ids(item):
                self.scenarios[Scenario(item.nodeid.partition("[")[0], ids, dialects_of(item))] = None
