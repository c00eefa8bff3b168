"""Parts of a run for several machines: how a selection is split, and what each part plans and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_run import make_checkout, run

from harness.journal.plan_file import Plan, read
from harness.journal.reader import read as read_record
from harness.lib.errors import ExitCode, UsageError
from harness.lib.shard import Shard, cut
from harness.plugin import durations, scenario_list
from harness.run.request import ANY_SEED, Request
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind

SUITE = "suites/test_map.py"
SELECTION = "a_dmabuf_reaches_the_memory"


@pytest.mark.parametrize(
    ("weights", "total", "numbers"),
    [
        ([1.0] * 7, 3, [1, 1, 2, 2, 2, 3, 3]),
        ([10.0, 1.0, 1.0, 1.0], 2, [1, 2, 2, 2]),
        ([1.0, 1.0], 5, [2, 4]),
        ([], 3, []),
    ],
)
def test_cut_gives_pieces_of_equal_weight(weights: list[float], total: int, numbers: list[int]) -> None:
    assert cut(weights, total) == numbers


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/4", ""])
def test_shard_outside_its_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no part: write 2/4 for the second of four"):
        Shard.parse(text)


def test_shard_with_a_random_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="need one order"):
        Request(series="baseline", shard=Shard(1, 2), random_order=ANY_SEED)


def test_plan_of_an_empty_shard_has_no_stages() -> None:
    stage, scenario = Entry("boot", Kind.STAGE, "Boots"), Entry("a", Kind.SCENARIO, "A", shard=1)
    whole = (stage, scenario)
    assert Plan("r", whole, Shard(1, 2)).own == whole
    assert Plan("r", whole, Shard(2, 2)).own == ()
    assert Plan("r", (stage,)).own == (stage,)


def test_recorded_durations_are_those_of_scenarios() -> None:
    known = {one.id for one in scenario_list.scenarios()}
    recorded = durations.load()
    assert recorded
    assert set(recorded) <= known
    assert all(seconds > 0 for seconds in recorded.values())


def selected(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("suites/")]


def test_shards_of_the_suites_are_whole_and_in_order(tmp_path: Path) -> None:
    """Both repetitions of a scenario are in the shard of that scenario."""
    asked = ("run", "--series", "baseline", "--collect-only", "-q", "--repeat", "2", "-k", "MAP or life")
    code, output = run(*asked, mark=tmp_path)
    assert code == 0, output
    parts = [selected(run(*asked, "--shard", f"{number}/2", mark=tmp_path)[1]) for number in (1, 2)]
    first_rounds = [[one for one in part if not one.endswith(" #2")] for part in parts]
    whole = [one for one in selected(output) if not one.endswith(" #2")]
    assert [one for part in first_rounds for one in part] == whole
    assert [len(part) for part in parts] == [2 * len(part) for part in first_rounds]
    assert all(parts)


@pytest.mark.build
def test_run_of_a_shard_plans_its_part_of_the_whole(tmp_path: Path) -> None:
    """One third of two scenarios is empty and builds nothing: exit code 3.  Each can be resumed."""
    checkout, cache = make_checkout(tmp_path / "linux"), tmp_path / "cache"
    cache.mkdir()
    (cache / "image").touch()  # a file where a folder belongs: no run gets past the stage
    plans: list[Plan] = []
    codes = []
    for number in (1, 2, 3):
        results = tmp_path / str(number)
        asked = ("--tree", checkout, "--results", results, "-k", SELECTION, "--shard", f"{number}/3")
        code, output = run("run", SUITE, *asked, mark=tmp_path, cache=cache)
        codes.append(code)
        plans.append(read(results / "latest"))
        count = sum(one.kind is Kind.SCENARIO for one in plans[-1].own)
        assert f"shard {number}/3: " + (f"{count} scenario" if count else "no scenarios") in output
    assert len({(plan.entries, plan.selection) for plan in plans}) == 1
    whole = [one.id for one in plans[0].entries if one.kind is Kind.SCENARIO]
    assert [one.id for plan in plans for one in plan.own if one.kind is Kind.SCENARIO] == whole
    expected = [ExitCode.HARNESS if plan.own else ExitCode.NOTHING_APPLICABLE for plan in plans]
    assert codes == expected
    assert set(expected) == {ExitCode.HARNESS, ExitCode.NOTHING_APPLICABLE}
    facts: dict[str, Any] = json.loads((tmp_path / "3" / "latest" / "run.json").read_text())
    assert "--shard" in facts["selection"]
    for number, plan in enumerate(plans, 1):
        code, output = run("run", "--resume", tmp_path / str(number) / "latest", mark=tmp_path, cache=cache)
        count = sum(one.kind is Kind.SCENARIO for one in plan.own)
        assert f"{count or 'no'} scenarios are left to run" in output
        assert code == expected[number - 1]
        assert len(read_record(tmp_path / str(number) / "latest").resumed) == (1 if plan.own else 0)
