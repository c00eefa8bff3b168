"""The patches of a series one by one, and the search for the one at fault, without a machine."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from results import Run
from small_kernel import DMABUF, SmallKernel
from test_prefixes import EXTRA, GCC, formatted

from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.kernel.build import Kernel
from harness.lib import command
from harness.lib.errors import BootError, BootTimeoutError, ExitCode, UsageError
from harness.lib.progress import Progress
from harness.report import junit, mail, markdown, terminal
from harness.run import patch_check
from harness.run.bisect import OF_ONE_CAUSE, Bisection, state_of
from harness.run.parts import RunParts
from harness.run.patch_check import PatchCheck
from harness.run.request import Request, RunInput
from harness.series.series import Patch, Series
from harness.verdict import patch
from harness.verdict.comparison import BaseAnswer
from harness.verdict.halving import State
from harness.verdict.record import Entry, Result
from harness.verdict.verdict import Kind, Verdict
from harness.vm.pci_devices import Layout

OF = 9
C, V, N, D, X = (
    Verdict.CONFORMS,
    Verdict.VIOLATES,
    Verdict.NOT_APPLICABLE,
    Verdict.KERNEL_DIED,
    Verdict.HARNESS_ERROR,
)


class Prefixes:
    """The process that runs scenarios on a prefix, without a machine.

    ``verdicts`` are those of each scenario with 1, 2, ... patches.  ``broken`` prefixes do not build.
    """

    def __init__(self) -> None:
        self.verdicts: dict[str, Sequence[Verdict]] = {}
        self.broken: set[int] = set()
        self.killed_at = 0
        self.asked: list[tuple[int, tuple[str, ...]]] = []

    def __call__(self, argv: list[str], _output: object) -> int:
        options = dict(one.lstrip("-").split("=", 1) for one in argv if one.startswith("--") and "=" in one)
        assert "--bisect" not in argv
        assert "--no-base" in argv
        names = tuple(one for one in self.verdicts if any(word.endswith(one) for word in argv))
        count = int(options["patches"])
        self.asked.append((count, names))
        if count == self.killed_at:
            raise KeyboardInterrupt
        results = ResultsFolder.create(Path(options["results"]), "mine")
        journal = results.journal()
        scenarios = [Entry(name, Kind.SCENARIO, "") for name in names]
        journal.plan([Entry("build", Kind.STAGE, ""), *scenarios])
        journal.run_started()
        journal.started("build")
        journal.ended("build", V if count in self.broken else C)
        for one in scenarios if count not in self.broken else ():
            journal.started(one.id)
            verdict = self.verdicts[one.id][count - 1]
            journal.ended(one.id, verdict, reason=f"It {verdict}." if verdict is not C else "")
        journal.run_ended()
        return 1


class Searched:
    """A run in which the scenarios violate, of a series of OF patches."""

    def __init__(self, folder: Path, *names: str) -> None:
        patches = tuple(Patch(f"{n}.patch", b"", f"[PATCH {n}/{OF}] change {n}") for n in range(1, OF + 1))
        series = Series("mine", "Mine", "6.19", "auto", patches, {}, "a test")
        self.results = ResultsFolder.create(folder, "mine")
        self.journal = self.results.journal()
        self.scenarios = [Entry(name, Kind.SCENARIO, name) for name in names]
        subjects = [f"change {n}" for n in range(1, OF + 1)]
        self.patches = patch.entries_of(subjects)
        self.journal.plan([*self.scenarios, *self.patches])
        self.journal.run_started()
        for one in self.scenarios:
            self.journal.started(one.id)
            self.journal.ended(one.id, V, reason="It violates.")
        request = Request(series="mine", results=folder, bisect=True)
        store: Any = None
        progress = Progress(None, io.StringIO())
        parts = RunParts(RunInput(request, series), store, progress, self.results, self.journal)
        self.search = Bisection(parts).search

    def since(self) -> dict[str, str]:
        found = {one.entry.id: one.since for one in read(self.results.dir).scenarios}
        return {name: one.words if one else "" for name, one in found.items()}


@pytest.fixture
def prefixes(monkeypatch: pytest.MonkeyPatch) -> Prefixes:
    fake = Prefixes()
    monkeypatch.setattr(command, "run_harness", fake)
    return fake


def test_first_patch_of_each_violation_is_found(prefixes: Prefixes, tmp_path: Path) -> None:
    """Two searches share the prefixes that serve both."""
    prefixes.verdicts = {"suites/a.py::one": [C] * 4 + [V] * 5, "suites/a.py::two": [N] * 6 + [V] * 3}
    run = Searched(tmp_path, *prefixes.verdicts)
    run.search()
    assert run.since() == {
        "suites/a.py::one": "patch 5/9, change 5",
        "suites/a.py::two": "patch 7/9, change 7; 6/9 does not have what the scenario needs",
    }
    assert prefixes.asked[0] == (4, ("suites/a.py::one", "suites/a.py::two"))
    assert len(prefixes.asked) <= 5
    assert len({count for count, _ in prefixes.asked}) == len(prefixes.asked)


def test_killed_search_is_continued(prefixes: Prefixes, tmp_path: Path) -> None:
    prefixes.verdicts = {"suites/a.py::one": [C] * 6 + [V] * 3}
    run = Searched(tmp_path, *prefixes.verdicts)
    prefixes.killed_at = 6
    with pytest.raises(KeyboardInterrupt):
        run.search()
    assert run.since()["suites/a.py::one"].endswith("; the search is not finished")
    prefixes.killed_at = 0
    run.search()
    assert run.since() == {"suites/a.py::one": "patch 7/9, change 7"}
    assert [count for count, _ in prefixes.asked] == [4, 6, 6, 7]


def test_prefix_that_does_not_build_is_gone_round(prefixes: Prefixes, tmp_path: Path) -> None:
    prefixes.verdicts = {"suites/a.py::one": [C] * 4 + [V] * 5}
    prefixes.broken = {4}
    run = Searched(tmp_path, *prefixes.verdicts)
    run.search()
    assert run.since() == {
        "suites/a.py::one": "one of the patches 4/9 to 5/9; 4/9 says nothing (does not compile)"
    }


def test_patch_that_is_known_not_to_build_is_not_tried(prefixes: Prefixes, tmp_path: Path) -> None:
    prefixes.verdicts = {"suites/a.py::one": [C] * 6 + [V] * 3}
    run = Searched(tmp_path, *prefixes.verdicts)
    run.journal.started("patch-4")
    run.journal.ended("patch-4", V, reason="Patch 4/9 does not compile. Why.")
    run.search()
    assert 4 not in [count for count, _ in prefixes.asked]
    assert run.since() == {"suites/a.py::one": "patch 7/9, change 7"}


def test_violations_of_one_cause_are_bounded(prefixes: Prefixes, tmp_path: Path) -> None:
    prefixes.verdicts = {f"suites/a.py::many{n}": [V] * OF for n in range(8)}
    run = Searched(tmp_path, *prefixes.verdicts)
    run.search()
    words = list(run.since().values())
    assert (words.count("patch 1/9, change 1"), words.count("")) == (OF_ONE_CAUSE, 3)
    assert any("5 of 8 violations" in note for note in read(run.results.dir).notes)


def result(verdict: Verdict, reason: str = "", **members: Any) -> Result:
    expected = members.pop("expected", C)
    entry = Entry("suites/a.py::one", Kind.SCENARIO, "", expected=expected)
    return Result(entry, verdict, reason, ended=True, **members)


REFUSED = "map buf1 length=0x1000: ENODEV"
BASE = BaseAnswer(V, "", "the base's failure", (), (REFUSED,))


@pytest.mark.parametrize(
    ("prefix", "whole", "state"),
    [
        (result(C), result(V, "a"), State.HOLDS),
        (result(N, "no interface"), result(V, "a"), State.NOT_YET),
        (result(V, "a"), result(V, "a"), State.VIOLATES),
        (result(V, "a 17"), result(V, "a 18"), State.VIOLATES),
        (result(V, "b"), result(V, "a"), State.OTHERWISE),
        (result(D, "a"), result(V, "a"), State.OTHERWISE),
        (result(X, "broken"), result(V, "a"), State.UNKNOWN),
        (result(V, "a", expected=V), result(V, "a"), State.NOT_YET),
        (result(V, "b", refused=(REFUSED,)), result(V, "a", base=BASE), State.NOT_YET),
        (result(V, "b", refused=(REFUSED,)), result(V, "a"), State.NOT_YET),
        (result(V, "a", refused=(REFUSED,)), result(V, "a", refused=(REFUSED,)), State.VIOLATES),
        (
            result(V, "a", refused=(REFUSED,), failure="the base's failure"),
            result(V, "a", refused=(REFUSED,), failure="the base's failure", base=BASE),
            State.AS_BASE,
        ),
    ],
)
def test_state_on_a_prefix(prefix: Result, whole: Result, state: State) -> None:
    assert state_of(prefix, whole)[0] is state


@pytest.mark.parametrize(
    "members",
    [
        {"series": None, "tree": Path("linux")},
        {"kernel": Path("bzImage"), "headers": Path("include")},
        {"mutant": "one"},
        {"no_base": True},
        {"until_violated": True},
    ],
)
def test_options_without_a_patch_to_find_are_refused(members: Mapping[str, Any]) -> None:
    with pytest.raises(UsageError, match="--bisect"):
        Request(**{"series": "mine", "bisect": True, **members})


# -- the patches one by one


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


@pytest.fixture
def checked(
    small: SmallKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[tuple[Verdict, str]]]:
    """Check patches that each write the files of one change; some end the boot with an error."""
    monkeypatch.setattr(patch_check, "TOOLS", (GCC,))
    monkeypatch.setattr(Request, "fragments", property(lambda _self: (small.fragment,)))
    # The small kernel has no modules.
    monkeypatch.setattr(patch_check, "build_early", lambda *_: None)

    def check(*changes: dict[str, str], boots: Mapping[int, list[BootError]] | None = None) -> Any:
        tested = formatted(small, *changes)

        def boot(_self: PatchCheck, _kernel: Kernel, count: int) -> None:
            if boots and boots.get(count):
                raise boots[count].pop()

        monkeypatch.setattr(PatchCheck, "_boot", boot)
        results = ResultsFolder.create(tmp_path / "results", "mine")
        journal = results.journal()
        journal.plan(patch.entries_of([f"change {n}" for n in range(1, len(changes) + 1)]))
        journal.run_started()
        progress = Progress(small.store, io.StringIO())
        machines: Any = SimpleNamespace(software=None if boots is None else "an image")
        request = Request(series="mine", bisect=True)
        parts = RunParts(RunInput(request, tested), small.store, progress, results, journal)
        PatchCheck(parts, small.base, machines, Layout()).run()
        return [(one.verdict, one.reason) for one in read(results.dir).patches]

    return check


@pytest.mark.build
def test_patch_that_does_not_compile_names_its_mending(checked: Callable[..., Any]) -> None:
    found = checked(
        {"drivers/dmabuf.c": DMABUF + "\n"},
        {"drivers/more.c": EXTRA},
        {"drivers/more.c": "#error broken\n"},
        {"drivers/more.c": "int more(void);\nint more(void) { return 0; }\n"},
        boots={},
    )
    assert [verdict for verdict, _ in found] == [C, V, V, C]
    assert found[1][1].startswith("Patch 2/4 adds new warnings, 1 line: gcc: drivers/more.c:2:")
    assert found[2][1].startswith("Patch 3/4 does not compile; 4/4 does. ")
    assert "broken" in found[2][1]


@pytest.mark.build
def test_patch_that_hangs_at_boot_is_a_sentence(checked: Callable[..., Any]) -> None:
    changes = [{"drivers/dmabuf.c": DMABUF + "\n" * number} for number in range(1, 4)]
    hangs = BootTimeoutError("It hangs.")
    found = checked(*changes, boots={1: [hangs, hangs], 2: [hangs], 3: [BootError("It panics.")]})
    assert found == [
        (V, "Patch 1/3 does not boot. It hangs."),
        (C, ""),  # a busy host can be the cause of one timeout
        (V, "Patch 3/3 does not boot. It panics."),
    ]


@pytest.mark.build
def test_patches_of_a_series_without_a_kernel_are_built(checked: Callable[..., Any]) -> None:
    found = checked({"drivers/dmabuf.c": DMABUF + "\n"}, {"drivers/dmabuf.c": "#error\n"})
    assert [verdict for verdict, _ in found] == [Verdict.NOT_REACHED, V]
    assert found[1][1].startswith("Patch 2/2 does not compile. ")


# -- the reports


@pytest.fixture
def reported(tmp_path: Path) -> Run:
    """A run with a violation since patch 2 of 3, of which the first does not compile."""
    run = Run(tmp_path / "run")
    run.results.write_run(series="mine", title="Mine")
    patches = patch.entries_of(["one", "two", "three"])
    run.begin(*patches)
    run.end(run.revoke, V, reason="It does not zap.")
    run.end(run.map, C)
    run.end(run.told, C)
    run.journal.compared(run.revoke.id, BaseAnswer(C))
    for entry, verdict, reason in (
        (patches[0], V, "Patch 1/3 does not compile. An error."),
        (patches[1], C, ""),
        (patches[2], C, ""),
    ):
        run.journal.started(entry.id)
        run.journal.ended(entry.id, verdict, reason=reason, details="core.c:1: error: x" if reason else "")
        if entry is patches[1]:
            run.journal.mended("patch-1", 2)
    events = {"patch-2": State.VIOLATES, "patch-3": State.VIOLATES}
    for count, state in ((3, State.VIOLATES), (2, State.VIOLATES)):
        assert events[f"patch-{count}"] is state
        members = {"count": count, "of": 3, "state": state, "reason": "", "subject": f"subject {count}"}
        run.journal._write("tried", id=run.revoke.id, **members)
    run.finish()
    return run


def test_exit_code_of_a_patch_that_does_not_compile(reported: Run) -> None:
    record = read(reported.folder)
    assert record.exit_code is ExitCode.SERIES
    assert not record.damage


def test_reports_tell_the_patches(reported: Run) -> None:
    since = "one of the patches 1/3 to 2/3"
    broken = "Patch 1/3 does not compile; 2/3 does. An error."
    screen = io.StringIO()
    terminal.show(reported.folder, screen, width=100)
    shown = " ".join(screen.getvalue().split())
    page = (reported.folder / "report.html").read_text()
    document = junit.render(reported.folder).decode()
    letter = " ".join(mail.render(reported.folder).decode().split())
    assert f"since {since}" in shown
    assert (
        f"Patch by patch: 2 of 3 patches were seen to build without new warnings, and boot. {broken}" in shown
    )
    assert "Not as promised: 1 of 3 applicable scenarios and 1 patch, by 2 causes" in shown
    for text in (page, document, letter):
        assert since in text
        assert broken in text
    assert 'name="since"' in document
    assert 'classname="patchproof.patches"' in document
    assert 'name="patch-1"' in document
    assert "does not compile" in markdown.render(reported.folder)


def test_damaged_events_of_a_search_are_harness_errors(reported: Run) -> None:
    with (reported.folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "tried", "id": reported.map.id, "count": 0}) + "\n")
        file.write(json.dumps({"event": "mended", "id": "patch-2", "by": "x"}) + "\n")
    record = read(reported.folder)
    verdicts = {one.entry.id: one.verdict for one in record.results}
    assert (verdicts[reported.map.id], verdicts["patch-2"]) == (X, X)
