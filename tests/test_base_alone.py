"""The base alone: its verdicts beside violations, asked once, and why there is none."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import make_checkout, make_series

from harness.journal.base_verdicts import CONDITIONS, BaseVerdicts
from harness.journal.facts import Facts, read_facts
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.kernel.fetch import fetch_base
from harness.lib import command
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.progress import Progress
from harness.run import base_alone
from harness.run.base_alone import BaseAlone, Question
from harness.run.parts import RunParts
from harness.run.request import Request, load
from harness.verdict.comparison import BaseAnswer, Origin
from harness.verdict.record import Entry, repetition_mark
from harness.verdict.verdict import Kind, Verdict

FAILURE = "AssertionError\nassert 34 == 22\ntest_one.py:5"
ANSWER = BaseAnswer(Verdict.VIOLATES, "assert 34 == 22", FAILURE)
ONE, TWO = "suites/test_one.py::test_one[c]", "suites/test_one.py::test_two"
CONDITIONS_NOW = Facts(compiler="gcc", image="i", accelerator="tcg", qemu="7.2", program="p")


class Child:
    """The process that asks the base, without a machine: it answers from ``answers``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.answers: dict[str, BaseAnswer] = {}
        self.facts = Facts(**CONDITIONS_NOW)
        self.failed_stage = ""
        self.begins = True
        self.interrupted_after: int | None = None
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, argv: list[str], _output: object) -> int:
        question = Question.read(Path(argv[-1]))
        self.asked.append(question.scenarios)
        if not self.begins:
            return 1
        results = ResultsFolder.create(question.request.results, question.run_input().series.name)
        progress = Progress(self.store, io.StringIO())
        parts = RunParts(question.run_input(), self.store, progress, results, results.journal())
        BaseAlone(parts).remember(question.base)
        results.write_run(**self.facts)
        journal = results.journal()
        journal.plan(
            [Entry("build", Kind.STAGE, ""), *(Entry(x, Kind.SCENARIO, "") for x in question.scenarios)]
        )
        journal.run_started()
        journal.started("build")
        verdict = Verdict.VIOLATES if self.failed_stage else Verdict.CONFORMS
        journal.ended("build", verdict, reason=self.failed_stage)
        cache = BaseVerdicts(self.store, read_facts(results.dir))
        for number, name in enumerate(() if self.failed_stage else question.scenarios):
            if number == self.interrupted_after:
                raise KeyboardInterrupt
            answer = self.answers.get(name, ANSWER)
            journal.started(name)
            journal.ended(name, answer.verdict, reason=answer.reason)
            cache.put(name, answer)
        journal.run_ended()
        return 1


class Violating:
    """A run whose scenarios violate, and its comparison with the base."""

    def __init__(self, folder: Path, checkout: Path, store: Store, **options: object) -> None:
        series = make_series(folder / "series", "int line_10;", "long line_10;")
        asked = {"series": str(series), "tree": checkout, "results": folder / "results", **options}
        request = Request(**asked)  # type: ignore[arg-type]
        self.results = ResultsFolder.create(request.results, "series")
        self.journal = self.results.journal()
        self.ended_machines = 0
        progress = Progress(store, io.StringIO())
        self.base = BaseAlone(RunParts(load(request), store, progress, self.results, self.journal))
        self.base.remember(fetch_base(store, progress, "", checkout))
        self.results.write_run(**CONDITIONS_NOW)

    def end(self, *scenarios: Entry, failure: str = FAILURE) -> None:
        """Write a journal in which these scenarios violated."""
        self.journal.plan(scenarios)
        self.journal.run_started()
        for one in scenarios:
            self.journal.started(one.id)
            self.journal.ended(one.id, Verdict.VIOLATES, reason="assert 34 == 22", failure=failure)

    def compare(self) -> dict[str, tuple[Origin | None, str]]:
        """Compare; return the origin and the reason of each scenario."""

        def before() -> None:
            self.ended_machines += 1

        self.base.compare(before)
        compared = {one.entry.id: one.comparison for one in read(self.results.dir).scenarios}
        return {name: (one.origin, one.reason) if one else (None, "") for name, one in compared.items()}

    def exit_code(self) -> ExitCode:
        self.journal.run_ended()
        return read(self.results.dir).exit_code


def scenario(name: str, repetition: int = 1) -> Entry:
    return Entry(name + repetition_mark(repetition), Kind.SCENARIO, name, repetition=repetition)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def child(store: Store, monkeypatch: pytest.MonkeyPatch) -> Child:
    child = Child(store)
    monkeypatch.setattr(command, "run_harness", child)
    return child


@pytest.fixture
def violating(tmp_path: Path, store: Store, child: Child) -> Callable[..., Violating]:
    checkout = make_checkout(tmp_path / "linux")
    made: list[Path] = []

    def make(**options: object) -> Violating:
        made.append(tmp_path / f"run{len(made)}")
        return Violating(made[-1], checkout, store, **options)

    return make


def test_violation_of_the_base_too_fails_no_run(violating: Callable[..., Violating], child: Child) -> None:
    run = violating()
    run.end(scenario(ONE))
    assert run.compare() == {ONE: (Origin.INHERITED, "the base does the same")}
    assert run.exit_code() is ExitCode.OK
    assert child.asked == [(ONE,)]
    assert run.ended_machines == 1


def test_violation_beside_an_inherited_one_fails_the_run(
    violating: Callable[..., Violating], child: Child
) -> None:
    child.answers[TWO] = BaseAnswer(Verdict.CONFORMS)
    run = violating()
    run.end(scenario(ONE), scenario(TWO))
    assert [origin for origin, _ in run.compare().values()] == [Origin.INHERITED, Origin.NEW]
    assert run.exit_code() is ExitCode.SERIES


def test_base_is_asked_once(violating: Callable[..., Violating], child: Child) -> None:
    """A second run takes the verdict from the cache, and asks only about the other scenario."""
    for names in ((ONE,), (ONE,), (ONE, TWO)):
        run = violating()
        run.end(*map(scenario, names))
        assert {origin for origin, _ in run.compare().values()} == {Origin.INHERITED}
    assert child.asked == [(ONE,), (TWO,)]


def test_comparison_made_before_is_kept(violating: Callable[..., Violating], child: Child) -> None:
    run = violating()
    run.end(scenario(ONE))
    first = run.compare()
    child.answers[ONE] = BaseAnswer(Verdict.CONFORMS)
    child.store.remove(["base-verdicts"])
    assert run.compare() == first
    assert child.asked == [(ONE,)]


def test_interrupted_question_is_continued(violating: Callable[..., Violating], child: Child) -> None:
    """What the base answered before Ctrl-C is kept, and only the rest is asked when the run is resumed."""
    run = violating()
    run.end(scenario(ONE), scenario(TWO))
    child.interrupted_after = 1
    with pytest.raises(KeyboardInterrupt):
        run.compare()
    assert not any(one.base for one in read(run.results.dir).scenarios)
    child.interrupted_after = None
    assert {origin for origin, _ in run.compare().values()} == {Origin.INHERITED}
    assert child.asked == [(ONE, TWO), (TWO,)]


def test_repetitions_are_one_question(violating: Callable[..., Violating], child: Child) -> None:
    run = violating()
    run.end(scenario(ONE), scenario(ONE, 2))
    assert {origin for origin, _ in run.compare().values()} == {Origin.INHERITED}
    assert child.asked == [(ONE,)]


@pytest.mark.parametrize("options", [{"no_base": True}, {"until_violated": True}])
def test_base_is_not_asked_on_request(
    violating: Callable[..., Violating], child: Child, options: dict[str, bool]
) -> None:
    run = violating(**options)
    run.end(scenario(ONE))
    assert run.compare() == {ONE: (None, "")}
    assert run.exit_code() is ExitCode.SERIES
    assert child.asked == []


def test_kernel_built_elsewhere_is_not_comparable(violating: Callable[..., Violating], child: Child) -> None:
    run = violating(tree=None, kernel=Path("bzImage"), headers=Path("include"))
    run.end(scenario(ONE))
    ((origin, reason),) = run.compare().values()
    assert (origin, "--kernel" in reason) == (Origin.NOT_COMPARABLE, True)
    assert run.exit_code() is ExitCode.SERIES
    assert child.asked == []


def test_scenario_outside_of_the_suites_is_not_comparable(
    violating: Callable[..., Violating], child: Child
) -> None:
    """The program digest has no part in it, so a cached verdict might be of other code."""
    run = violating()
    run.end(scenario("::test_mine"), scenario(ONE))
    compared = run.compare()
    assert compared["::test_mine"] == (Origin.NOT_COMPARABLE, base_alone.OUTSIDE)
    assert compared[ONE][0] is Origin.INHERITED
    assert child.asked == [(ONE,)]


def test_base_that_does_not_build_is_not_comparable(
    violating: Callable[..., Violating], child: Child
) -> None:
    child.failed_stage = "core.c:10: error: expected ;"
    run = violating()
    run.end(scenario(ONE))
    expected = "the base was not asked: the base alone does not build: core.c:10: error: expected ;"
    assert run.compare() == {ONE: (Origin.NOT_COMPARABLE, expected)}
    assert run.exit_code() is ExitCode.SERIES


def test_base_run_that_did_not_begin_names_its_log(violating: Callable[..., Violating], child: Child) -> None:
    child.begins = False
    run = violating()
    run.end(scenario(ONE))
    ((origin, reason),) = run.compare().values()
    assert origin is Origin.NOT_COMPARABLE
    assert f"{run.results.dir.name}/base/output.txt" in reason


def test_harness_error_on_the_base_is_asked_again(violating: Callable[..., Violating], child: Child) -> None:
    child.answers[ONE] = BaseAnswer(Verdict.HARNESS_ERROR, "QEMU was killed")
    for _ in range(2):
        run = violating()
        run.end(scenario(ONE))
        reason = "the base is harness-error: QEMU was killed"
        assert run.compare() == {ONE: (Origin.NOT_COMPARABLE, reason)}
    assert child.asked == [(ONE,), (ONE,)]


def test_other_conditions_on_the_base_are_not_comparable(
    violating: Callable[..., Violating], child: Child
) -> None:
    child.facts["accelerator"] = "kvm"
    run = violating()
    run.end(scenario(ONE))
    reason = "the base was asked under other conditions (accelerator)"
    assert run.compare() == {ONE: (Origin.NOT_COMPARABLE, reason)}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_verdicts_are_kept_by_each_condition(store: Store, condition: str) -> None:
    facts = dict.fromkeys(CONDITIONS, "same")
    BaseVerdicts(store, facts).put(ONE, ANSWER)
    assert BaseVerdicts(store, facts).get(ONE) == ANSWER
    assert BaseVerdicts(store, {**facts, condition: "another"}).get(ONE) is None
    incomplete = {name: value for name, value in facts.items() if name != condition}
    BaseVerdicts(store, incomplete).put(ONE, ANSWER)
    assert BaseVerdicts(store, incomplete).get(ONE) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"verdict": "conf'])
def test_damaged_verdict_is_none(store: Store, content: bytes) -> None:
    verdicts = BaseVerdicts(store, dict.fromkeys(CONDITIONS, "same"))
    verdicts.put(ONE, ANSWER)
    (path,) = (store.root / "base-verdicts").rglob("*.json")
    path.write_bytes(content)
    assert verdicts.get(ONE) is None


def test_question_survives_its_file(tmp_path: Path, store: Store) -> None:
    base = fetch_base(store, Progress(store, io.StringIO()), "", make_checkout(tmp_path / "linux"))
    asked = Request(
        series="x",
        kconfig=(Path("my.config"),),
        accel="tcg",
        qemu="./qemu",
        keep_vm=True,
        no_give_up=True,
    )
    question = Question.of(base, asked, tmp_path / "base", [ONE, TWO])
    question.write(tmp_path / "question.json")
    assert Question.read(tmp_path / "question.json") == question
    assert question.request.qemu == str(Path("qemu").absolute())
    assert question.request.kconfig == (Path("my.config").absolute(),)
    assert question.request.no_give_up
    assert not question.request.keep_vm
    assert question.run_input().series.patches == ()


@pytest.mark.parametrize("content", ["", "[]", '{"base": 1}'])
def test_unreadable_question_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "question.json").write_text(content)
    with pytest.raises(HarnessError, match=r"question.json is not a question"):
        Question.read(tmp_path / "question.json")


def test_damaged_record_of_the_base_is_an_error(violating: Callable[..., Violating], child: Child) -> None:
    run = violating()
    run.end(scenario(ONE))
    (run.results.dir / base_alone.FOLDER / base_alone.BASE).write_text("{")
    with pytest.raises(HarnessError, match=r"base.json is damaged"):
        run.compare()


def test_complaint_found_later_is_not_inherited(violating: Callable[..., Violating], child: Child) -> None:
    """The journal has the base's result, so a changed table of complaints is compared again."""
    run = violating()
    run.end(scenario(ONE))
    run.compare()
    (result,) = read(run.results.dir).scenarios
    assert result.inherited
    assert not replace(result, failure="another").inherited
    events = [json.loads(line) for line in (run.results.dir / "events.jsonl").read_text().splitlines()]
    assert [event["base"]["failure"] for event in events if event["event"] == "compared"] == [FAILURE]
