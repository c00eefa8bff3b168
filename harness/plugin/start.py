"""Start pytest on the suites."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.lib import paths
from harness.lib.errors import ExitCode
from harness.plugin.items import GIVEN, RUN
from harness.run.request import RunInput

HOOKS = "harness.plugin.hooks"
#: The project's configuration, whatever the user's folder holds.
CONFIGURATION = (f"--rootdir={paths.PROJECT}", f"--config-file={paths.PROJECT / 'pyproject.toml'}")


def start(given: RunInput, options: Sequence[str]) -> ExitCode:
    """Run the scenarios; ``options`` are pytest's own, and may name files.  Returns the exit code."""
    suites = _Suites(given)
    # -rN: the table at the end lists all verdicts, with their reasons.
    code = pytest.main([*CONFIGURATION, "-p", HOOKS, "-rN", *options], plugins=[suites])
    if suites.interrupted:
        return ExitCode.INTERRUPTED
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        return ExitCode.NOTHING_APPLICABLE
    return ExitCode(code) if code in set(ExitCode) else ExitCode.HARNESS


class _Suites:
    """A plugin that hands the run's input over, and names the suites unless the user names files."""

    def __init__(self, given: RunInput) -> None:
        self._given = given
        self._config: pytest.Config | None = None
        self.interrupted = False  # before there was a run to record it in

    def pytest_configure(self, config: pytest.Config) -> None:
        """Nothing but pytest can tell the name of a file from the value of one of its options."""
        self._config = config
        config.stash[GIVEN] = self._given
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(paths.SUITES)]

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell Ctrl-C from a suite that cannot be read: pytest's exit code is the same."""
        self.interrupted = (
            excinfo.type is KeyboardInterrupt and self._config is not None and RUN not in self._config.stash
        )
