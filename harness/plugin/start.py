"""Start pytest on the suites."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.lib import interruption, paths
from harness.lib.errors import ExitCode
from harness.lib.interruption import Interruption
from harness.plugin.items import RUN, RUN_INPUT
from harness.run.request import RunInput
from harness.verdict.interruption import exit_code

#: The project's configuration, whatever the user's folder holds.  It loads harness.plugin.hooks.
CONFIGURATION = (f"--rootdir={paths.PROJECT}", f"--config-file={paths.PROJECT / 'pyproject.toml'}")

#: Nothing of pytest but its progress: the report at the end has all verdicts with their reasons.
QUIET = ("-q", "-rN", "--no-header", "--tb=no")


def start(run_input: RunInput, options: Sequence[str]) -> ExitCode:
    """Run the scenarios; return the exit code.  ``options`` are for pytest, and may name files."""
    suites = _Suites(run_input)
    listing = {"--collect-only", "--co"} & set(options)  # where -q has another meaning
    code = pytest.main([*CONFIGURATION, *(() if listing else QUIET), *options], plugins=[suites])
    if suites.interrupted:
        return exit_code(interruption.taken())
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        return ExitCode.NOTHING_APPLICABLE
    # Without a run the code is pytest's own, where 3 is an internal error.
    known = set(ExitCode) if suites.has_run else {ExitCode.OK, ExitCode.SERIES}
    return ExitCode(code) if code in known else ExitCode.HARNESS


class _Suites:
    """A pytest plugin that passes the run's input on, and the suites unless the user names files."""

    def __init__(self, run_input: RunInput) -> None:
        self._run_input = run_input
        self._config: pytest.Config | None = None
        self.interrupted = False  # before there was a run to record it in

    def pytest_configure(self, config: pytest.Config) -> None:
        """Stash the run's input; select the suites if the user names no files.

        Only pytest can tell the name of a file from the value of an option.
        """
        self._config = config
        config.stash[RUN_INPUT] = self._run_input
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(paths.SUITES)]

    @property
    def has_run(self) -> bool:
        """True after the plan of a run was written."""
        return self._config is not None and RUN in self._config.stash

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note Ctrl-C before the run; pytest's exit code is the same for a suite that cannot be read."""
        self.interrupted = isinstance(excinfo.value, Interruption) and not self.has_run
