"""The report for patchwork: the JSON that its API of checks takes (``CheckCreate``).

Nothing is posted: whoever has a token of the patchwork sends it.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path

from harness.lib.errors import ExitCode, UsageError
from harness.lib.text import one_line, printable, visible
from harness.report.causes import causes, is_fault
from harness.report.host_paths import read_shortened
from harness.report.html.answer import answer
from harness.verdict.record import Record

CONTEXT = "patchproof"
MAX_URL = 200  # characters, of patchwork's database
_CONTEXT = re.compile(r"[-a-zA-Z0-9_]{1,255}")
_URL = re.compile(r"https?://[!-~]+")


class State(StrEnum):
    """The states of a check; a fault of the series stays proven whatever else went wrong."""

    SUCCESS = "success"
    WARNING = "warning"
    """The run cannot say: a fault of the harness, or nothing was applicable."""
    FAIL = "fail"
    PENDING = "pending"
    """The run did not come to its end."""


def state_of(record: Record) -> State:
    """Return the state of the check for a run."""
    if any(is_fault(one) and not one.inherited for one in record.results):
        return State.FAIL
    if record.interrupted or not record.complete:
        return State.PENDING
    return State.SUCCESS if record.exit_code is ExitCode.OK else State.WARNING


def render(directory: Path, context: str = CONTEXT, url: str = "") -> str:
    """Return the JSON document; ``url`` is where a reader finds more, and may be empty.

    Raises UsageError for a ``context`` or a ``url`` that patchwork refuses, HarnessError if
    ``directory`` holds no run.
    """
    if not _CONTEXT.fullmatch(context):
        raise UsageError(
            f"The context {printable(context)!r} is not one that patchwork takes: letters, digits, - and _."
        )
    check_url(url)
    record, _ = read_shortened(directory)
    check: dict[str, str] = {
        "state": state_of(record),
        "context": context,
        "description": visible(one_line(answer(record, causes(record)).sentence)),
    }
    if url:
        check["target_url"] = url
    return json.dumps(check, indent=1) + "\n"


def check_url(url: str) -> None:
    """Raise UsageError unless ``url`` is empty, or an address that patchwork takes."""
    if url and not (_URL.fullmatch(url) and len(url) <= MAX_URL):
        raise UsageError(
            f"The address {printable(url)!r} cannot be that of a check, which begins with http:// or "
            f"https:// and has at most {MAX_URL} characters."
        )
