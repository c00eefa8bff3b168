"""Judge the run of one of the kernel's own test programs, by its output and its exit status."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.lib.text import counted, printable, signal_name
from harness.verdict import ktap
from harness.verdict.case import Case
from harness.verdict.verdict import Verdict

# The exit statuses of kselftest (tools/testing/selftests/kselftest.h).
XFAIL = 2
SKIP = 4
KILLED = 128 + signal.SIGKILL
SIGNALS = 128
LAST_SIGNAL = 64
NAMED = 3  # failed tests that a reason names
LAST_LINES = 3  # of the output, for a program without KTAP


@dataclass(frozen=True)
class Outcome:
    """The verdict on one program, with its cases.

    ``reason`` is a sentence, also for a program that passed.  ``failure`` is the failure as text that
    can be compared with another kernel's; it is empty for a program that did not end.
    """

    verdict: Verdict
    reason: str
    cases: tuple[Case, ...] = ()
    failure: str = ""


def judge(output: bytes, status: int, *, limit: int, seconds: int, status_decides: bool = False) -> Outcome:
    """Return the outcome of a program that printed ``output`` and had this exit ``status``.

    ``limit`` is the number of bytes after which the output was cut off, ``seconds`` the time after which
    the program was killed.  If ``status_decides``, a program may pass without printing KTAP.
    """
    lines = output[:limit].decode(errors="replace").split("\n")
    report = ktap.parse(lines)
    failed = [one for one in report.cases if one.verdict is Verdict.VIOLATES]

    def violates(reason: str, *, comparable: bool = True) -> Outcome:
        parts = [reason, *sorted(one.name for one in failed), *report.faults]
        return Outcome(Verdict.VIOLATES, reason, report.cases, "\n".join(parts) if comparable else "")

    if len(output) >= limit:
        return violates(f"It printed more than {limit >> 10} KiB, and the rest was not read.")
    if status == KILLED:
        end = f"It was killed: it did not end within {seconds} s, or memory ran out."
        return violates(end, comparable=False)
    if SIGNALS < status <= SIGNALS + LAST_SIGNAL:
        return violates(f"It was ended by {signal_name(status - SIGNALS)}{_after(report.cases)}.")
    if failed:
        return violates(f"{len(failed)} of {counted(len(report.cases), 'test')} failed: {_names(failed)}.")
    if status == SKIP:
        return Outcome(Verdict.NOT_APPLICABLE, _skipped(report, lines), report.cases)
    if report.faults:
        return violates(f"Its output is no valid KTAP: {'; '.join(report.faults)}.")
    if report.skipped is not None and not status:
        return Outcome(Verdict.NOT_APPLICABLE, f"It was skipped: {report.skipped}.", report.cases)
    if status == XFAIL:
        return Outcome(Verdict.NOT_APPLICABLE, "It is expected to fail (exit status 2).", report.cases)
    if not report.found:
        return _without_ktap(lines, status, status_decides)
    if status:
        return violates(
            f"It exited with {status}, although none of {counted(len(report.cases), 'test')} failed."
        )
    return _passed(report.cases)


def _passed(cases: Sequence[Case]) -> Outcome:
    counts = Counter(one.verdict for one in cases)
    skipped = counts[Verdict.NOT_APPLICABLE]
    if not counts[Verdict.CONFORMS]:
        why = cases[0].reason if cases else "it ran none"
        return Outcome(
            Verdict.NOT_APPLICABLE, f"None of {counted(len(cases), 'test')} ran: {why}.", tuple(cases)
        )
    reason = f"{counted(counts[Verdict.CONFORMS], 'test')} passed" + (
        f", {skipped} skipped" if skipped else ""
    )
    return Outcome(Verdict.CONFORMS, f"{reason}.", tuple(cases))


def _without_ktap(lines: Sequence[str], status: int, status_decides: bool) -> Outcome:
    last = _last(lines)
    if status:
        reason = f"It exited with {status} and printed no KTAP. Last, it said: {last}"
        return Outcome(Verdict.VIOLATES, reason, failure=reason)
    if status_decides:
        return Outcome(Verdict.CONFORMS, f"It exited with 0 and printed no KTAP. Last, it said: {last}")
    return Outcome(
        Verdict.NOT_APPLICABLE,
        "It printed no KTAP, so nothing shows what it tested; its exit status is 0. If that is enough, say "
        f'`ktap = "optional"` in [selftest]. Last, it said: {last}',
    )


def _skipped(report: ktap.Report, lines: Sequence[str]) -> str:
    reasons = [one.reason for one in report.cases if one.reason]
    after = f" after {counted(len(report.cases), 'test')}" if report.cases else ""
    return f"It was skipped{after}: {report.skipped or next(iter(reasons), '') or _last(lines, 1)}"


def _last(lines: Sequence[str], count: int = LAST_LINES) -> str:
    """Return the last ``count`` lines that are not empty, as one."""
    said = [printable(line.strip(), ktap.LINE_LIMIT) for line in lines if line.strip()]
    return " / ".join(said[-count:]) or "nothing"


def _after(cases: Sequence[Case]) -> str:
    return f" after the test {cases[-1].name}" if cases else ""


def _names(cases: Sequence[Case]) -> str:
    more = f" and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
    return ", ".join(one.name for one in cases[:NAMED]) + more
