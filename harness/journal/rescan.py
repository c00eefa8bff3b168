"""What the present detectors make of a stored console: no verdict outlives the detectors that gave it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.klog import splat
from harness.klog.splat import Splat
from harness.verdict.record import Complaint, Result
from harness.verdict.words import Kind, Verdict

# What a console can take away: that nothing was wrong.
_GOOD = (Verdict.CONFORMS, Verdict.UNEXPECTEDLY_CONFORMS, Verdict.NOT_APPLICABLE)


def rescan(result: Result, directory: Path) -> Result:
    """A scenario's result with what its console shows today, and the verdict that follows from it.

    Where the record says what the verdict were without the console, a complaint
    that is none any more does not count either.  A console that is not in
    ``directory`` changes nothing.
    """
    raw = _said(result, directory)
    if raw is None:
        return result
    splats = [one for one in splat.extract(splat.clean(raw), up=True) if not one.informational]
    result = replace(result, complaints=tuple(map(_complaint, splats)))
    faults = [one for one in splats if one.fault]
    if faults and result.verdict in _GOOD:
        reason = f"The scenario passed, but the kernel said: {faults[0].title}"
        return replace(result, verdict=result.entry.judge(Verdict.VIOLATES), reason=reason)
    if splats and not faults and result.verdict in _GOOD:
        reason = f"A detector could not see: {splats[0].title}"
        return replace(result, verdict=Verdict.HARNESS_ERROR, reason=reason)
    if not splats and result.silent is not None:
        reason = (
            f"Nothing on the console counts as a complaint any more. It was {result.verdict}: {result.reason}"
        )
        return replace(result, verdict=result.entry.judge(result.silent), reason=reason)
    return result


def _said(result: Result, directory: Path) -> bytes | None:
    span = result.console
    if result.entry.kind is not Kind.SCENARIO or not result.ended or span is None:
        return None
    path = (directory / span.file).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        return None
    if span.end <= span.start:
        return b""
    with path.open("rb") as stream:
        start = splat.line_start(stream, span.start)
        stream.seek(start)
        return stream.read(max(span.end - start, 0))


def _complaint(one: Splat) -> Complaint:
    return Complaint(one.kind, one.title, one.fingerprint, one.text, one.fault)
