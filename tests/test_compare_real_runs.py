"""Real runs compared: the reference series, and the same with a fault that its page faults ignore a revoke.

data/compare/ has eight scenarios of each run: plan, events, transcripts and the facts that are compared.
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
REFERENCE, MUTANT = RUNS / "reference", RUNS / "mutant"


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


@pytest.mark.parametrize("run", [REFERENCE, MUTANT])
def test_real_run_compared_with_itself_has_no_difference(run: Path) -> None:
    comparison = compare_runs(run, run)
    assert set(categories(comparison).values()) <= {Category.SAME, Category.STILL}
    assert not comparison.differences
    assert comparison.exit_code == ExitCode.OK
    assert as_text.render(comparison).count("The same answer in both runs") == 1


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
