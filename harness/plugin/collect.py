"""The scenarios of the suites, found by pytest without a machine."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from harness.lib import paths
from harness.lib.errors import HarnessError
from harness.run.run import requirement_ids
from harness.series.manifest import DIALECTS
from harness.verdict.requirements import Scenario

#: Those that a kernel can have; ``auto`` is not known until the headers are there.
SETTLED = tuple(dialect for dialect in DIALECTS if dialect != "auto")


def scenarios(suites: Path = paths.SUITES) -> tuple[Scenario, ...]:
    """Every scenario in ``suites``, in pytest's order, once whatever its parameters are.

    Raises HarnessError, with what pytest said, if the suites cannot be collected.
    """
    found = _Found()
    said = io.StringIO()
    where = [f"--rootdir={paths.PROJECT}", f"--config-file={paths.PROJECT / 'pyproject.toml'}"]
    quiet = ["--collect-only", "-q", "-s", "-p", "no:cacheprovider", "-p", "harness.plugin.hooks"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main([*where, *quiet, str(suites)], plugins=[found])
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
                self.scenarios[Scenario(item.nodeid.partition("[")[0], ids, _dialects(item))] = None


def _dialects(item: pytest.Item) -> tuple[str, ...]:
    mark = item.get_closest_marker("on_dialect")
    return SETTLED if mark is None else tuple(dialect for dialect in SETTLED if dialect in mark.args)
