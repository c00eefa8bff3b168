"""The report for ``b4 review``: the JSON that a ``b4.review-series-check-cmd`` prints.

b4 gives the command the cover letter on standard input.  The stored run of that series is found by its
Message-ID.
"""

from __future__ import annotations

import email.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from harness.journal.facts import read_facts, read_mails
from harness.journal.plan_file import PLAN
from harness.lib.errors import HarnessError
from harness.lib.text import one_line, printable, visible
from harness.report import cause_text
from harness.report.causes import Cause, causes
from harness.report.host_paths import read_shortened
from harness.report.html.answer import answer
from harness.report.patchwork import State, check_url, state_of

TOOL = "patchproof"
MAX_MAIL = 1 << 20  # bytes of the cover letter that are read
CAUSES = 20  # that are listed

_STATUS = {State.SUCCESS: "pass", State.WARNING: "warn", State.PENDING: "warn", State.FAIL: "fail"}
_ID = re.compile(r"<\s*([^<>\s]{1,250})\s*>")
_TIME = re.compile(r"-(\d{8}T\d{6}Z)(?:-\d+)?$")


def render(directory: Path, cover: BinaryIO, url: str = "") -> str:
    """Return the JSON list with the result of a series.

    ``directory`` is the folder of a run, or one of many runs: then ``cover``, a mail, chooses
    the run of its series.  If none of them is, the result is a warning.  Raises UsageError for a
    malformed ``url``, HarnessError for a run that cannot be read and a folder without any run.
    """
    check_url(url)
    message = ""
    found: Path | None = directory
    if any(directory.glob(f"*/{PLAN}")) and not (directory / PLAN).is_file():
        message = message_id(cover)
        found = newest_run(directory, message) if message else None
    if found is None:
        said = f"No stored run tested <{printable(message)}>." if message else "The mail has no Message-ID."
        return _json("warn", said, url, f"Runs were looked for in {printable(str(directory))}.")
    record, _ = read_shortened(found)
    known = causes(record)
    told = answer(record, known)
    details = [one_line(told.reason), *map(one_line, told.caveats)]
    details += [line for cause in known[:CAUSES] for line in _lines(cause)]
    details.append(f"Run: {one_line(record.run)}")
    return _json(_STATUS[state_of(record)], told.sentence, url, "\n".join(filter(None, details)))


def message_id(cover: BinaryIO) -> str:
    """Return the Message-ID of a mail without brackets; empty if it has none."""
    headers = email.parser.BytesHeaderParser().parsebytes(cover.read(MAX_MAIL))
    found = _ID.search(str(headers.get("Message-ID", "")))
    return found[1] if found else ""


def newest_run(directory: Path, message: str) -> Path | None:
    """Return the newest run below ``directory`` of the series with this mail; None if there is none.

    A run of the whole series is preferred to one of its first patches.  A run with a
    mutant is another series, and a run that cannot be read is none.
    """
    found: list[tuple[int, str, Path]] = []
    for folder in sorted(directory.iterdir()):
        if folder.is_symlink() or not (folder / PLAN).is_file():
            continue
        try:
            facts = read_facts(folder)
        except HarnessError:
            continue
        mails = read_mails(facts)
        options = facts.get("selection")
        if isinstance(options, list) and any(str(one).startswith("--mutant") for one in options):
            continue
        if message in (facts.get("message_id"), *(one["message_id"] for one in mails)):
            time = _TIME.search(folder.name)
            found.append((len(mails), time[1] if time else "", folder))
    return max(found)[2] if found else None


def _lines(cause: Cause) -> Iterator[str]:
    yield cause_text.heading(cause)
    deviation = cause.best.deviation
    if deviation is not None:
        yield f"  expected {one_line(deviation.expected)}; seen {one_line(deviation.seen)}"
    elif cause.best.reason:
        yield f"  {one_line(cause.best.reason)}"


def _json(status: str, summary: str, url: str, details: str) -> str:
    members = {
        "tool": TOOL,
        "status": status,
        "summary": visible(one_line(summary)),
        "url": url,
        "details": visible(details),
    }
    return json.dumps([members], indent=1) + "\n"
