"""What ended a run early, in words."""

from __future__ import annotations

from harness.lib.text import one_line

_WORDS = {
    "SIGINT": "was interrupted by Ctrl-C (SIGINT)",
    "SIGTERM": "was ended by SIGTERM (a CI system's cancel, or `kill`)",
    "SIGHUP": "was ended by SIGHUP (its terminal or connection was closed)",
}


def how(reason: str) -> str:
    """Return a clause without its subject, for the ``reason`` of the journal's event ``interrupted``."""
    return _WORDS.get(reason, f"was interrupted ({one_line(reason)})" if reason else "was interrupted")
