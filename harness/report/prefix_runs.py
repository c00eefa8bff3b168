"""Find the patch that brings a violation, by the runs of ``prefixes`` beside a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.journal.facts import MailFacts, read_facts, read_mails
from harness.journal.plan_file import PLAN
from harness.journal.reader import read
from harness.lib.errors import HarnessError
from harness.report.causes import same_cause
from harness.verdict.comparison import Origin
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Verdict

_FOLDER = re.compile(r"prefix-(\d{1,4})")


@dataclass(frozen=True)
class Bringer:
    """The patches that bring a violation: one of ``first`` to ``last``, counted from 1.

    They are the same number if the prefix before was run.  ``mail`` is that of the last.
    """

    first: int
    last: int
    mail: MailFacts


@dataclass(frozen=True)
class PrefixRuns:
    """The runs on prefixes of a series, by their number of patches; the whole series is one of them."""

    records: dict[int, Record]
    mails: dict[int, MailFacts]

    def bringer(self, result: Result) -> Bringer | None:
        """Return the patches that bring a violation of the whole series; None if no prefix tells.

        They are those after the last prefix without it.  A violation that the base has, too,
        has none.
        """
        comparison = result.comparison
        if len(self.records) < 2 or result.inherited:
            return None
        showing = max(self.records)
        before = None
        for number in sorted(self.records, reverse=True)[1:]:
            found = _same(self.records[number], result)
            if found is None:
                continue  # the prefix has no verdict on the scenario
            if not found:
                before = number
                break
            showing = number
        if before is None:
            if comparison is None or comparison.origin is not Origin.NEW:
                return None  # every prefix shows it, so perhaps the base does
            before = 0
        return Bringer(before + 1, showing, self.mails[showing]) if showing in self.mails else None


def _same(record: Record, violation: Result) -> bool | None:
    """Return whether a prefix shows a violation; None if it gives no verdict on that scenario."""
    found = next((one for one in record.results if one.entry.id == violation.entry.id), None)
    if found is None or not found.ended or found.verdict is Verdict.HARNESS_ERROR:
        return None
    return found.verdict in (Verdict.VIOLATES, Verdict.KERNEL_DIED) and same_cause(found, violation)


def find(directory: Path, record: Record) -> PrefixRuns:
    """Return the runs on prefixes of the series of a run, which ``prefixes`` has left beside it.

    A run counts if its patches are the first ones of the series, on the same base.
    """
    facts = read_facts(directory)
    mails = {one["number"]: one for one in read_mails(facts) if one["number"] > 0}
    whole = [mails[number]["sha256"] for number in sorted(mails)]
    records = {len(whole): record}
    for folder in _folders(directory):
        try:
            others = read_facts(folder)
            patches = [one["sha256"] for one in read_mails(others) if one["number"] > 0]
            fits = patches == whole[: len(patches)] and others.get("base") == facts.get("base")
            if patches and fits and len(patches) not in records:
                records[len(patches)] = read(folder)
        except HarnessError:
            continue  # a damaged run beside this one says nothing
    return PrefixRuns(records, mails)


def _folders(directory: Path) -> Iterator[Path]:
    """Yield the results folders of prefixes, the newest of each first."""
    here = directory.resolve().parent
    for place in (here, here.parent):
        for folder in sorted(place.glob("prefix-*")):
            if _FOLDER.fullmatch(folder.name):
                runs = [run for run in folder.iterdir() if (run / PLAN).is_file() and not run.is_symlink()]
                yield from sorted(runs, key=lambda run: run.name, reverse=True)
