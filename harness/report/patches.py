"""What a run with ``--bisect`` found out about the patches of a series, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from harness.lib.text import one_line
from harness.report.causes import Cause
from harness.report.prefixes import Prefixes
from harness.verdict import patch
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Verdict


def since(result: Result, prefixes: Prefixes | None = None) -> str:
    """Return the patch since which a result violates, and its subject; empty if that is not known.

    The run's own search comes first, then the runs on all ``prefixes`` of the series.
    """
    if result.since is not None:
        return one_line(result.since.words)
    row = prefixes.since(result.entry.id) if prefixes is not None else None
    return f"patch {row.count}, {one_line(row.subject)}" if row is not None else ""


def number_of(result: Result, prefixes: Prefixes | None = None) -> int:
    """Return the number of the one patch at fault, 0 if that is not known."""
    if result.since is not None:
        return result.since.last if result.since.exact else 0
    row = prefixes.since(result.entry.id) if prefixes is not None else None
    return row.count if row is not None else patch.count_of(result.entry)


def since_of_cause(cause: Cause) -> str:
    """Return the patches since which the results of a cause violate: ``patch 5/14``; empty without any."""
    return " and ".join(dict.fromkeys(one.since.patch for one in cause.results if one.since is not None))


def lines(record: Record) -> Iterator[str]:
    """Yield how many patches were looked at and are well, and a line for each other one."""
    results = record.patches
    if not results:
        return
    well = sum(one.verdict is Verdict.CONFORMS for one in results)
    noun = "patch" if len(results) == 1 else "patches"
    seen = f"{well} of {len(results)} {noun} were seen to build without new warnings, and boot"
    yield f"Patch by patch: {seen}."
    for line, number in Counter(_others(results)).items():
        yield f"  {line}" + (f" ({number} patches)" if number > 1 else "")


def _others(results: Iterable[Result]) -> Iterator[str]:
    for one in results:
        if one.verdict is not Verdict.CONFORMS:
            yield one_line(one.reason) or f"{one.entry.id}: {one.verdict}"
