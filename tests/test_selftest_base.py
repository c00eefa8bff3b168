"""The base's results of test programs: asked once, for the same way of running them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import make_checkout, make_series

from harness.journal.base_verdicts import BaseVerdicts
from harness.journal.facts import Facts, read_facts
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.kernel.fetch import fetch_base
from harness.lib import command
from harness.lib.cache import Store
from harness.lib.errors import ExitCode
from harness.lib.progress import Progress
from harness.run.base_alone import BaseAlone, Question
from harness.run.parts import RunParts
from harness.run.request import Request, load
from harness.run.selftests import answer_key, entry_of
from harness.series.selftest import Program
from harness.verdict.comparison import BaseAnswer, Origin
from harness.verdict.verdict import Verdict

PROGRAM = Program("vfio/a_test", ("{bdf}", "-x"), ("edu",), (("A", "{bdf}"),), 7, True, "-O1")
OTHER = Program("vfio/b_test")
FAILURE = "1 of 2 tests failed: b.\nb"
CONDITIONS = Facts(compiler="gcc", image="i", accelerator="tcg", qemu="7.2", program="p")


class Comparison:
    """A run in which PROGRAM violated, and its base, which gives ``answer``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store(folder / "cache")
        self.answer: BaseAnswer | None = BaseAnswer(Verdict.VIOLATES, "1 of 2", FAILURE)
        self.asked: list[Question] = []
        series = make_series(folder / "series", "int line_10;", "long line_10;")
        checkout = make_checkout(folder / "checkout")
        request = Request(series=str(series), tree=checkout, results=folder / "results")
        self.results = ResultsFolder.create(request.results, "series")
        self.journal = self.results.journal()
        progress = Progress(self.store, io.StringIO())
        self.base = BaseAlone(RunParts(load(request), self.store, progress, self.results, self.journal))
        self.base.remember(fetch_base(self.store, progress, "", checkout))
        self.results.write_run(**CONDITIONS)
        self.journal.plan([entry_of(PROGRAM), entry_of(OTHER)])
        self.journal.run_started()
        self.journal.started(entry_of(PROGRAM).id)
        self.journal.ended(entry_of(PROGRAM).id, Verdict.VIOLATES, reason="1 of 2", failure=FAILURE)
        self.journal.started(entry_of(OTHER).id)
        self.journal.ended(entry_of(OTHER).id, Verdict.CONFORMS)
        monkeypatch.setattr(command, "run_harness", self.child)

    def child(self, argv: list[str], _output: object) -> int:
        """Answer as the process does that asks the base."""
        question = Question.read(Path(argv[-1]))
        self.asked.append(question)
        results = ResultsFolder.create(question.request.results, "base")
        progress = Progress(self.store, io.StringIO())
        parts = RunParts(question.run_input(), self.store, progress, results, results.journal())
        BaseAlone(parts).remember(question.base)
        results.write_run(**CONDITIONS)
        journal = results.journal()
        journal.plan(map(entry_of, question.selftests))
        if self.answer is not None:
            for one in question.selftests:
                BaseVerdicts(self.store, read_facts(results.dir)).put(answer_key(one), self.answer)
        return 1

    def compare(self) -> tuple[Origin, str]:
        """Compare; return the origin of the violation and the reason."""
        self.base.compare(lambda: None, (PROGRAM, OTHER))
        found = read(self.results.dir).selftests[0].comparison
        assert found is not None
        return found.origin, found.reason


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    return Comparison(tmp_path, monkeypatch)


def test_base_is_asked_about_programs_that_violated_alone(comparison: Comparison) -> None:
    assert comparison.compare() == (Origin.INHERITED, "the base does the same")
    (question,) = comparison.asked
    assert (question.scenarios, question.selftests) == ((), (PROGRAM,))
    assert question.run_input().selftests == (PROGRAM,)
    comparison.journal.run_ended()
    assert read(comparison.results.dir).exit_code is not ExitCode.SERIES


def test_base_that_passes_makes_the_violation_new(comparison: Comparison) -> None:
    comparison.answer = BaseAnswer(Verdict.CONFORMS)
    assert comparison.compare() == (Origin.NEW, "the base conforms")


def test_base_that_gives_no_answer_proves_nothing(comparison: Comparison) -> None:
    comparison.answer = None
    origin, reason = comparison.compare()
    assert origin is Origin.NOT_COMPARABLE
    assert "the base gave no verdict" in reason
    comparison.journal.run_ended()
    assert read(comparison.results.dir).exit_code is ExitCode.SERIES


def test_known_answer_is_not_asked_again(comparison: Comparison) -> None:
    cache = BaseVerdicts(comparison.store, read_facts(comparison.results.dir))
    cache.put(answer_key(PROGRAM), BaseAnswer(Verdict.VIOLATES, "1 of 2", FAILURE))
    assert comparison.compare()[0] is Origin.INHERITED
    assert comparison.asked == []


@pytest.mark.parametrize(
    "changed",
    [{"arguments": ()}, {"devices": ("ram",)}, {"environment": ()}, {"timeout": 8}, {"flags": ""}],
)
def test_answer_is_that_of_one_way_to_run(changed: dict[str, object]) -> None:
    other = replace(PROGRAM, **changed)  # type: ignore[arg-type]
    assert answer_key(other) != answer_key(PROGRAM)


def test_answer_does_not_depend_on_whose_program_it_is() -> None:
    assert answer_key(replace(PROGRAM, own=False)) == answer_key(PROGRAM)


def test_question_without_readable_programs_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    comparison.compare()
    path = tmp_path / "question.json"
    content = json.loads((comparison.results.dir / "base" / "question.json").read_text())
    content["selftests"][0]["surprise"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(Exception, match="is not a question to a base"):
        Question.read(path)
