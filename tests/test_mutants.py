"""Mutants: what a patch has to say, which are tried and in which order, and what their runs add up to."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import pytest
from small_run import PROJECT, Invocation, run, until

from harness import cli, matrix, mutant, mutants, options, pipeline, selection
from harness.errors import BuildError, ExitCode, HarnessError, PatchproofError, UsageError
from harness.journal import Journal
from harness.kernel import Kernel
from harness.matrix import Scenario
from harness.mutant import Mutant
from harness.mutants import Job, Trials
from harness.needs import in_order
from harness.options import PATCHES, Request
from harness.record import read
from harness.report import score as report
from harness.score import Control, Fate, Ledger, Score, Trial, judge
from harness.series import Patch
from harness.store import Store
from harness.verdict import Entry, Kind, Record, Strength, Verdict

RULES = matrix.load()
MAIL = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: patchproof maintainers <maintainers@patchproof.example>
Date: Sun, 15 Feb 2026 00:00:00 +0000
Subject: [PATCH] {subject}

{message}
---
 drivers/vfio/pci/core.c | 2 +-

diff --git a/drivers/vfio/pci/core.c b/drivers/vfio/pci/core.c
--- a/drivers/vfio/pci/core.c
+++ b/drivers/vfio/pci/core.c
@@ -1 +1 @@
-int line_1;
+int line_1_of_{subject};
"""
TEXT = "A page is missing.\nA client reads nothing."


def put(
    patches: Path, name: str, trailers: str = "Caught-by: MAP-01", whole: str = "good", text: str = TEXT
) -> Path:
    """A mutant of the series ``whole``, which is made if it is not there."""
    (patches / whole).mkdir(parents=True, exist_ok=True)
    manifest = patches / whole / "series.toml"
    manifest.write_text('dialect = "feature"\n')
    (patches / whole / "0001-a.patch").write_text(MAIL.format(subject="good", message="Good."))
    path = patches / "mutants" / whole / f"{name}.patch"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MAIL.format(subject=name, message=f"{text}\n\n{trailers}".strip()))
    return path


@pytest.fixture
def patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "patches"
    monkeypatch.setattr(options, "PATCHES", folder)
    return folder


def named(name: str, *caught_by: str, whole: str = "good", **more: str) -> Mutant:
    patch = Patch(f"{name}.patch", name.encode(), f"[PATCH] {name} is broken")
    return Mutant(whole, name, patch, "It hurts.", caught_by or ("MAP-01",), **more)


# --- the project's own


def test_the_mutants_of_the_project_are_well_formed_and_each_there_once() -> None:
    found = mutant.load(PATCHES, RULES)
    changes = Counter((one.series, one.patch.content.partition(b"\n---\n")[2]) for one in found)
    assert max(changes.values()) == 1
    assert max(Counter((one.series, one.subject) for one in found).values()) == 1


# --- what a patch has to say


def test_what_a_mutant_says(tmp_path: Path) -> None:
    put(tmp_path, "a-b", "Caught-by: MAP-03, RNG-02,\n MAP-03\nShown-by: debug kernel\nCaught-by: REV-01")
    (found,) = mutant.load(tmp_path, RULES)
    assert (found.id, found.subject) == ("good/a-b", "a-b")
    assert found.message == "A page is missing. A client reads nothing."
    assert found.caught_by == ("MAP-03", "RNG-02", "REV-01")
    assert found.needs_debug_kernel
    assert found.equivalent == ""


def test_a_mutant_that_is_equivalent_needs_nobody_to_catch_it(tmp_path: Path) -> None:
    put(tmp_path, "same", "Equivalent: the sum is never larger than that")
    (found,) = mutant.load(tmp_path, RULES)
    assert (found.caught_by, found.equivalent) == ((), "the sum is never larger than that")


@pytest.mark.parametrize(
    ("name", "text", "trailers", "said"),
    [
        ("a", TEXT, "", "holds 'A page is missing.'"),
        ("a", TEXT, "Signed-off-by: A <a@b.c>", "does not say which requirements must catch it"),
        ("a", TEXT, "Caught-by:", "holds 'Caught-by:'"),
        ("a", TEXT, "Caught-by: MAP-99", "names the requirement 'MAP-99'"),
        ("a", TEXT, "Caught-by: MAP-01 and REV-01", "names the requirement 'and'"),
        ("a", TEXT, "Cought-by: MAP-01", "holds 'Cought-by: MAP-01'"),
        ("a", TEXT, "Caught-by: MAP-01\nShown-by: luck", "is said to be shown by 'luck'"),
        ("a", "", "Caught-by: MAP-01", "has no message"),
        ("A_b", TEXT, "Caught-by: MAP-01", "lower-case letters, digits and dashes"),
    ],
)
def test_what_is_malformed_is_refused_with_a_sentence(
    tmp_path: Path, name: str, text: str, trailers: str, said: str
) -> None:
    path = put(tmp_path, name, trailers, text=text)
    with pytest.raises(UsageError) as refused:
        mutant.load(tmp_path, RULES)
    assert said in refused.value.message
    assert str(path) in refused.value.message


def test_a_folder_of_mutants_belongs_to_a_series(tmp_path: Path) -> None:
    put(tmp_path, "a")
    (tmp_path / "good" / "series.toml").unlink()
    with pytest.raises(UsageError, match="named after no series"):
        mutant.load(tmp_path, RULES)


def test_a_series_without_mutants_is_told_which_have_some(tmp_path: Path) -> None:
    put(tmp_path, "a")
    with pytest.raises(UsageError, match=r"no mutants of the series 'bad' .* have some: good\."):
        mutant.load(tmp_path, RULES, "bad")


@pytest.mark.parametrize("name", ["nw-zap", "../good/a", "no-zap.patch"])
def test_a_mutant_that_there_is_not(tmp_path: Path, name: str) -> None:
    put(tmp_path, "no-zap")
    with pytest.raises(UsageError, match="The series good has no mutant"):
        mutant.find(tmp_path, RULES, "good", name)
    with pytest.raises(UsageError, match=r"Did you mean no-zap\?"):
        mutant.find(tmp_path, RULES, "good", "nw-zap")


def test_a_mutant_is_the_series_and_one_patch_more(patches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(patches, "no-zap")
    monkeypatch.setattr(pipeline, "PATCHES", patches)
    whole = pipeline.load_series(Request(series="good"))
    broken = pipeline.load_series(Request(series="good", mutant="no-zap"))
    assert [patch.name for patch in broken.patches] == ["0001-a.patch", "no-zap.patch"]
    assert (broken.name, broken.dialect, broken.expect) == ("good+no-zap", "feature", whole.expect)
    assert broken.digest != whole.digest


@pytest.mark.parametrize("more", [{"patches": 1}, {"series": None, "tree": Path()}])
def test_a_mutant_of_half_a_series_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--mutant goes with --series alone"):
        Request(**{"series": "good", "mutant": "no-zap", **more})


# --- which mutants, and in which order


def ids(found: list[Mutant]) -> list[str]:
    return [one.id for one in found]


def test_debugging_kernels_come_last_and_series_stay_together(patches: Path) -> None:
    put(patches, "b", whole="one")
    put(patches, "a", "Caught-by: MAP-01\nShown-by: debug kernel", whole="one")
    put(patches, "c", whole="two")
    put(patches, "d", "Caught-by: MAP-02\nShown-by: second witness", whole="one")
    found = mutants.load(RULES, None, None, None)
    assert ids(found) == ["one/b", "one/d", "two/c", "one/a"]
    assert ids(mutants.load(RULES, "two", None, None)) == ["two/c"]
    jobs = mutants.jobs_of(found)
    assert [job.series.name for job in jobs] == ["one+b", "one+d", "one", "two+c", "two", "one+a", "one"]
    assert [job.debug for job in jobs] == [False] * 5 + [True] * 2
    assert options.KCONFIG / "debug.config" in jobs[-1].fragments
    assert jobs[2].key != jobs[-1].key  # the same series, configured otherwise


def test_killers_are_held_against_the_series_after_each_batch(
    patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutants, "BATCH", 2)
    for name in "abc":
        put(patches, name, whole="one")
    put(patches, "d", whole="two")
    *wanted, other = mutants.load(RULES, None, None, None)
    names = [job.series.name for job in mutants.jobs_of(wanted, [other])]
    assert names == ["one+a", "one+b", "one", "one+c", "one", "two"]
    assert [job.series.name for job in mutants.jobs_of(wanted[:1], wanted[1:])] == ["one+a", "one"]


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("zap", ["no-zap", "zap-late"]),
        ("zap and not LATE", ["no-zap"]),
        ("late or fault", ["fault", "zap-late"]),
    ],
)
def test_some_by_their_names(patches: Path, expression: str, found: list[str]) -> None:
    for name in ("fault", "no-zap", "zap-late"):
        put(patches, name)
    assert [one.name for one in mutants.load(RULES, None, expression, None)] == found


def test_an_expression_that_fits_nothing_or_is_none(patches: Path) -> None:
    put(patches, "no-zap")
    with pytest.raises(UsageError, match="fits -k 'huge'"):
        mutants.load(RULES, None, "huge", None)
    with pytest.raises(UsageError, match=r"'zap and \(' is not an expression"):
        mutants.load(RULES, None, "zap and (", None)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_the_parts_are_the_whole_and_no_mutant_is_in_two(patches: Path, parts: int) -> None:
    for name in "abcde":
        put(patches, name)
    shards = [mutants.load(RULES, None, None, f"{number}/{parts}") for number in range(1, parts + 1)]
    assert sorted(one.name for shard in shards for one in shard) == list("abcde")
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/4"])
def test_a_part_that_there_is_not(patches: Path, shard: str) -> None:
    put(patches, "a")
    with pytest.raises(UsageError, match="names no part: the second of four is 2/4"):
        mutants.load(RULES, None, None, shard)


# --- which scenarios, and in which order


class Item:
    """A collected test, as far as its markers go."""

    def __init__(self, name: str, *requirements: str, **asked: object) -> None:
        self.nodeid = name
        self._marks = [pytest.mark.requirement(*requirements).mark, pytest.mark.machine(**asked).mark]

    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        return (mark for mark in self._marks if mark.name == name)


ITEMS = cast(
    list[pytest.Item],
    [
        Item("map 1", "MAP-01"),
        Item("rev 1 alone", "REV-01", alone=True),
        Item("map 2 big", "MAP-02", "HUGE-01", big_ram=True),
        Item("rev 1", "REV-01", "MAP-03"),
        Item("map 3", "MAP-03"),
    ],
)


def order(items: list[pytest.Item]) -> list[str]:
    return [item.nodeid for item in items]


def test_those_that_must_see_a_mutant_come_first_and_share_machines() -> None:
    found = selection.first(in_order(ITEMS), ("REV-01", "MAP-03", "HUGE-01"))
    assert order(found) == ["rev 1", "map 3", "map 2 big", "rev 1 alone", "map 1"]


def test_the_order_of_the_ids_decides_among_those_of_one_machine() -> None:
    assert order(selection.first(in_order(ITEMS), ("MAP-03", "MAP-01")))[:3] == ["rev 1", "map 3", "map 1"]
    assert order(selection.first(in_order(ITEMS), ("MAP-01", "MAP-03")))[:3] == ["map 1", "rev 1", "map 3"]


def test_scenarios_by_requirement_or_group() -> None:
    chosen, others = selection.split(ITEMS, selection.ids_of(("MAP-03", "HUGE"), RULES))
    assert order(chosen) == ["map 2 big", "rev 1", "map 3"]
    assert order(others) == ["map 1", "rev 1 alone"]
    with pytest.raises(UsageError, match=r"no requirement 'MAP-99' .* the groups are LOG, MAP"):
        selection.ids_of(("MAP-99",), RULES)


def test_the_option_selects_scenarios() -> None:
    ask = ["--collect-only", "-q", "suites", "--requirement", "HUGE-11,MAP-13"]
    argv = [sys.executable, "-m", "pytest", *ask]
    said = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    files = {line.partition("::")[0] for line in said.splitlines() if "::" in line}
    assert {"suites/test_huge.py", "suites/test_map.py"} <= files
    assert not any(file.startswith("suites/test_bad_") for file in files)


# --- what a run says of a mutant

MAP = Entry("suites/test_map.py::test_map", Kind.SCENARIO, "It maps.", ("MAP-01", "MAP-02"))
REV = Entry("suites/test_revoke.py::test_revoke", Kind.SCENARIO, "It revokes.", ("REV-01",))
TOLD = Entry("suites/test_map.py::test_told", Kind.SCENARIO, "It is.", ("MAP-14",), strength=Strength.INFO)
KNOWN = Entry("suites/test_state.py::test_known", Kind.SCENARIO, "It loses.", ("STATE-01",), Verdict.VIOLATES)
BUILD = Entry("build", Kind.STAGE, "It builds.")
BOOT = Entry("boot", Kind.STAGE, "It boots.")
PLAN = (BUILD, BOOT, MAP, TOLD, KNOWN, REV)
GOOD = {BUILD.id: "conforms", BOOT.id: "conforms", MAP.id: "conforms", TOLD.id: "violates"}
GOOD |= {KNOWN.id: "violates", REV.id: "conforms"}


def recorded(folder: Path, outcomes: Mapping[str, str], *, ends: bool = True) -> Record:
    """A run that was written down as runs are; the outcome of an entry is "VERDICT: REASON", or a part.

    An entry that is not among the outcomes was not reached, one with an empty one is left open.
    """
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.plan(PLAN)
    journal.run_started()
    for entry, outcome in outcomes.items():
        if not entry.startswith("machine-"):
            journal.started(entry)
        word, _, reason = outcome.partition(": ")
        if entry.startswith("machine-"):
            journal.machine_ended(entry, reason, Verdict(word))
        elif word:
            journal.ended(entry, Verdict(word), reason=reason)
    if ends:
        journal.run_ended()
    return read(folder)


def until_killed(**outcomes: str) -> dict[str, str]:
    """What a run that ends at the first fault shows: all is well before the entries that are named."""
    by_name = {entry.title.split()[1].rstrip("s."): entry.id for entry in PLAN}
    named = {by_name[name]: outcome for name, outcome in outcomes.items()}
    reached = list(GOOD)[: list(GOOD).index(next(iter(named)))]
    return {**{entry: GOOD[entry] for entry in reached}, **named}


@pytest.mark.parametrize(
    ("outcomes", "fate", "shown_by", "reason"),
    [
        (until_killed(map="violates: 1 is not 2"), Fate.KILLED, MAP.id, "1 is not 2"),
        (until_killed(map="kernel-died: panic"), Fate.KILLED, MAP.id, "panic"),
        (until_killed(revoke="violates: lives"), Fate.MISTAKEN, REV.id, "lives"),
        (until_killed(lose="kernel-died: oops"), Fate.MISTAKEN, KNOWN.id, "oops"),
        (until_killed(boot="violates: silent"), Fate.MISTAKEN, BOOT.id, "silent"),
        (until_killed(build="violates: no ;"), Fate.ERROR, BUILD.id, "no ;"),
        (GOOD, Fate.SURVIVED, None, "4 scenarios did not see it"),
        (GOOD | {TOLD.id: "violates"}, Fate.SURVIVED, None, "4 scenarios did not see it"),
        (GOOD | {TOLD.id: "kernel-died: oops"}, Fate.MISTAKEN, TOLD.id, "oops"),
        (GOOD | {MAP.id: "not-applicable"}, Fate.SURVIVED, None, "4 scenarios did not see it"),
        (GOOD | {KNOWN.id: "conforms"}, Fate.SURVIVED, None, "4 scenarios did not see it"),
        (GOOD | {MAP.id: "harness-error: KeyError"}, Fate.ERROR, MAP.id, "KeyError"),
        # Nobody knows whether the right one would have seen it.
        (GOOD | {MAP.id: "harness-error: KeyError", REV.id: "violates"}, Fate.ERROR, MAP.id, "KeyError"),
        (GOOD | {REV.id: "violates: lives", KNOWN.id: "harness-error"}, Fate.MISTAKEN, REV.id, "lives"),
        ({}, Fate.ERROR, BUILD.id, "The run ended before it."),
    ],
)
def test_what_a_run_says_of_a_mutant(
    tmp_path: Path, outcomes: dict[str, str], fate: Fate, shown_by: str | None, reason: str
) -> None:
    said = judge(named("a", "MAP-02", "MAP-03"), recorded(tmp_path / "run", outcomes))
    assert (said[0], said[1].entry.id if said[1] else None, said[2]) == (fate, shown_by, reason)


def test_a_scenario_that_was_left_open_kills_nothing(tmp_path: Path) -> None:
    """Its record says that the kernel died, which is what stands there until it ends."""
    record = recorded(tmp_path / "run", until_killed(map=""), ends=False)
    assert {result.verdict for result in record.results if result.entry == MAP} == {Verdict.KERNEL_DIED}
    assert judge(named("a"), record)[0] is Fate.ERROR


def test_a_run_that_was_killed_after_its_last_scenario_says_nothing(tmp_path: Path) -> None:
    record = recorded(tmp_path / "run", GOOD, ends=False)
    assert judge(named("a"), record) == (Fate.ERROR, None, "The run did not come to its end.")


# --- what is kept of it


def trial_of(one: Mutant, fate: Fate = Fate.KILLED, **more: Any) -> Trial:
    known = {"id": one.id, "key": "key", "suites": "suites", "control": "control", "fate": fate}
    return Trial(**{**known, **more})


def test_a_journal_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    first = trial_of(
        named("a"), killer=MAP.id, requirements=("MAP-01",), verdict="violates", reason="ä\n\x1b"
    )
    ledger = Ledger(tmp_path)
    ledger.started(named("a"), "key")
    ledger.ended(first)
    ledger.started(named("b"), "key")
    ledger.controlled("control", Control({MAP.id}, {REV.id: "no"}))
    ledger.controlled("control", Control({BOOT.id}))
    for known in (ledger, Ledger(tmp_path)):
        assert known.trials == {"good/a": first}
        assert known.controls == {"control": Control({MAP.id, BOOT.id}, {REV.id: "no"})}


def test_a_torn_line_is_as_if_never_written(tmp_path: Path) -> None:
    Ledger(tmp_path).ended(trial_of(named("a")))
    with (tmp_path / "events.jsonl").open("a") as journal:
        journal.write('{"time": "2026-03-01T00:00:00+00:00", "event": "trial-en')
    ledger = Ledger(tmp_path)
    ledger.ended(trial_of(named("b")))
    assert list(Ledger(tmp_path).trials) == ["good/a", "good/b"]


@pytest.mark.parametrize("line", ["[]", '{"event": "trial-ended", "id": "a"}', '{"time": 1}', "x"])
def test_a_journal_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "events.jsonl").write_text(f"{line}\n")
    with pytest.raises(HarnessError, match=r"Line 1 of .*events\.jsonl cannot be read"):
        Ledger(tmp_path)


@pytest.mark.parametrize(
    ("fate", "held", "key", "suites", "done"),
    [
        (Fate.KILLED, True, "key", "suites", True),
        (Fate.KILLED, True, "key", "others", True),
        (Fate.KILLED, True, "changed", "suites", False),
        (Fate.KILLED, False, "key", "suites", True),  # all that is left to do is to hold it
        (Fate.KILLED, False, "key", "others", False),
        (Fate.SURVIVED, False, "key", "suites", True),
        (Fate.SURVIVED, False, "key", "others", False),
        (Fate.MISTAKEN, True, "key", "suites", True),
        (Fate.MISTAKEN, True, "key", "others", False),
        (Fate.ERROR, False, "key", "suites", False),
    ],
)
def test_what_need_not_be_tried_again(
    tmp_path: Path, fate: Fate, held: bool, key: str, suites: str, done: bool
) -> None:
    ledger = Ledger(tmp_path)
    assert not ledger.is_done(named("a"), key, suites)
    trial = trial_of(named("a"), fate, killer=MAP.id)
    ledger.ended(trial)
    ledger.controlled("control", Control({MAP.id} if held else {REV.id}))
    ledger.controlled("another", Control({MAP.id}))
    assert ledger.is_done(named("a"), key, suites) is done
    assert ledger.is_open(trial) is (trial.killed and not held)
    assert list(ledger.settled) == ([] if ledger.is_open(trial) else ["good/a"])


# --- what they add up to


@pytest.mark.parametrize(
    ("fates", "code", "said"),
    [
        ("KKE", ExitCode.OK, "Score: 2 of 2 mutants killed, 100.0 %, 1 equivalent and not counted"),
        ("E", ExitCode.OK, "Score: 0 of 0 mutants killed, 100.0 %, 1 equivalent and not counted"),
        ("KS", ExitCode.SERIES, "Score: 1 of 2 mutants killed, 50.0 %, 1 survived"),
        ("KM", ExitCode.SERIES, "Score: 1 of 2 mutants killed, 50.0 %, 1 killed by the wrong scenario"),
        ("KX", ExitCode.HARNESS, "Score: 1 of 2 mutants killed, 50.0 %, 1 could not be tried"),
        ("K-", ExitCode.HARNESS, "Score: 1 of 2 mutants killed, 50.0 %, 1 not tried to the end"),
        ("SX-", ExitCode.SERIES, "Score: 0 of 3 mutants killed, 0.0 %, 1 survived, 1 could not"),
    ],
)
def test_the_score(tmp_path: Path, fates: str, code: ExitCode, said: str) -> None:
    words = {"K": Fate.KILLED, "S": Fate.SURVIVED, "M": Fate.MISTAKEN, "X": Fate.ERROR}
    every = [named(f"m{n}", equivalent="same" if word == "E" else "") for n, word in enumerate(fates)]
    trials = {
        one.id: trial_of(one, words[word]) for one, word in zip(every, fates, strict=True) if word in words
    }
    reached = Score.of(every, trials)
    assert reached.exit_code is code
    stream = io.StringIO()
    report.show(reached, {one.id: one for one in every}, "suites", tmp_path, stream)
    assert said in stream.getvalue()
    assert "scenarios of before" not in stream.getvalue()


def test_the_report_tells_killers_survivors_and_nothing_raw(tmp_path: Path) -> None:
    every = [named("killed"), named("wrong"), named("lives"), named("broken"), named("same", equivalent="no")]
    trials = [
        trial_of(
            every[0],
            killer=MAP.id,
            requirements=MAP.requirements,
            verdict="violates",
            reason="1\x1b[2J",
            suites="old",
        ),
        trial_of(every[1], Fate.MISTAKEN, killer=REV.id, requirements=("REV-01",), verdict="kernel-died"),
        trial_of(every[2], Fate.SURVIVED, reason="4 scenarios did not see it", results="runs/good/lives"),
        trial_of(every[3], Fate.ERROR, reason="It does not build.", suites="old"),
    ]
    stream = io.StringIO()
    reached = Score.of(every, {trial.id: trial for trial in trials})
    report.show(reached, {one.id: one for one in every}, "suites", tmp_path, stream)
    said = stream.getvalue()
    assert f"  killed  good/killed\n      {MAP.id} (MAP-01, MAP-02): violates\n      1\\x1b[2J\n" in said
    assert f"! killed by the wrong scenario  good/wrong\n      {REV.id} (REV-01): kernel-died\n" in said
    assert "! survived  good/lives\n" in said
    assert "lives is broken: It hurts.\n      must be caught by MAP-01\n" in said
    assert f"results: {tmp_path}/runs/good/lives\n" in said
    assert "It does not build." in said
    assert "  equivalent  good/same: no\n" in said
    assert "1 of them were killed by the scenarios of before" in said


def test_the_list_shows_what_must_catch_each(capsys: pytest.CaptureFixture[str], patches: Path) -> None:
    put(patches, "a", "Caught-by: MAP-01, REV-01\nShown-by: concurrent fault")
    put(patches, "bb", "Equivalent: nobody looks")
    assert cli.main(["mutants", "--list"]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        "good/a   MAP-01, REV-01  a [concurrent fault]",
        "good/bb                  bb (equivalent: nobody looks)",
        "2 mutants of 1 series, 1 of them equivalent",
    ]


# --- the trials: recorded runs in the place of machines


SCENARIOS = (
    Scenario(MAP.id, MAP.requirements, ("feature",)),
    Scenario(REV.id, REV.requirements, ("feature",)),
)


class Recorded(Trials):
    """Trials of which each run has been recorded: ``outcomes`` by the name of a series or mutant."""

    def __init__(self, folder: Path, outcomes: Mapping[str, Any], *, quick: bool = False) -> None:
        self.said: list[str] = []
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        folder.mkdir(exist_ok=True)
        super().__init__(Store(folder / "cache"), folder, SCENARIOS, (), self.said.append, quick=quick)
        self.suites = "the same"  # whatever becomes of these files meanwhile
        self._outcomes = outcomes

    def _make(self, job: Job) -> Kernel:
        outcome = self._outcomes.get(job.series.name)
        if isinstance(outcome, PatchproofError):
            raise outcome
        return Kernel(Path("bzImage"), Path("include"), None, None, "6.19", job.key, "gcc")

    def _run(self, job: Job, *chosen: str) -> Record:
        self.asked.append((job.series.name, chosen))
        outcome = self._outcomes.get(job.series.name, GOOD)
        if isinstance(outcome, BaseException):
            raise outcome
        return recorded(self.folder / f"run-{len(list(self.folder.glob('run-*')))}", outcome)

    def fates(self) -> dict[str, Fate]:
        return {trial.id: trial.fate for trial in self.ledger.trials.values()}


@pytest.fixture
def three(patches: Path) -> list[Mutant]:
    put(patches, "a", "Caught-by: MAP-01")
    put(patches, "b", "Caught-by: REV-01")
    put(patches, "c", "Equivalent: nobody looks")
    return mutants.load(RULES, None, None, None)


KILL = until_killed(map="violates: 1 is not 2")


def test_each_mutant_is_tried_once_and_its_killer_on_the_series_itself(
    tmp_path: Path, three: list[Mutant]
) -> None:
    trials = Recorded(tmp_path / "results", {"good+a": KILL, "good+b": KILL})
    trials.run(three)
    assert trials.asked == [
        ("good+a", ("--mutant", "a", "--until-violated")),
        ("good+b", ("--mutant", "b", "--until-violated")),
        ("good", (MAP.id,)),
    ]
    assert trials.fates() == {"good/a": Fate.KILLED, "good/b": Fate.MISTAKEN}
    assert trials.ledger.trials["good/a"].killer == MAP.id
    again = Recorded(tmp_path / "results", {})
    again.run(three)
    assert again.asked == []
    assert again.said == [f"2 of 2 mutants were tried before: {again.folder}"]


def test_the_parts_can_be_put_together(tmp_path: Path, three: list[Mutant]) -> None:
    outcomes = {"good+a": KILL, "good+b": until_killed(revoke="violates: lives")}
    parts = [Recorded(tmp_path / part, outcomes) for part in ("1", "2")]
    parts[0].run(three[:1])
    parts[1].run(three[1:])
    (tmp_path / "whole").mkdir()
    events = b"".join((part.folder / "events.jsonl").read_bytes() for part in parts)
    (tmp_path / "whole" / "events.jsonl").write_bytes(events)
    whole = Recorded(tmp_path / "whole", {})
    whole.run(three)
    assert whole.asked == []
    assert set(whole.ledger.settled) == {"good/a", "good/b"}


@pytest.mark.parametrize("at", ["good+a", "good+b", "good"])
def test_a_run_that_was_ended_goes_on_with_what_was_in_progress(
    tmp_path: Path, three: list[Mutant], at: str
) -> None:
    outcomes = {"good+a": KILL, "good+b": until_killed(revoke="violates: lives")}
    ended = Recorded(tmp_path / "results", {**outcomes, at: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        ended.run(three)
    assert not ended.ledger.settled
    again = Recorded(tmp_path / "results", outcomes)
    again.run(three)
    every = ["good+a", "good+b", "good"]
    assert [name for name, _ in again.asked] == every[every.index(at) :]
    assert again.asked[-1][1] == (MAP.id, REV.id)
    assert again.fates() == {"good/a": Fate.KILLED, "good/b": Fate.KILLED}
    assert list(again.ledger.settled) == ["good/a", "good/b"]


def test_what_survives_its_own_scenarios_is_tried_with_the_others_later(
    tmp_path: Path, three: list[Mutant]
) -> None:
    outcomes = {"good+a": KILL}
    for _ in range(2):  # the second time there is nothing to do
        quick = Recorded(tmp_path / "results", outcomes, quick=True)
        quick.run(three)
        assert quick.fates() == {"good/a": Fate.KILLED, "good/b": Fate.SURVIVED}
    assert quick.asked == []
    every = Recorded(tmp_path / "results", {"good+b": until_killed(map="kernel-died")})
    every.run(three)
    assert every.asked == [("good+b", ("--mutant", "b", "--until-violated"))]  # its killer has passed before
    assert every.fates() == {"good/a": Fate.KILLED, "good/b": Fate.MISTAKEN}
    assert {trial.suites for trial in every.ledger.trials.values()} == {"the same"}
    again = Recorded(tmp_path / "results", {}, quick=True)
    again.run(three)
    assert again.asked == []


def test_a_mutant_that_was_changed_is_tried_again(tmp_path: Path, patches: Path, three: list[Mutant]) -> None:
    Recorded(tmp_path / "results", {"good+a": KILL, "good+b": KILL}).run(three)
    put(patches, "a", "Caught-by: MAP-02")
    again = Recorded(tmp_path / "results", {"good+a": GOOD})
    again.run(mutants.load(RULES, None, None, None))
    assert [name for name, _ in again.asked] == ["good+a"]
    assert again.fates()["good/a"] is Fate.SURVIVED


def test_a_mutant_that_does_not_build_is_an_error_and_the_next_one_is_tried(
    tmp_path: Path, three: list[Mutant]
) -> None:
    trials = Recorded(tmp_path / "results", {"good+a": BuildError("no ;"), "good+b": KILL})
    trials.run(three)
    assert trials.fates() == {"good/a": Fate.ERROR, "good/b": Fate.MISTAKEN}
    assert trials.ledger.trials["good/a"].reason == "no ;"
    assert Score.of(three[:1], trials.ledger.trials).exit_code is ExitCode.HARNESS


def test_requirements_that_no_scenario_checks_catch_nothing(tmp_path: Path, patches: Path) -> None:
    put(patches, "a", "Caught-by: RACE-02, RACE-01")
    put(patches, "b", "Caught-by: RACE-02, MAP-01")
    trials = Recorded(tmp_path / "results", {"good+a": KILL, "good+b": KILL})
    trials.run(mutants.load(RULES, None, None, None))
    assert trials.fates() == {"good/a": Fate.ERROR, "good/b": Fate.KILLED}
    why = "No scenario for the dialect feature checks RACE-02, RACE-01."
    assert trials.ledger.trials["good/a"].reason == why
    assert [name for name, _ in trials.asked] == ["good+b", "good"]


def test_what_shows_between_scenarios_is_held_against_the_series_too(
    tmp_path: Path, patches: Path, three: list[Mutant]
) -> None:
    loud = GOOD | {"machine-2": "violates: the kernel said: WARNING"}
    fine = Recorded(tmp_path / "fine", {"good+a": loud, "good+b": KILL})
    fine.run(three)
    assert fine.fates()["good/a"] is Fate.MISTAKEN
    assert fine.ledger.settled["good/a"].killer == "machine-2"
    broken = Recorded(tmp_path / "broken", {"good+a": loud, "good+b": KILL, "good": loud})
    broken.run(three)
    assert broken.fates()["good/a"] is Fate.ERROR


def test_a_control_that_is_going_on_keeps_its_folder(
    tmp_path: Path, three: list[Mutant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is built meanwhile; a mutant's folder is made anew."""

    def none(*_: object) -> None:
        raise HarnessError("no base")

    monkeypatch.setattr(pipeline, "get_base", none)
    (tmp_path / "results").mkdir()
    trials = Trials(Store(tmp_path / "cache"), tmp_path / "results", SCENARIOS, (), print)
    job = mutants.job_of(three[0])
    kept = {}
    for one in (job, job.without_fault):
        file = trials._place(one) / "events.jsonl"
        file.parent.mkdir(parents=True)
        file.touch()
        with pytest.raises(HarnessError, match="no base"):
            trials._make(one)
        kept[one.mutant is None] = file.exists()
    assert kept == {True: True, False: False}


@pytest.mark.parametrize(
    "verdict", ["violates: 1 is not 2", "not-applicable", "harness-error", "kernel-died"]
)
def test_a_killer_that_does_not_pass_on_the_series_itself_kills_nothing(
    tmp_path: Path, three: list[Mutant], verdict: str
) -> None:
    outcomes = {"good": GOOD | {MAP.id: verdict}, "good+a": KILL}
    trials = Recorded(tmp_path / "results", outcomes)
    trials.run(three)
    assert trials.fates() == {"good/a": Fate.ERROR, "good/b": Fate.SURVIVED}
    assert trials.ledger.trials["good/a"].reason.startswith(f"good itself does not pass {MAP.id}")
    assert f"! good/a: good itself does not pass {MAP.id}, so that shows nothing" in trials.said


def test_a_stage_that_killed_one_is_part_of_any_run_of_the_series(
    tmp_path: Path, three: list[Mutant]
) -> None:
    trials = Recorded(tmp_path / "results", {"good+a": until_killed(boot="violates: silent")})
    trials.run(three[:1])
    assert trials.asked[-1] == ("good", (SCENARIOS[0].id,))
    assert trials.fates() == {"good/a": Fate.MISTAKEN}
    assert trials.ledger.settled["good/a"].killer == BOOT.id


def test_a_series_that_does_not_come_to_its_end_is_no_measure(tmp_path: Path, three: list[Mutant]) -> None:
    class Cut(Recorded):
        def _run(self, job: Job, *chosen: str) -> Record:
            return replace(super()._run(job, *chosen), complete=job.mutant is not None)

    with pytest.raises(HarnessError, match="good itself did not come to its end"):
        Cut(tmp_path / "results", {"good+a": KILL}).run(three)


class Started(Recorded):
    """Trials of which each run is started as usual."""

    def _run(self, job: Job, *chosen: str) -> Record:
        return Trials._run(self, job, *chosen)


@pytest.mark.parametrize(
    ("digest", "reason"),
    [
        ("", "The run did not begin.\n    no room\nThe whole log: "),
        ("0" * 64, "The patches of good+a were changed while it was tried."),
        ("of the mutant", "1 is not 2"),
    ],
)
def test_what_a_program_left_behind(
    tmp_path: Path, three: list[Mutant], monkeypatch: pytest.MonkeyPatch, digest: str, reason: str
) -> None:
    tried = mutants.job_of(three[0]).series.digest

    def wait_for(argv: list[str], output: IO[bytes]) -> int:
        if "--mutant" not in argv or not digest:
            output.write(b"no room\n")
            return 2
        folder = Path(argv[argv.index("--results") + 1]) / "latest"
        recorded(folder, KILL)
        (folder / "run.json").write_text(json.dumps({"digest": digest.replace("of the mutant", tried)}))
        return 1

    monkeypatch.setattr(mutants.command, "wait_for", wait_for)
    trials = Started(tmp_path / "results", {})
    if digest == "of the mutant":
        with pytest.raises(HarnessError, match=r"The run did not begin\."):  # that of the series itself
            trials.run(three[:1])
    else:
        trials.run(three[:1])
    assert trials.ledger.trials["good/a"].reason.startswith(reason)


def test_one_run_at_a_time_has_the_folder(tmp_path: Path) -> None:
    taken = pytest.raises(HarnessError, match="Another run tries mutants in")
    with mutants.alone(tmp_path / "results"), taken, mutants.alone(tmp_path / "results"):
        pass
    with mutants.alone(tmp_path / "results"):
        pass


# --- on the real kernel

NAME = "fault-forgets-the-offset-of-the-mapping"
A_WHOLE_BUILD = 3600.0  # seconds, on a slow host, where the build folder is empty


def told(results: Path, event: str) -> list[dict[str, Any]]:
    """The events of this kind so far."""
    path = results / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [one for one in map(json.loads, lines) if one["event"] == event]


@pytest.mark.vm
def test_a_mutant_of_the_real_kernel_is_killed_though_the_run_was_ended_before(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ["mutants", "--series", "reference-feature", "-k", NAME, "--results", results]
    with Invocation(*arguments, mark=tmp_path) as ended:

        def begun() -> bool:
            return bool(told(results, "trial-started")) or ended.process.poll() is not None

        until(begun, "the trial", patience=A_WHOLE_BUILD)
        ended.process.send_signal(signal.SIGINT)
        assert ended.end() == ExitCode.INTERRUPTED
        assert not ended.children()
    assert "Score: 0 of 1 mutants killed, 0.0 %, 1 not tried to the end" in ended.output
    assert not told(results, "trial-ended")

    code, output = run(*arguments, mark=tmp_path)
    assert code == ExitCode.OK, output
    assert "Score: 1 of 1 mutants killed, 100.0 %" in output
    (control,) = told(results, "control-ended")
    (trial,) = told(results, "trial-ended")
    assert (trial["fate"], trial["verdict"]) == ("killed", "violates")
    assert {"RNG-01", "RNG-04"}.intersection(trial["requirements"])
    assert trial["killer"] in control["passed"]
    tested = json.loads((results / trial["results"] / "run.json").read_text())
    assert not Store().path("kernel", tested["kernel"]).exists()

    code, output = run(*arguments, mark=tmp_path)
    assert code == ExitCode.OK
    assert "1 of 1 mutants were tried before" in output
    assert told(results, "trial-ended") == [trial]
