"""Turn an observation into pytest's report: passed, failed, or failed as expected."""

from __future__ import annotations

import pytest

from harness.actor.actor import NotOfferedError
from harness.lib.text import visible
from harness.plugin.assertion import mismatch_of
from harness.run.error_to_verdict import (
    NotApplicableError,
    NotReachedError,
    Observation,
    Phase,
    first_line,
)
from harness.run.scenario import ScenarioRun
from harness.verdict.record import Entry
from harness.verdict.verdict import Verdict

#: The outcome of a phase of a try that QEMU has cut off, and that is made again.
REPEATED = "repeated"


def error_of(error: BaseException, config: pytest.Config) -> BaseException:
    """Return ``error``, with pytest's own outcomes replaced by errors that the run knows.

    ``pytest.skip()`` becomes NotApplicableError, ``pytest.fail()`` AssertionError, and an
    assertion of a comparison Mismatch.
    """
    if isinstance(error, pytest.skip.Exception):
        return NotApplicableError(str(error.msg))
    if isinstance(error, pytest.fail.Exception):
        return AssertionError(str(error)).with_traceback(error.__traceback__)
    return mismatch_of(config, error) if isinstance(error, AssertionError) else error


def observe(
    scenario: ScenarioRun, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
) -> None:
    """Record a phase of the scenario, and set in ``report`` whether its result was expected.

    Raises PatchproofError if the phase cannot be recorded.
    """
    error = error_of(call.excinfo.value, item.config) if call.excinfo is not None else None
    phase = Phase(call.when)
    details = visible(report.longreprtext) if error is not None else ""
    if details != report.longreprtext:
        report.longrepr = details  # pytest writes it to the terminal as it is
    observation = scenario.observe(phase, error, details)
    if observation is not None:
        if _is_tolerated(scenario.entry, observation):
            report.outcome = "skipped"
            label = "expected" if scenario.entry.binding else "finding"
            report.wasxfail = f"{label}: {first_line(observation.reason)}"
        elif isinstance(error, (NotOfferedError, NotReachedError)):
            report.outcome = "skipped"
            report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {observation.reason}")
    elif phase is Phase.CALL and scenario.entry.judge(Verdict.CONFORMS) is not Verdict.CONFORMS:
        report.outcome = "failed"
        report.longrepr = "This scenario conforms, but the manifest of the series expects that it does not."


def set_repeated(report: pytest.TestReport, *, told: bool) -> None:
    """Set in ``report`` that the try has no result; the screen shows that once, unless it was ``told``."""
    report.outcome = "passed" if told else REPEATED  # type: ignore[assignment]  # none of pytest's own


def _is_tolerated(planned: Entry, observation: Observation) -> bool:
    """Return whether a failed phase was expected, or is only a finding."""
    if planned.violated(observation.verdict, observation.on_console) or observation.verdict in (
        Verdict.NOT_APPLICABLE,
        Verdict.NOT_REACHED,
    ):
        return False
    return observation.verdict is planned.expected or not planned.binding
