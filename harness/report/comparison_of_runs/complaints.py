"""Compare the kernel's complaints in two runs, by fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.report.comparison_of_runs.runs import Run
from harness.verdict.record import Complaint, Record


@dataclass(frozen=True)
class ComplaintChange:
    """A complaint of the kernel, and the number of scenarios that have it in each run.

    ``earlier`` is the fingerprint of the older run's complaint at the same place, if only the callers differ.
    """

    complaint: Complaint
    before: int
    after: int
    earlier: str = ""

    @property
    def where(self) -> str:
        """``new``, ``gone``, ``moved`` or ``both``."""
        if self.earlier:
            return "moved"
        return "both" if self.before and self.after else "new" if self.after else "gone"


def complaint_changes(before: Run, after: Run) -> tuple[ComplaintChange, ...]:
    """Return the complaints of both runs: first those of the newer, then those that are gone."""
    return tuple(_changes(_counted(before.record), _counted(after.record)))


def _changes(
    first: dict[str, tuple[Complaint, int]], second: dict[str, tuple[Complaint, int]]
) -> Iterator[ComplaintChange]:
    moved: set[str] = set()
    for fingerprint, (complaint, number) in second.items():
        if fingerprint in first:
            yield ComplaintChange(complaint, first[fingerprint][1], number)
            continue
        at_place = (
            name
            for name, (other, _) in first.items()
            if name not in second and name not in moved and complaint.place and other.place == complaint.place
        )
        earlier = next(at_place, "")
        moved.add(earlier)
        yield ComplaintChange(complaint, first[earlier][1] if earlier else 0, number, earlier)
    for fingerprint, (complaint, number) in first.items():
        if fingerprint not in second and fingerprint not in moved:
            yield ComplaintChange(complaint, number, 0)


def _counted(record: Record) -> dict[str, tuple[Complaint, int]]:
    """Return each complaint by its fingerprint, with the number of results that have it."""
    found: dict[str, tuple[Complaint, int]] = {}
    for result in record.results:
        for name, complaint in {one.fingerprint: one for one in result.complaints}.items():
            found[name] = complaint, found.get(name, (complaint, 0))[1] + 1
    return found
