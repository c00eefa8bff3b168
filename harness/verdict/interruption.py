"""What ended a run early, in words."""

from __future__ import annotations

from harness.lib.errors import ExitCode
from harness.lib.text import one_line
from harness.lib.time_limit import REASON

_WORDS = {
    "SIGINT": "was interrupted by Ctrl-C (SIGINT)",
    "SIGTERM": "was ended by SIGTERM (a CI system's cancel, or `kill`)",
    "SIGHUP": "was ended by SIGHUP (its terminal or connection was closed)",
}


def is_time_limit(reason: str) -> bool:
    """Return whether an interruption was that of the time limit, which is no wish of the user's now."""
    return reason.startswith(REASON)


def exit_code(reason: str) -> ExitCode:
    """Return the exit code of a program that an interruption ended before it could say anything."""
    return ExitCode.HARNESS if is_time_limit(reason) else ExitCode.INTERRUPTED


def how(reason: str) -> str:
    """Return a clause without its subject, for the ``reason`` of the journal's event ``interrupted``."""
    if is_time_limit(reason):
        return f"was ended by its time limit of {one_line(reason.removeprefix(REASON))}"
    return _WORDS.get(reason, f"was interrupted ({one_line(reason)})" if reason else "was interrupted")
