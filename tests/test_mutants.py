"""Mutants: their patches, the order in which they are tried, and the score of their runs."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import pytest
from small_run import PROJECT, Invocation, run, until

from harness.cli import main
from harness.journal.reader import read
from harness.journal.writer import JournalWriter
from harness.kernel.build import Kernel
from harness.lib import command, paths
from harness.lib.cache import Store
from harness.lib.errors import BuildError, ExitCode, HarnessError, PatchproofError, UsageError
from harness.lib.paths import PATCHES
from harness.mutants import jobs as jobs_module
from harness.mutants import report
from harness.mutants import selection as mutants
from harness.mutants import trials as trials_module
from harness.mutants.fate import Fate, judge
from harness.mutants.jobs import Job, job_of, jobs_of
from harness.mutants.ledger import CleanRun, Ledger, MutantTrial, Score
from harness.mutants.trials import Trials, locked
from harness.plugin import selection
from harness.plugin.expression import KeywordExpression
from harness.plugin.order import first, in_order
from harness.run import request
from harness.run.request import Request
from harness.series import mutant
from harness.series.mutant import Mutant
from harness.series.series import Patch
from harness.verdict.record import Entry, Record
from harness.verdict.requirements import Scenario
from harness.verdict.requirements import load as load_requirements
from harness.verdict.verdict import Kind, Strength, Verdict

RULES = load_requirements()
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


def write_mutant(
    patches: Path, name: str, trailers: str = "Caught-by: MAP-01", whole: str = "good", text: str = TEXT
) -> Path:
    """Write a mutant of the series ``whole``; write the series, too."""
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
    monkeypatch.setattr(paths, "PATCHES", folder)
    return folder


def make_mutant(name: str, *caught_by: str, whole: str = "good", **more: str) -> Mutant:
    patch = Patch(f"{name}.patch", name.encode(), f"[PATCH] {name} is broken")
    return Mutant(whole, name, patch, "It hurts.", caught_by or ("MAP-01",), **more)


# --- the project's own


def test_own_mutants_are_wellformed_and_unique() -> None:
    found = mutant.load(PATCHES, RULES)
    changes = Counter((one.series, one.patch.content.partition(b"\n---\n")[2]) for one in found)
    assert max(changes.values()) == 1
    assert max(Counter((one.series, one.subject) for one in found).values()) == 1


# --- what a patch has to say


def test_mutant_has_its_trailers_and_message(tmp_path: Path) -> None:
    write_mutant(
        tmp_path, "a-b", "Caught-by: MAP-03, RNG-02,\n MAP-03\nShown-by: debug kernel\nCaught-by: REV-01"
    )
    (found,) = mutant.load(tmp_path, RULES)
    assert (found.id, found.subject) == ("good/a-b", "a-b")
    assert found.message == "A page is missing. A client reads nothing."
    assert found.caught_by == ("MAP-03", "RNG-02", "REV-01")
    assert found.needs_debug_kernel
    assert found.equivalent == ""


def test_equivalent_mutant_needs_no_requirement(tmp_path: Path) -> None:
    write_mutant(tmp_path, "same", "Equivalent: the sum is never larger than that")
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
def test_malformed_mutant_is_refused(tmp_path: Path, name: str, text: str, trailers: str, said: str) -> None:
    path = write_mutant(tmp_path, name, trailers, text=text)
    with pytest.raises(UsageError) as refused:
        mutant.load(tmp_path, RULES)
    assert said in refused.value.message
    assert str(path) in refused.value.message


def test_mutants_of_no_series_are_refused(tmp_path: Path) -> None:
    write_mutant(tmp_path, "a")
    (tmp_path / "good" / "series.toml").unlink()
    with pytest.raises(UsageError, match="named after no series"):
        mutant.load(tmp_path, RULES)


def test_series_without_mutants_is_refused(tmp_path: Path) -> None:
    write_mutant(tmp_path, "a")
    with pytest.raises(UsageError, match=r"no mutants of the series 'bad' .* have some: good\."):
        mutant.load(tmp_path, RULES, "bad")


@pytest.mark.parametrize("name", ["nw-zap", "../good/a", "no-zap.patch"])
def test_find_of_an_unknown_mutant_is_refused(tmp_path: Path, name: str) -> None:
    write_mutant(tmp_path, "no-zap")
    with pytest.raises(UsageError, match="The series good has no mutant"):
        mutant.find(tmp_path, RULES, "good", name)
    with pytest.raises(UsageError, match=r"Did you mean no-zap\?"):
        mutant.find(tmp_path, RULES, "good", "nw-zap")


def test_mutant_is_the_series_and_one_more_patch(patches: Path) -> None:
    write_mutant(patches, "no-zap")
    whole = request.load(Request(series="good")).series
    given = request.load(Request(series="good", mutant="no-zap"))
    broken = given.series
    assert given.caught_by == ("MAP-01",)
    assert [patch.name for patch in broken.patches] == ["0001-a.patch", "no-zap.patch"]
    assert (broken.name, broken.dialect, broken.expect) == ("good+no-zap", "feature", whole.expect)
    assert broken.digest != whole.digest


@pytest.mark.parametrize("more", [{"patches": 1}, {"series": None, "tree": Path()}])
def test_mutant_of_a_prefix_or_a_tree_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--mutant goes with --series alone"):
        Request(**{"series": "good", "mutant": "no-zap", **more})


# --- which mutants, and in which order


def ids(found: list[Mutant]) -> list[str]:
    return [one.id for one in found]


def test_jobs_keep_series_together_debug_last(patches: Path) -> None:
    write_mutant(patches, "b", whole="one")
    write_mutant(patches, "a", "Caught-by: MAP-01\nShown-by: debug kernel", whole="one")
    write_mutant(patches, "c", whole="two")
    write_mutant(patches, "d", "Caught-by: MAP-02\nShown-by: second witness", whole="one")
    found = mutants.load(RULES, None, None, None)
    assert ids(found) == ["one/b", "one/d", "two/c", "one/a"]
    assert ids(mutants.load(RULES, "two", None, None)) == ["two/c"]
    jobs = jobs_of(found)
    assert [job.series.name for job in jobs] == ["one+b", "one+d", "one", "two+c", "two", "one+a", "one"]
    assert [job.debug for job in jobs] == [False] * 5 + [True] * 2
    assert paths.KCONFIG / "debug.config" in jobs[-1].fragments
    assert jobs[2].key != jobs[-1].key  # the same series, configured otherwise


def test_jobs_have_a_control_after_each_batch(patches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "BATCH", 2)
    for name in "abc":
        write_mutant(patches, name, whole="one")
    write_mutant(patches, "d", whole="two")
    *wanted, other = mutants.load(RULES, None, None, None)
    names = [job.series.name for job in jobs_of(wanted, [other])]
    assert names == ["one+a", "one+b", "one", "one+c", "one", "two"]
    assert [job.series.name for job in jobs_of(wanted[:1], wanted[1:])] == ["one+a", "one"]


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("zap", ["no-zap", "zap-late"]),
        ("zap and not LATE", ["no-zap"]),
        ("late or fault", ["fault", "zap-late"]),
    ],
)
def test_load_selects_by_expression(patches: Path, expression: str, found: list[str]) -> None:
    for name in ("fault", "no-zap", "zap-late"):
        write_mutant(patches, name)
    assert [one.name for one in mutants.load(RULES, None, KeywordExpression.parse(expression), None)] == found


def test_load_with_a_useless_expression_is_refused(patches: Path) -> None:
    write_mutant(patches, "no-zap")
    with pytest.raises(UsageError, match="fits -k 'huge'"):
        mutants.load(RULES, None, KeywordExpression.parse("huge"), None)
    with pytest.raises(UsageError, match=r"'zap and \(' is not an expression"):
        KeywordExpression.parse("zap and (")


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_shards_are_disjoint_and_complete(patches: Path, parts: int) -> None:
    for name in "abcde":
        write_mutant(patches, name)
    shards = [mutants.load(RULES, None, None, f"{number}/{parts}") for number in range(1, parts + 1)]
    assert sorted(one.name for shard in shards for one in shard) == list("abcde")
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/4"])
def test_shard_that_does_not_exist_is_refused(patches: Path, shard: str) -> None:
    write_mutant(patches, "a")
    with pytest.raises(UsageError, match="is no part: write 2/4 for the second of four"):
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


def test_first_puts_catching_scenarios_first() -> None:
    found = first(in_order(ITEMS), ("REV-01", "MAP-03", "HUGE-01"))
    assert order(found) == ["rev 1", "map 3", "map 2 big", "rev 1 alone", "map 1"]


def test_first_follows_the_order_of_the_ids() -> None:
    assert order(first(in_order(ITEMS), ("MAP-03", "MAP-01")))[:3] == ["rev 1", "map 3", "map 1"]
    assert order(first(in_order(ITEMS), ("MAP-01", "MAP-03")))[:3] == ["map 1", "rev 1", "map 3"]


def test_split_by_requirement_or_group() -> None:
    chosen, others = selection.split(ITEMS, selection.ids_of(("MAP-03", "HUGE"), RULES))
    assert order(chosen) == ["map 2 big", "rev 1", "map 3"]
    assert order(others) == ["map 1", "rev 1 alone"]
    with pytest.raises(UsageError, match=r"no requirement 'MAP-99' .* the groups are LOG, MAP"):
        selection.ids_of(("MAP-99",), RULES)


def test_option_requirement_selects_scenarios() -> None:
    ask = ["run", "--collect-only", "-q", "--requirement", "HUGE-11,MAP-13"]
    argv = [sys.executable, "-m", "harness", *ask]
    said = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    files = {line.partition("::")[0] for line in said.splitlines() if "::" in line}
    assert {"suites/test_huge.py", "suites/test_map.py"} <= files
    assert not any(file.startswith("suites/test_bad_") for file in files)


# --- what a run says of a mutant

MAP = Entry("suites/test_map.py::test_map", Kind.SCENARIO, "It maps.", ("MAP-01", "MAP-02"))
REV = Entry("suites/test_revoke.py::test_revoke", Kind.SCENARIO, "It revokes.", ("REV-01",))
INFORMATION = Entry(
    "suites/test_map.py::test_told", Kind.SCENARIO, "It is.", ("MAP-14",), strength=Strength.INFO
)
KNOWN = Entry("suites/test_state.py::test_known", Kind.SCENARIO, "It loses.", ("STATE-01",), Verdict.VIOLATES)
BUILD = Entry("build", Kind.STAGE, "It builds.")
BOOT = Entry("boot", Kind.STAGE, "It boots.")
PLAN = (BUILD, BOOT, MAP, INFORMATION, KNOWN, REV)
GOOD = {BUILD.id: "conforms", BOOT.id: "conforms", MAP.id: "conforms", INFORMATION.id: "violates"}
GOOD |= {KNOWN.id: "violates", REV.id: "conforms"}


def recorded(folder: Path, outcomes: Mapping[str, str], *, ends: bool = True) -> Record:
    """Record a run in which each entry has its outcome, "VERDICT: REASON" or "VERDICT".

    An entry without an outcome was not reached; one with an empty outcome is left open.
    """
    folder.mkdir(parents=True)
    journal = JournalWriter(folder)
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
    """Return the outcomes of a run that ends at its first fault; entries before them are good."""
    by_name = {entry.title.split()[1].rstrip("s."): entry.id for entry in PLAN}
    given = {by_name[name]: outcome for name, outcome in outcomes.items()}
    reached = list(GOOD)[: list(GOOD).index(next(iter(given)))]
    return {**{entry: GOOD[entry] for entry in reached}, **given}


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
        (GOOD | {INFORMATION.id: "violates"}, Fate.SURVIVED, None, "4 scenarios did not see it"),
        (GOOD | {INFORMATION.id: "kernel-died: oops"}, Fate.MISTAKEN, INFORMATION.id, "oops"),
        (GOOD | {MAP.id: "not-applicable"}, Fate.SURVIVED, None, "4 scenarios did not see it"),
        (GOOD | {KNOWN.id: "conforms"}, Fate.SURVIVED, None, "4 scenarios did not see it"),
        (GOOD | {MAP.id: "harness-error: KeyError"}, Fate.ERROR, MAP.id, "KeyError"),
        # The scenario that must catch the mutant gave no verdict.
        (GOOD | {MAP.id: "harness-error: KeyError", REV.id: "violates"}, Fate.ERROR, MAP.id, "KeyError"),
        (GOOD | {REV.id: "violates: lives", KNOWN.id: "harness-error"}, Fate.MISTAKEN, REV.id, "lives"),
        ({}, Fate.ERROR, BUILD.id, "The run ended before it."),
    ],
)
def test_judge_gives_a_mutant_its_fate(
    tmp_path: Path, outcomes: dict[str, str], fate: Fate, shown_by: str | None, reason: str
) -> None:
    said = judge(make_mutant("a", "MAP-02", "MAP-03"), recorded(tmp_path / "run", outcomes))
    assert (said[0], said[1].entry.id if said[1] else None, said[2]) == (fate, shown_by, reason)


def test_judge_of_an_open_scenario_is_an_error(tmp_path: Path) -> None:
    """The record of an open scenario says that the kernel died; that kills no mutant."""
    record = recorded(tmp_path / "run", until_killed(map=""), ends=False)
    assert {result.verdict for result in record.results if result.entry == MAP} == {Verdict.KERNEL_DIED}
    assert judge(make_mutant("a"), record)[0] is Fate.ERROR


def test_judge_of_a_run_without_an_end_is_an_error(tmp_path: Path) -> None:
    record = recorded(tmp_path / "run", GOOD, ends=False)
    assert judge(make_mutant("a"), record) == (Fate.ERROR, None, "The run did not come to its end.")


# --- what is kept of it


def trial_of(one: Mutant, fate: Fate = Fate.KILLED, **more: Any) -> MutantTrial:
    known = {"id": one.id, "key": "key", "suites": "suites", "control": "control", "fate": fate}
    return MutantTrial(**{**known, **more})


def test_trial_ended_has_its_run_and_its_killer(tmp_path: Path) -> None:
    one = make_mutant("a", "MAP-02")
    record = recorded(tmp_path / "run", until_killed(map="violates"))
    open_trial = trial_of(one, Fate.ERROR, results="runs/a")
    killed = open_trial.ended(*judge(one, record), run="1", seconds=2.34)
    assert (killed.fate, killed.killer, killed.verdict) == (Fate.KILLED, MAP.id, "violates")
    assert (killed.requirements, killed.results, killed.seconds) == (MAP.requirements, "runs/a/1", 2.3)
    unseen = open_trial.ended(Fate.SURVIVED, None, "nobody saw it", run="2", seconds=1)
    assert unseen == replace(
        open_trial, fate=Fate.SURVIVED, reason="nobody saw it", results="runs/a/2", seconds=1
    )


def test_ledger_is_read_back_as_written(tmp_path: Path) -> None:
    first = trial_of(
        make_mutant("a"), killer=MAP.id, requirements=("MAP-01",), verdict="violates", reason="ä\n\x1b"
    )
    ledger = Ledger(tmp_path)
    ledger.started(make_mutant("a"), "key")
    ledger.ended(first)
    ledger.started(make_mutant("b"), "key")
    ledger.controlled("control", CleanRun({MAP.id}, {REV.id: "no"}))
    ledger.controlled("control", CleanRun({BOOT.id}))
    for known in (ledger, Ledger(tmp_path)):
        assert known.trials == {"good/a": first}
        assert known.controls == {"control": CleanRun({MAP.id, BOOT.id}, {REV.id: "no"})}


def test_ledger_ignores_a_torn_line(tmp_path: Path) -> None:
    Ledger(tmp_path).ended(trial_of(make_mutant("a")))
    with (tmp_path / "events.jsonl").open("a") as journal:
        journal.write('{"time": "2026-03-01T00:00:00+00:00", "event": "trial-en')
    ledger = Ledger(tmp_path)
    ledger.ended(trial_of(make_mutant("b")))
    assert list(Ledger(tmp_path).trials) == ["good/a", "good/b"]


@pytest.mark.parametrize("line", ["[]", '{"event": "trial-ended", "id": "a"}', '{"time": 1}', "x"])
def test_malformed_ledger_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "events.jsonl").write_text(f"{line}\n")
    with pytest.raises(HarnessError, match=r"Line 1 of .*events\.jsonl cannot be read"):
        Ledger(tmp_path)


@pytest.mark.parametrize(
    ("fate", "held", "key", "suites", "done"),
    [
        (Fate.KILLED, True, "key", "suites", True),
        (Fate.KILLED, True, "key", "others", True),
        (Fate.KILLED, True, "changed", "suites", False),
        (Fate.KILLED, False, "key", "suites", True),  # only the control is left to run
        (Fate.KILLED, False, "key", "others", False),
        (Fate.SURVIVED, False, "key", "suites", True),
        (Fate.SURVIVED, False, "key", "others", False),
        (Fate.MISTAKEN, True, "key", "suites", True),
        (Fate.MISTAKEN, True, "key", "others", False),
        (Fate.ERROR, False, "key", "suites", False),
    ],
)
def test_trial_is_done_if_nothing_has_changed(
    tmp_path: Path, fate: Fate, held: bool, key: str, suites: str, done: bool
) -> None:
    ledger = Ledger(tmp_path)
    assert not ledger.is_done(make_mutant("a"), key, suites)
    trial = trial_of(make_mutant("a"), fate, killer=MAP.id)
    ledger.ended(trial)
    ledger.controlled("control", CleanRun({MAP.id} if held else {REV.id}))
    ledger.controlled("another", CleanRun({MAP.id}))
    assert ledger.is_done(make_mutant("a"), key, suites) is done
    assert ledger.is_unconfirmed(trial) is (trial.killed and not held)
    assert list(ledger.confirmed) == ([] if ledger.is_unconfirmed(trial) else ["good/a"])


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
def test_score_counts_fates_and_has_its_exit_code(
    tmp_path: Path, fates: str, code: ExitCode, said: str
) -> None:
    words = {"K": Fate.KILLED, "S": Fate.SURVIVED, "M": Fate.MISTAKEN, "X": Fate.ERROR}
    every = [make_mutant(f"m{n}", equivalent="same" if word == "E" else "") for n, word in enumerate(fates)]
    trials = {
        one.id: trial_of(one, words[word]) for one, word in zip(every, fates, strict=True) if word in words
    }
    reached = Score.of(every, trials)
    assert reached.exit_code is code
    stream = io.StringIO()
    report.show(reached, {one.id: one for one in every}, "suites", tmp_path, stream)
    assert said in stream.getvalue()
    assert "earlier version" not in stream.getvalue()


def test_report_names_killers_and_survivors(tmp_path: Path) -> None:
    every = [
        make_mutant("killed"),
        make_mutant("wrong"),
        make_mutant("lives"),
        make_mutant("broken"),
        make_mutant("same", equivalent="no"),
    ]
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
    assert "1 of them were killed by an earlier version of the scenarios" in said


def test_list_shows_the_requirements_of_each_mutant(
    capsys: pytest.CaptureFixture[str], patches: Path
) -> None:
    write_mutant(patches, "a", "Caught-by: MAP-01, REV-01\nShown-by: concurrent fault")
    write_mutant(patches, "bb", "Equivalent: nobody looks")
    assert main.main(["mutants", "--list"]) == ExitCode.OK
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


class RecordedTrials(Trials):
    """Trials with recorded runs: ``outcomes`` by the name of a series or mutant."""

    def __init__(self, folder: Path, outcomes: Mapping[str, Any], *, quick: bool = False) -> None:
        self.said: list[str] = []
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        folder.mkdir(exist_ok=True)
        super().__init__(Store(folder / "cache"), folder, SCENARIOS, Request(), self.said.append, quick=quick)
        self.suites = "the same"  # also if somebody edits the suites during the test
        self._outcomes = outcomes

    def make(self, job: Job) -> Kernel:
        outcome = self._outcomes.get(job.series.name)
        if isinstance(outcome, PatchproofError):
            raise outcome
        return Kernel(Path("bzImage"), Path("include"), None, None, "6.19", job.key, "gcc")

    def run_suites(self, job: Job, request: Request, scenarios: Iterable[str] = ()) -> Record:
        asked = replace(request, series=None, mutant=None).arguments()
        asked += [f"--mutant={request.mutant}"] if request.mutant is not None else []
        self.asked.append((job.series.name, (*asked, *scenarios)))
        outcome = self._outcomes.get(job.series.name, GOOD)
        if isinstance(outcome, BaseException):
            raise outcome
        return recorded(self.folder / f"run-{len(list(self.folder.glob('run-*')))}", outcome)

    def fates(self) -> dict[str, Fate]:
        return {trial.id: trial.fate for trial in self.ledger.trials.values()}


@pytest.fixture
def three(patches: Path) -> list[Mutant]:
    write_mutant(patches, "a", "Caught-by: MAP-01")
    write_mutant(patches, "b", "Caught-by: REV-01")
    write_mutant(patches, "c", "Equivalent: nobody looks")
    return mutants.load(RULES, None, None, None)


KILL = until_killed(map="violates: 1 is not 2")


def test_trials_try_each_mutant_once_and_its_killer(tmp_path: Path, three: list[Mutant]) -> None:
    trials = RecordedTrials(tmp_path / "results", {"good+a": KILL, "good+b": KILL})
    trials.run(three)
    assert trials.asked == [
        ("good+a", ("--until-violated", "--mutant=a")),
        ("good+b", ("--until-violated", "--mutant=b")),
        ("good", (MAP.id,)),
    ]
    assert trials.fates() == {"good/a": Fate.KILLED, "good/b": Fate.MISTAKEN}
    assert trials.ledger.trials["good/a"].killer == MAP.id
    again = RecordedTrials(tmp_path / "results", {})
    again.run(three)
    assert again.asked == []
    assert again.said == [f"2 of 2 mutants were tried before: {again.folder}"]


def test_ledgers_of_shards_can_be_joined(tmp_path: Path, three: list[Mutant]) -> None:
    outcomes = {"good+a": KILL, "good+b": until_killed(revoke="violates: lives")}
    parts = [RecordedTrials(tmp_path / part, outcomes) for part in ("1", "2")]
    parts[0].run(three[:1])
    parts[1].run(three[1:])
    (tmp_path / "whole").mkdir()
    events = b"".join((part.folder / "events.jsonl").read_bytes() for part in parts)
    (tmp_path / "whole" / "events.jsonl").write_bytes(events)
    whole = RecordedTrials(tmp_path / "whole", {})
    whole.run(three)
    assert whole.asked == []
    assert set(whole.ledger.confirmed) == {"good/a", "good/b"}


@pytest.mark.parametrize("at", ["good+a", "good+b", "good"])
def test_interrupted_trials_continue_where_they_were(tmp_path: Path, three: list[Mutant], at: str) -> None:
    outcomes = {"good+a": KILL, "good+b": until_killed(revoke="violates: lives")}
    ended = RecordedTrials(tmp_path / "results", {**outcomes, at: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        ended.run(three)
    assert not ended.ledger.confirmed
    again = RecordedTrials(tmp_path / "results", outcomes)
    again.run(three)
    every = ["good+a", "good+b", "good"]
    assert [name for name, _ in again.asked] == every[every.index(at) :]
    assert again.asked[-1][1] == (MAP.id, REV.id)
    assert again.fates() == {"good/a": Fate.KILLED, "good/b": Fate.KILLED}
    assert list(again.ledger.confirmed) == ["good/a", "good/b"]


def test_quick_survivor_is_tried_with_all_scenarios(tmp_path: Path, three: list[Mutant]) -> None:
    outcomes = {"good+a": KILL}
    for _ in range(2):  # the second time every trial is done
        quick = RecordedTrials(tmp_path / "results", outcomes, quick=True)
        quick.run(three)
        assert quick.fates() == {"good/a": Fate.KILLED, "good/b": Fate.SURVIVED}
    assert quick.asked == []
    every = RecordedTrials(tmp_path / "results", {"good+b": until_killed(map="kernel-died")})
    every.run(three)
    assert every.asked == [
        ("good+b", ("--until-violated", "--mutant=b"))
    ]  # its killer has passed the control before
    assert every.fates() == {"good/a": Fate.KILLED, "good/b": Fate.MISTAKEN}
    assert {trial.suites for trial in every.ledger.trials.values()} == {"the same"}
    again = RecordedTrials(tmp_path / "results", {}, quick=True)
    again.run(three)
    assert again.asked == []


def test_changed_mutant_is_tried_again(tmp_path: Path, patches: Path, three: list[Mutant]) -> None:
    RecordedTrials(tmp_path / "results", {"good+a": KILL, "good+b": KILL}).run(three)
    write_mutant(patches, "a", "Caught-by: MAP-02")
    again = RecordedTrials(tmp_path / "results", {"good+a": GOOD})
    again.run(mutants.load(RULES, None, None, None))
    assert [name for name, _ in again.asked] == ["good+a"]
    assert again.fates()["good/a"] is Fate.SURVIVED


def test_mutant_that_does_not_build_is_an_error(tmp_path: Path, three: list[Mutant]) -> None:
    trials = RecordedTrials(tmp_path / "results", {"good+a": BuildError("no ;"), "good+b": KILL})
    trials.run(three)
    assert trials.fates() == {"good/a": Fate.ERROR, "good/b": Fate.MISTAKEN}
    assert trials.ledger.trials["good/a"].reason == "no ;"
    assert Score.of(three[:1], trials.ledger.trials).exit_code is ExitCode.HARNESS


def test_mutant_without_a_checking_scenario_is_an_error(tmp_path: Path, patches: Path) -> None:
    write_mutant(patches, "a", "Caught-by: RACE-02, RACE-01")
    write_mutant(patches, "b", "Caught-by: RACE-02, MAP-01")
    trials = RecordedTrials(tmp_path / "results", {"good+a": KILL, "good+b": KILL})
    trials.run(mutants.load(RULES, None, None, None))
    assert trials.fates() == {"good/a": Fate.ERROR, "good/b": Fate.KILLED}
    why = "No scenario for the dialect feature checks RACE-02, RACE-01."
    assert trials.ledger.trials["good/a"].reason == why
    assert [name for name, _ in trials.asked] == ["good+b", "good"]


def test_complaint_between_scenarios_needs_a_control(
    tmp_path: Path, patches: Path, three: list[Mutant]
) -> None:
    loud = GOOD | {"machine-2": "violates: the kernel said: WARNING"}
    fine = RecordedTrials(tmp_path / "fine", {"good+a": loud, "good+b": KILL})
    fine.run(three)
    assert fine.fates()["good/a"] is Fate.MISTAKEN
    assert fine.ledger.confirmed["good/a"].killer == "machine-2"
    broken = RecordedTrials(tmp_path / "broken", {"good+a": loud, "good+b": KILL, "good": loud})
    broken.run(three)
    assert broken.fates()["good/a"] is Fate.ERROR


def test_control_in_progress_keeps_its_folder(
    tmp_path: Path, three: list[Mutant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next kernel is built while the control runs; a mutant's folder is made anew."""

    def none(*_: object) -> None:
        raise HarnessError("no base")

    monkeypatch.setattr(trials_module, "fetch_base", none)
    results = tmp_path / "results"
    mutants_file, controls_file = results / "runs/good/a/events.jsonl", results / "controls/good/events.jsonl"
    for file in (mutants_file, controls_file):
        file.parent.mkdir(parents=True)
        file.touch()
    trials = Trials(Store(tmp_path / "cache"), results, SCENARIOS, Request(), print)
    with pytest.raises(HarnessError, match="no base"):
        trials.run(three[:1])
    assert trials.ledger.trials["good/a"].reason == "no base"
    assert [file.exists() for file in (mutants_file, controls_file)] == [False, True]


@pytest.mark.parametrize(
    "verdict", ["violates: 1 is not 2", "not-applicable", "harness-error", "kernel-died"]
)
def test_killer_that_fails_on_the_series_is_an_error(
    tmp_path: Path, three: list[Mutant], verdict: str
) -> None:
    outcomes = {"good": GOOD | {MAP.id: verdict}, "good+a": KILL}
    trials = RecordedTrials(tmp_path / "results", outcomes)
    trials.run(three)
    assert trials.fates() == {"good/a": Fate.ERROR, "good/b": Fate.SURVIVED}
    assert trials.ledger.trials["good/a"].reason.startswith(f"good fails {MAP.id} without a fault")
    assert f"! good/a: good fails {MAP.id} without a fault, so the trial proves nothing" in trials.said


def test_stage_that_killed_is_part_of_any_control(tmp_path: Path, three: list[Mutant]) -> None:
    trials = RecordedTrials(tmp_path / "results", {"good+a": until_killed(boot="violates: silent")})
    trials.run(three[:1])
    assert trials.asked[-1] == ("good", (SCENARIOS[0].id,))
    assert trials.fates() == {"good/a": Fate.MISTAKEN}
    assert trials.ledger.confirmed["good/a"].killer == BOOT.id


def test_control_without_an_end_is_an_error(tmp_path: Path, three: list[Mutant]) -> None:
    class Cut(RecordedTrials):
        def run_suites(self, job: Job, request: Request, scenarios: Iterable[str] = ()) -> Record:
            return replace(super().run_suites(job, request, scenarios), complete=job.mutant is not None)

    with pytest.raises(HarnessError, match="good itself did not come to its end"):
        Cut(tmp_path / "results", {"good+a": KILL}).run(three)


class StartedTrials(RecordedTrials):
    """RecordedTrials trials whose runs are started as usual."""

    def run_suites(self, job: Job, request: Request, scenarios: Iterable[str] = ()) -> Record:
        return Trials.run_suites(self, job, request, scenarios)


@pytest.mark.parametrize(
    ("digest", "reason"),
    [
        ("", "The run did not begin.\n    no room\nThe whole log: "),
        ("0" * 64, "The patches of good+a were changed while it was tried."),
        ("of the mutant", "1 is not 2"),
    ],
)
def test_run_output_decides_the_trial(
    tmp_path: Path, three: list[Mutant], monkeypatch: pytest.MonkeyPatch, digest: str, reason: str
) -> None:
    tried = job_of(three[0]).series.digest

    def wait_for(argv: list[str], output: IO[bytes]) -> int:
        if "--mutant=a" not in argv or not digest:
            output.write(b"no room\n")
            return 2
        (results,) = (word.removeprefix("--results=") for word in argv if word.startswith("--results="))
        folder = Path(results) / "good+a-20260226T202211Z"
        recorded(folder, KILL)
        (folder / "run.json").write_text(json.dumps({"digest": digest.replace("of the mutant", tried)}))
        return 1

    monkeypatch.setattr(command, "run_harness", wait_for)
    trials = StartedTrials(tmp_path / "results", {})
    if digest == "of the mutant":
        with pytest.raises(HarnessError, match=r"The run did not begin\."):  # the control's run
            trials.run(three[:1])
    else:
        trials.run(three[:1])
    assert trials.ledger.trials["good/a"].reason.startswith(reason)


def test_results_folder_belongs_to_one_run(tmp_path: Path) -> None:
    taken = pytest.raises(HarnessError, match="Another run tries mutants in")
    with locked(tmp_path / "results"), taken, locked(tmp_path / "results"):
        pass
    with locked(tmp_path / "results"):
        pass


# --- on the real kernel

NAME = "fault-forgets-the-offset-of-the-mapping"
A_WHOLE_BUILD = 3600.0  # seconds, on a slow host, where the build folder is empty


def events_of(results: Path, event: str) -> list[dict[str, Any]]:
    """Return the events of this kind so far."""
    path = results / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [one for one in map(json.loads, lines) if one["event"] == event]


@pytest.mark.vm
def test_real_mutant_is_killed_after_an_interrupted_run(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments: list[str | Path] = ["mutants", "--series", "reference-feature"]
    arguments += ["-k", NAME, "--results", results]
    with Invocation(*arguments, mark=tmp_path) as ended:

        def begun() -> bool:
            return bool(events_of(results, "trial-started")) or ended.process.poll() is not None

        until(begun, "the trial", patience=A_WHOLE_BUILD)
        ended.process.send_signal(signal.SIGINT)
        assert ended.end() == ExitCode.INTERRUPTED
        assert not ended.children()
    assert "Score: 0 of 1 mutants killed, 0.0 %, 1 not tried to the end" in ended.output
    assert not events_of(results, "trial-ended")

    code, output = run(*arguments, mark=tmp_path)
    assert code == ExitCode.OK, output
    assert "Score: 1 of 1 mutants killed, 100.0 %" in output
    (control,) = events_of(results, "control-ended")
    (trial,) = events_of(results, "trial-ended")
    assert (trial["fate"], trial["verdict"]) == ("killed", "violates")
    assert {"RNG-01", "RNG-04"}.intersection(trial["requirements"])
    assert trial["killer"] in control["passed"]
    tested = json.loads((results / trial["results"] / "run.json").read_text())
    assert not Store().path("kernel", tested["kernel"]).exists()

    code, output = run(*arguments, mark=tmp_path)
    assert code == ExitCode.OK
    assert "1 of 1 mutants were tried before" in output
    assert events_of(results, "trial-ended") == [trial]
