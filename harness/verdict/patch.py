"""The entries of the plan for the patches of a series: each one builds and boots (``--bisect``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from harness.verdict.record import Entry, Result
from harness.verdict.verdict import Kind, Verdict

_ID = re.compile(r"patch-([1-9]\d{0,3})")
UNUSABLE = (Verdict.VIOLATES, Verdict.HARNESS_ERROR)
#: Clauses about a patch, to which mended() adds the patch that mends it.
DOES_NOT_COMPILE, DOES_NOT_BOOT, ADDS_WARNINGS = "does not compile", "does not boot", "adds new warnings"


def entries_of(subjects: Sequence[str], shard: int = 0) -> tuple[Entry, ...]:
    """Return the entries for the patches with these ``subjects``, in order."""
    return tuple(
        Entry(
            f"patch-{count}",
            Kind.PATCH,
            f"Patch {count}/{len(subjects)} builds without new warnings, and boots: {subject}",
            shard=shard,
        )
        for count, subject in enumerate(subjects, 1)
    )


def count_of(entry: Entry) -> int:
    """Return the number of the patch that an entry is about, from 1; 0 for another entry."""
    found = _ID.fullmatch(entry.id) if entry.kind is Kind.PATCH else None
    return int(found[1]) if found else 0


def mended(reason: str, by: int, of: int) -> str:
    """Return the ``reason`` of a patch that does not compile, with the patch that mends it."""
    claim, end, rest = reason.partition(f" {DOES_NOT_COMPILE}")
    return f"{claim}{end}; {by}/{of} does{rest}" if end else f"{reason} {by}/{of} does."


def unusable(results: Iterable[Result]) -> Mapping[int, str]:
    """Return the prefixes that have no kernel, or one that does not boot, with the reasons as clauses.

    A patch that only adds warnings has a kernel.
    """
    found = {}
    for one in results:
        count = count_of(one.entry)
        clause = next((words for words in (DOES_NOT_COMPILE, DOES_NOT_BOOT) if words in one.reason), "")
        if count and one.ended and one.verdict in UNUSABLE and clause:
            found[count] = clause
    return found
