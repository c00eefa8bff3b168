"""Real runs compared: the base, the reference series, and the series with a fault of its own.

data/compare/ has some scenarios of each run: plan, events, transcripts, the facts that are compared, and
the console of ``close-twice``, whose kernel complains.  The page faults of ``mutant`` ignore a revoke.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.journal.writer import EVENTS
from harness.lib.errors import ExitCode, UsageError
from harness.report.comparison_of_runs import as_text
from harness.report.comparison_of_runs.comparison import RunComparison, compare_runs
from harness.report.comparison_of_runs.pairs import Category
from harness.report.comparison_of_runs.sections import sections

RUNS = Path(__file__).parent / "data" / "compare"
REFERENCE, MUTANT, BASE = RUNS / "reference", RUNS / "mutant", RUNS / "base"


def categories(comparison: RunComparison) -> dict[str, Category]:
    """Return the category of each scenario, by the name of its function."""
    return {pair.id.rpartition("::")[2].partition("[")[0]: pair.category for pair in comparison.pairs}


def test_comparison_equals_the_golden_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RUNS)
    comparison = compare_runs(Path("reference"), Path("mutant"))
    assert as_text.render(comparison) == Path("reference-mutant.txt").read_text()
    assert comparison.exit_code == ExitCode.SERIES


def test_fault_of_a_mutant_is_one_cause() -> None:
    (section,) = sections(compare_runs(REFERENCE, MUTANT))
    assert [(item.requirement, len(item.pairs)) for item in section.items] == [("REV-01", 3), ("RACE-02", 1)]


def test_mutant_compared_with_the_reference_is_the_mirror_image() -> None:
    forward, backward = compare_runs(REFERENCE, MUTANT), compare_runs(MUTANT, REFERENCE)
    mirror = {Category.BROKEN: Category.FIXED}
    assert categories(backward) == {
        name: mirror.get(category, category) for name, category in categories(forward).items()
    }
    assert backward.exit_code == ExitCode.OK
    assert backward.summary.endswith(
        "fixes 4, breaks 0, inherits 0, keeps 0 of fault-ignores-the-state's violations."
    )
    kinds = {pair.id: pair.reply.kinds for pair in forward.pairs if pair.reply}
    assert kinds == {pair.id: pair.reply.kinds[::-1] for pair in backward.pairs if pair.reply}


@pytest.mark.parametrize("run", [REFERENCE, MUTANT, BASE, RUNS / "close", RUNS / "close-twice"])
def test_real_run_compared_with_itself_has_no_difference(run: Path) -> None:
    comparison = compare_runs(run, run)
    assert set(categories(comparison).values()) <= {Category.SAME, Category.STILL}
    assert not comparison.differences
    assert comparison.exit_code == ExitCode.OK
    assert as_text.render(comparison).count("The same answer in both runs") == 1


def test_series_fixes_what_its_base_refuses() -> None:
    comparison = compare_runs(BASE, REFERENCE)
    (item,) = sections(comparison)[-1].items
    assert len(comparison.of(Category.FIXED)) == len(item.pairs) == 4
    assert {pair.reply.kinds for pair in item.pairs if pair.reply} == {("EINVAL", "ok")}
    assert {one.name for one in comparison.differences} == {"series", "dialect"}
    assert comparison.exit_code == ExitCode.OK


def test_base_and_mutant_violate_by_other_causes() -> None:
    comparison = compare_runs(BASE, MUTANT)
    assert [pair.same_cause for pair in comparison.of(Category.STILL)] == [False] * 4
    assert comparison.exit_code == ExitCode.OK
    text = as_text.render(comparison)
    assert "EINVAL (base-6.19.6)" in text
    assert "0x10000ed (reference-feature+fault-ignores-the-state)" in text


def test_complaint_of_a_mutant_is_new_and_one_cause() -> None:
    comparison = compare_runs(RUNS / "close", RUNS / "close-twice")
    (complaint,) = comparison.complaints
    assert (complaint.where, complaint.after) == ("new", 3)
    assert "refcount_t: underflow" in complaint.complaint.title
    (section,) = sections(comparison)
    assert [len(item.pairs) for item in section.items] == [3]


@pytest.mark.parametrize(("lines", "scenarios"), [(1, 0), (2, 1), (6, 2)])
def test_real_run_without_its_last_events_is_cut_off(tmp_path: Path, lines: int, scenarios: int) -> None:
    cut = shutil.copytree(MUTANT, tmp_path / "mutant")
    events = (cut / EVENTS).read_text().splitlines(keepends=True)
    (cut / EVENTS).write_text("".join(events[:-lines]) + events[-lines][:20])
    with pytest.raises(UsageError, match="was cut off"):
        compare_runs(REFERENCE, cut)
    whole, forced = compare_runs(REFERENCE, MUTANT), compare_runs(REFERENCE, cut, force=True)
    lost = {pair.id for pair in forced.of(Category.UNSAID)}
    assert len(lost) == scenarios
    others = [(pair.id, pair.category) for pair in forced.pairs if pair.id not in lost]
    assert others == [(pair.id, pair.category) for pair in whole.pairs if pair.id not in lost]
