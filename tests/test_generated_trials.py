"""Trials of generated mutants: their rounds, what is left of them, and what is told of it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.cli import generate, main
from harness.kernel import one_object
from harness.kernel.build import Kernel as BuiltKernel
from harness.kernel.one_object import OneObject
from harness.kernel.tree import Tree
from harness.lib import paths
from harness.lib.cache import Store
from harness.lib.errors import BuildError, ExitCode, HarnessError, UsageError
from harness.mutants.fate import Fate
from harness.mutants.generate import combine, report, trials
from harness.mutants.generate.check import Checked, Kept, kept
from harness.mutants.generate.coverage import Coverage, Covered, read_coverage
from harness.mutants.generate.fault import Fault
from harness.mutants.generate.mutant import GeneratedMutant, equivalence, read_equivalent
from harness.mutants.generate.order import FIRST, Order
from harness.mutants.generate.pool import Pool
from harness.mutants.generate.session import Session, Wanted
from harness.mutants.generate.trials import GeneratedTrials, Kernels
from harness.run.request import Request, RunInput
from harness.series.series import Patch, Series
from harness.verdict.record import Entry, Record, Result
from harness.verdict.verdict import Kind, Verdict

FILE = "drivers/x/x.c"
WHOLE = Series("good", "Good", "6.19", "feature", (), {}, "good")
MANY = tuple(f"suites/test_x.py::test_{number}" for number in range(FIRST + 5))


def make_fault(line: int, new: str = ";\n") -> Fault:
    return Fault(FILE, line, line, "f", "drop a statement", "\tg();\n", new)


def make_mutant(line: int, scenarios: Sequence[str] = MANY, **more: object) -> GeneratedMutant:
    fault = make_fault(line)
    patch = Patch(f"{fault.name}.patch", f"Subject: [PATCH] {line}\n\nx\n---\n".encode(), str(line))
    return GeneratedMutant("good", fault, patch, tuple(scenarios), number=line, **more)  # type: ignore[arg-type]


@dataclass
class Kernel:
    """A kernel in the place of run_suites(): each mutant, by its number, fails some scenarios."""

    fails: Mapping[int, str]
    asked: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def __call__(self, request: Request, _tested: Series, scenarios: Sequence[str]) -> Record:
        (word,) = request.kernel_argument
        number = int(word.rpartition("=")[2])
        names = tuple(name.removeprefix(f"{paths.PROJECT}/") for name in scenarios)
        self.asked.append((number, names))
        results = []
        for name in names:
            fails = self.fails.get(number) == name
            verdict = Verdict.VIOLATES if fails else Verdict.CONFORMS
            entry = Entry(name, Kind.SCENARIO, name, ("MAP-01",))
            results.append(Result(entry, verdict, "wrong" if fails else "", ended=True))
            if fails and request.until_violated:
                break
        return Record("run", tuple(results), complete=True)


def make_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, said: list[str]
) -> GeneratedTrials:
    monkeypatch.setattr(trials, "run_suites", kernel)
    combined = tmp_path / "combined.patch"
    combined.write_text("Subject: [PATCH] many\n\nx\n---\n")
    kernels = Kernels(combined, "configuration")
    return GeneratedTrials(tmp_path, Request(series="good"), WHOLE, kernels, Order({}), said.append)


def test_mutants_get_their_first_killers_before_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel({1: MANY[0], 2: MANY[-1]})
    tried = make_trials(tmp_path, monkeypatch, kernel, [])
    tried.run([make_mutant(1), make_mutant(2), make_mutant(3)])
    fates = {name: (one.fate, one.killer) for name, one in tried.ledger.confirmed.items()}
    assert list(fates.values()) == [
        (Fate.KILLED, MANY[0]),
        (Fate.KILLED, MANY[-1]),
        (Fate.SURVIVED, ""),
    ]
    assert [(number, len(names)) for number, names in kernel.asked] == [
        (1, FIRST),
        (2, FIRST),
        (3, FIRST),
        (2, 5),
        (3, 5),
        (0, 2),  # the killers, with all faults off
    ]
    assert [one.whole for one in tried.tried([*map(make_mutant, (1, 2, 3))])] == [True, True, True]


def test_order_that_changed_between_rounds_skips_no_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel({1: MANY[-1], 2: MANY[-1]})
    tried = make_trials(tmp_path, monkeypatch, kernel, [])
    tried.run([make_mutant(1), make_mutant(2, MANY[-1:])])  # the second kill makes the last one the first
    assert [trial.killer for trial in tried.ledger.confirmed.values()] == [MANY[-1], MANY[-1]]
    first, rest = (names for number, names in kernel.asked if number == 1)
    assert not set(first) & set(rest)


def test_round_continued_by_another_session_runs_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = make_trials(tmp_path, monkeypatch, Kernel({}), [])
    tried.ledger.ended(tried._try(make_mutant(1), False))  # type: ignore[arg-type]
    kernel = Kernel({1: MANY[0]})
    make_trials(tmp_path, monkeypatch, kernel, []).run([make_mutant(1)])
    assert kernel.asked[0] == (1, MANY)


def test_mutants_that_were_tried_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants = [make_mutant(1), make_mutant(2)]
    make_trials(tmp_path, monkeypatch, Kernel({1: MANY[0]}), []).run(mutants)
    again = Kernel({1: MANY[0]})
    make_trials(tmp_path, monkeypatch, again, []).run([*mutants, make_mutant(3)])
    assert {number for number, _ in again.asked} == {3}


def test_killer_that_fails_without_a_fault_kills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = make_trials(tmp_path, monkeypatch, Kernel({0: MANY[0], 1: MANY[0]}), [])
    tried.run([make_mutant(1)])
    (trial,) = tried.ledger.confirmed.values()
    assert (trial.fate, trial.killed) == (Fate.ERROR, False)


@pytest.mark.parametrize(
    ("killer", "of_control", "fate"),
    [
        (Entry("boot", Kind.STAGE, "Boot"), Entry("boot", Kind.STAGE, "Boot"), Fate.ERROR),
        (Entry("boot", Kind.STAGE, "Boot"), None, Fate.KILLED),
        (Entry("machine-1", Kind.MACHINE, ""), Entry("machine-2", Kind.MACHINE, ""), Fate.ERROR),
        (Entry("machine-1", Kind.MACHINE, ""), None, Fate.KILLED),
    ],
)
def test_killer_that_is_no_scenario_needs_a_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killer: Entry, of_control: Entry | None, fate: Fate
) -> None:
    kernel = Kernel({})

    def run(request: Request, tested: Series, scenarios: Sequence[str]) -> Record:
        record = kernel(request, tested, scenarios)
        failed = killer if request.until_violated else of_control
        boot = Result(Entry("boot", Kind.STAGE, "Boot"), Verdict.CONFORMS, ended=True)
        stages = () if failed is not None and failed.id == "boot" else (boot,)
        ends = () if failed is None else (Result(failed, Verdict.VIOLATES, "wrong", ended=True),)
        return replace(record, results=(*stages, *record.results, *ends))

    tried = make_trials(tmp_path, monkeypatch, kernel, [])
    monkeypatch.setattr(trials, "run_suites", run)
    tried.run([make_mutant(1, MANY[:2])])
    assert kernel.asked == [(1, MANY[:2]), (0, MANY[:1])]
    assert [trial.fate for trial in tried.ledger.confirmed.values()] == [fate]


def test_control_without_a_combined_kernel_is_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Request, Series]] = []

    def run(request: Request, tested: Series, scenarios: Sequence[str]) -> Record:
        asked.append((request, tested))
        verdict = Verdict.VIOLATES if request.mutant else Verdict.CONFORMS
        result = Result(Entry(MANY[0], Kind.SCENARIO, ""), verdict, ended=True)
        return Record("run", (result,), complete=True)

    tried = make_trials(tmp_path, monkeypatch, Kernel({}), [])
    tried._kernels = Kernels(None, "configuration")
    monkeypatch.setattr(trials, "run_suites", run)
    tried.run([replace(make_mutant(1, MANY[:1]), number=0)])
    assert [trial.fate for trial in tried.ledger.confirmed.values()] == [Fate.KILLED]
    control, tested = asked[1]
    assert (control.mutant, control.kernel_argument, tested) == (None, (), WHOLE)


@pytest.mark.parametrize("able", [True, False])
def test_combined_kernel_that_cannot_be_built_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    built: list[Series] = []

    def fails(_session: Session, tested: Series) -> tuple[Tree, BuiltKernel]:
        built.append(tested)
        raise BuildError("make failed")

    monkeypatch.setattr(combine, "can_combine", lambda *_: able)
    monkeypatch.setattr(combine, "combine", lambda *_: combine.Combined(b"Subject: x\n\nx\n---\n", {"x": 1}))
    monkeypatch.setattr(Session, "_build", fails)
    run_input = RunInput(Request(series="good"), WHOLE)
    session = Session(Store(tmp_path), tmp_path, run_input, Wanted(1, "1"), (), {}, lambda _: None)
    pool = cast(Pool, SimpleNamespace(sources={FILE: None}))
    assert session._combined(pool, [make_fault(1)]) == (None, {})
    assert len(built) == able


def test_budget_that_is_over_begins_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel({})
    tried = make_trials(tmp_path, monkeypatch, kernel, [])
    tried._deadline = 0.0
    tried.run([make_mutant(1)])
    assert kernel.asked == []
    assert not tried.tried([make_mutant(1)])[0].whole


def test_mutant_that_nobody_reaches_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel({})
    tried = make_trials(tmp_path, monkeypatch, kernel, [])
    tried.run([make_mutant(1, ())])
    assert (kernel.asked, tried.ledger.trials["good/" + make_fault(1).name].reason) == (
        [],
        "no scenario reaches the line",
    )


def test_fault_that_cannot_be_combined_gets_a_kernel_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(make_mutant(1, MANY[:1]), number=0)
    asked: list[Request] = []

    def alone(request: Request, _tested: Series, _scenarios: Sequence[str]) -> Record:
        asked.append(request)
        return Record("run", (), complete=True)

    tried = make_trials(tmp_path, monkeypatch, Kernel({}), [])
    monkeypatch.setattr(trials, "run_suites", alone)
    tried.run([one])
    (request,) = asked
    assert (request.kernel_argument, request.until_violated, request.no_base) == ((), True, True)
    assert Path(request.mutant or "").read_bytes() == one.patch.content


def test_order_begins_with_the_killers_of_the_same_function() -> None:
    order = Order({"a": 3.0, "b": 2.0, "c": 1.0, "d": 9.0})
    order.killed(make_fault(1), "d[x]")
    order.killed(Fault(FILE, 9, 9, "other", "", "a\n", "b\n"), "a")
    assert order.of(make_fault(2), ["a", "b", "c", "d[x]", "d[y]"]) == ["d[x]", "a", "c", "b", "d[y]"]


def test_order_begins_with_one_variant_of_each_scenario() -> None:
    order = Order({"a": 1.0, "b": 2.0})
    assert order.of(make_fault(1), ["a[x]", "a[y]", "b[x]", "b[y]"]) == ["a[x]", "b[x]", "a[y]", "b[y]"]


# -- what is told ---------------------------------------------------------------------------


def test_equivalent_mutant_that_was_killed_before_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tried = make_trials(tmp_path, monkeypatch, Kernel({1: MANY[0]}), said)
    tried.run([make_mutant(1, MANY[:2])])
    tried.run([make_mutant(1, MANY[:2], equivalent="the same to anybody")])
    wrong = f"! good/{make_fault(1).name} is named as one that nobody can notice: {MANY[0]} did"
    assert [line for line in said if line.startswith("!")] == [wrong]


def test_report_of_an_interrupted_session_names_unconfirmed_mutants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = make_trials(tmp_path, monkeypatch, Kernel({1: MANY[0]}), [])
    monkeypatch.setattr(tried, "_confirm", lambda _counted: None)  # the end of a session that has none
    mutants = [make_mutant(1, MANY[:2])]
    tried.run(mutants)
    found, stream = tried.tried(mutants), io.StringIO()
    report.show(found, tmp_path, stream)
    assert "Score: 0 of 0 generated mutants killed, 1 killed but not confirmed\n" in stream.getvalue()
    assert "1 mutant not counted: the scenarios that killed them did not run" in stream.getvalue()
    assert "were tried to the end" not in stream.getvalue()
    assert report.exit_code(found) is ExitCode.HARNESS


def test_report_names_survivors_and_what_was_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = MANY[:3]
    mutants = [
        make_mutant(1, few),
        make_mutant(2, few, origin=7),
        make_mutant(3, equivalent="the same to anybody"),
    ]
    tried = make_trials(tmp_path, monkeypatch, Kernel({1: few[1]}), [])
    tried.run(mutants)
    found = tried.tried([*mutants, make_mutant(4)])
    stream = io.StringIO()
    report.show(found, tmp_path, stream)
    text = stream.getvalue()
    assert f"survived  good/{make_fault(2).name}  {FILE}:2 f(), patch 7: drop a statement" in text
    assert "2 - g();\n          2 + ;" in text
    assert "the same to anybody" in text
    assert (
        "Score: 1 of 2 generated mutants killed, 50.0 %, 1 survived, 1 not tried to the end, "
        "1 equivalent and not counted"
    ) in text
    assert "2 of 3 mutants were tried to the end; the rest was not looked at, and is not green." in text
    report.write(found, tmp_path)
    members = json.loads((tmp_path / "mutants.json").read_text())["mutants"]
    assert [one["fate"] for one in members] == ["killed", "survived", "equivalent", "not tried to the end"]
    assert (members[0]["killer"], members[0]["line"], members[0]["now"]) == (few[1], 1, ";\n")
    assert report.exit_code(found) is ExitCode.SERIES
    assert report.exit_code(found[:1]) is ExitCode.OK
    assert report.exit_code([found[0], found[3]]) is ExitCode.HARNESS
    assert report.exit_code([]) is ExitCode.HARNESS


# -- the check of objects -------------------------------------------------------------------


def test_check_keeps_each_different_object_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {3: "same", 4: "one", 5: "one", 6: "two", 7: ""}
    faults = [make_fault(line) for line in digests]
    compiled: list[list[str]] = []

    def objects(_one: OneObject, changes: Mapping[str, object], *_: object) -> dict[str, str]:
        compiled.append(list(changes))
        found = {fault.name: digests[fault.first] for fault in faults if fault.name in changes}
        return {"unchanged": "same", **{name: digest for name, digest in found.items() if digest}}

    monkeypatch.setattr(one_object, "objects", objects)
    text = b'# 1 "x.c"\n' + b"\tg();\n" * 7
    whole = OneObject("gcc", (), text, "x.c")
    for times in (1, 1):
        checked = Checked(tmp_path, "key")
        found = list(kept(faults, checked, lambda: {FILE: whole}, tmp_path, 9, lambda _text: None))
        assert [fault.first for fault in found] == [4, 6]
        assert len(compiled) == times
    assert list(Checked(tmp_path, "key").found.values()) == [
        Kept.SAME,
        Kept.KEPT,
        Kept.TWIN,
        Kept.KEPT,
        Kept.FAILED,
    ]
    assert not Checked(tmp_path, "other key").found


def test_check_of_a_file_that_is_not_built_keeps_nothing(tmp_path: Path) -> None:
    checked = Checked(tmp_path, "key")
    found = kept([make_fault(1)], checked, lambda: {FILE: None}, tmp_path, 9, lambda _text: None)
    assert (list(found), list(checked.found.values())) == ([], [Kept.UNSEEN])


def test_damaged_check_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "checked.jsonl").write_text("{}\n")
    with pytest.raises(HarnessError, match="Delete it to begin anew"):
        Checked(tmp_path, "key")


# -- coverage and equivalence ----------------------------------------------------------------


def test_coverage_of_a_run_is_read(tmp_path: Path) -> None:
    line = {"patch": 5, "function": "f", "count": 7, "scenarios": ["a", "b"]}
    never = {"patch": 5, "function": "f", "count": 0, "scenarios": []}
    content = {
        "schema": 1,
        "series": "good",
        "kernel": "k",
        "files": {FILE: {"lines": {"3": line, "4": never}}},
    }
    path = tmp_path / "coverage" / "lines.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    found = read_coverage(tmp_path)
    assert found.lines[FILE][3] == Covered(7, ("a", "b"))
    assert (found.executed(FILE), found.scenarios(FILE, 2, 4)) == ({3}, ["a", "b"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "A run with `--coverage` leaves one"),
        ("{", "cannot be read"),
        ('{"schema": 2}', "has the schema 2; 1 is known"),
        ('{"schema": 1, "series": "x", "files": {"a": 3}}', "cannot be read"),
        ('{"schema": 1, "series": "x", "files": {"a": {"lines": {"x": {}}}}}', "cannot be read"),
    ],
)
def test_bad_coverage_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "coverage").mkdir()
        (tmp_path / "coverage" / "lines.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        read_coverage(tmp_path)


def test_equivalence_is_found_by_function_and_change(tmp_path: Path) -> None:
    folder = tmp_path / "mutants" / "good"
    folder.mkdir(parents=True)
    fault = f'file = "{FILE}"\nfunction = "f"\nwas = "g();"\nnow = ";"\nwhy = "g() does nothing"\n'
    (folder / "generated.toml").write_text(f"[[fault]]\n{fault}")
    known = read_equivalent(tmp_path, "good")
    assert equivalence(make_fault(1), known) == equivalence(make_fault(9), known) == "g() does nothing"
    assert equivalence(make_fault(1, "h();\n"), known) == ""
    (folder / "generated.toml").write_text('[[fault]]\nfile = "x"\n')
    with pytest.raises(UsageError, match="a fault has the keys file, function, was, now, why"):
        read_equivalent(tmp_path, "good")


def test_coverage_of_a_selection_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"selection": ["--fast", "--requirement=MAP-03"]}))
    coverage = Coverage("good", tmp_path / "coverage" / "lines.json")
    assert "of a selection of scenarios (--fast, --requirement=MAP-03 in" in generate._selected(coverage)
    (tmp_path / "run.json").write_text(json.dumps({"selection": ["--coverage"]}))
    assert generate._selected(coverage) == generate._selected(None) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "1h"], "--budget is about generated mutants: give --generate as well"),
        (["--generate", "--list"], "are about the mutants in patches/mutants"),
        (["--generate", "--count", "0"], "at least 1"),
        (["--generate", "--coverage", "/nowhere"], "There is no coverage/lines.json"),
        (["--generate", "--series", "baseline"], "The series baseline changes no C file"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["mutants", *words]) == ExitCode.HARNESS
    assert said in capsys.readouterr().err


def test_own_equivalent_faults_are_in_lines_of_the_series() -> None:
    known = read_equivalent(paths.PATCHES, "reference-feature")
    patches = sorted((paths.PATCHES / "reference-feature").glob("*.patch"))
    lines = [line for path in patches for line in path.read_text().splitlines()]
    added = " ".join(" ".join(line[1:] for line in lines if line.startswith("+")).split())
    changed = {line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")}
    assert {file for file, *_ in known} <= changed
    assert [was for _, _, was, _ in known if was.partition(";")[0] not in added] == []
    assert all(known.values())
