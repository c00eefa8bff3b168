"""Search stored consoles for splats again.

The table of splats grows, so the verdict of a stored run depends on the present
table, not on that of the day of the run.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from harness.klog import lines, splat
from harness.klog.splat import Splat
from harness.verdict.record import Complaint, Result
from harness.verdict.verdict import IN_GUEST, Kind, Verdict

# The verdicts that a splat on the console contradicts.
_GOOD = (Verdict.CONFORMS, Verdict.UNEXPECTEDLY_CONFORMS, Verdict.NOT_APPLICABLE)


def rescan(result: Result, directory: Path) -> Result:
    """Return ``result`` with the splats that its console holds today, and the verdict that follows.

    If the console holds no fault, and the record has the verdict without the console's
    evidence (``without_console``), that verdict replaces the recorded one.  A good verdict is
    ``harness-error`` if messages were lost, or a detector was disabled.  A stage, and an entry that
    did not end, or has no console in ``directory``, is returned unchanged.
    """
    raw = _console(result, directory)
    if raw is None:
        return result
    splats = [one for one in _splats(raw) if not one.informational]
    result = replace(result, complaints=tuple(map(_complaint, splats)))
    faults = [one for one in splats if one.fault]
    if faults and result.verdict in _GOOD:
        noun = "scenario" if result.entry.kind is Kind.SCENARIO else "test program"
        reason = f"The {noun} passed, but the kernel said: {faults[0].title}"
        return replace(result, verdict=result.entry.judge(Verdict.VIOLATES), reason=reason)
    already = bool(splats) and result.verdict is Verdict.HARNESS_ERROR
    if not faults and result.without_console is not None and not already:
        before = f"It was {result.verdict}: {result.reason}"
        reason = f"With the present patterns the console has no complaint. {before}"
        result = replace(result, verdict=result.entry.judge(result.without_console), reason=reason)
    if splats and not faults and result.verdict in _GOOD:
        reason = f"A detector was disabled, or messages were lost: {splats[0].title}"
        return replace(result, verdict=Verdict.HARNESS_ERROR, reason=reason)
    return result


@functools.lru_cache(maxsize=64)
def _splats(raw: bytes) -> tuple[Splat, ...]:
    """Return the splats of a scenario's console; each report of a run asks for them again."""
    return tuple(splat.extract(lines.clean(raw), up=True))


def _console(result: Result, directory: Path) -> bytes | None:
    """Return the console output during a scenario that ended, from the start of its first line; else None."""
    span = result.console
    if result.entry.kind not in IN_GUEST or not result.ended or span is None:
        return None
    try:
        path = (directory / span.file).resolve()
        if not path.is_relative_to(directory.resolve()) or not path.is_file():
            return None
        if span.end <= span.start:
            return b""
        with path.open("rb") as stream:
            start = lines.line_start(stream, span.start)
            stream.seek(start)
            return stream.read(max(min(span.end, path.stat().st_size) - start, 0))
    except OSError:  # such as a name that is too long
        return None


def _complaint(found: Splat) -> Complaint:
    return Complaint(found.kind, found.title, found.fingerprint, found.text, found.fault, found.place)
