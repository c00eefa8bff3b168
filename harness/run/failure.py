"""A failure of a scenario as text that can be compared with that on another kernel."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from harness.actor.mismatch import Mismatch
from harness.lib import paths
from harness.run.error_to_verdict import LOST, KernelDiedError, UnhealthyKernelError

LIMIT = 8192  # characters
# What differs between two runs of one kernel, and its replacement.  Everything else is an observed value.
_VARYING = (
    (re.compile(r"(?<= at )0x[0-9a-f]+(?=>)"), "#"),
    (re.compile(r"\b(0x)?(7[ef]|ffff)[0-9a-f]{8,14}\b"), "#"),
    (re.compile(r"\b(process|pid)[ =:]\d+", re.IGNORECASE), r"\1 #"),
    (re.compile(r"\bmachine-\d+\b"), "machine-#"),
    (re.compile(r" deadline=\w+"), ""),
    (re.compile(r"\b\d+(\.\d+)? (seconds|ms|s)\b"), r"# \2"),
)


def failure_of(error: BaseException) -> str:
    """Return how a phase of a scenario failed, without addresses, times and process ids.

    The text has the error's type, message, notes, and lines of the suites; of a Mismatch what
    it compares, instead of its message.  Complaints on the
    console are not part of it: they are compared by their fingerprints.  The text is empty
    for a missed deadline, because a busy host may be the cause on one kernel or on both.
    """
    if isinstance(error, KernelDiedError):
        return "the kernel died"
    if isinstance(error, UnhealthyKernelError):
        cause = error.__cause__
        parts = ["passed" if cause is None else failure_of(cause) or "a deadline was missed"]
        return "\n".join([*parts, *map(without_varying, error.changes)])[:LIMIT]
    if isinstance(error, LOST):
        return ""
    said = error.compared if isinstance(error, Mismatch) else str(error)
    parts = [type(error).__name__, said, *getattr(error, "__notes__", ()), *_places(error)]
    return "\n".join(without_varying(part) for part in parts)[:LIMIT]


def both(first: str, second: str) -> str:
    """Return the failures of two phases as one, empty if one of them is: that cannot be compared."""
    return f"{first}\n{second}"[:LIMIT] if first and second else ""


def without_varying(text: str) -> str:
    """Return ``text`` without the parts that differ between two runs of one kernel."""
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text.strip()


def _places(error: BaseException) -> list[str]:
    """Return ``FILE:LINE`` of each frame in the suites; of the last frame if none is there."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [one for one in frames if Path(one.filename).is_relative_to(paths.SUITES)]
    return [f"{Path(one.filename).name}:{one.lineno}" for one in inside or frames[-1:]]
