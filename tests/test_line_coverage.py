"""Executed lines: what is instrumented, what gcov reads of real counters, and the sums in the reports."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from results import Run
from small_kernel import SmallKernel

from harness.guest.gcov import Counters
from harness.guest.guest import Guest
from harness.journal import line_counts
from harness.journal.line_counts import CountsWriter, read_counts
from harness.journal.reader import read
from harness.kernel import gcov, profile
from harness.kernel.added_lines import _FUNCTION, AddedLine, added_lines
from harness.kernel.build import Kernel
from harness.kernel.left_out import left_out
from harness.lib.errors import ExitCode, HarnessError, UsageError
from harness.report import html, line_coverage, markdown
from harness.run.line_coverage import LineCoverage, require
from harness.run.line_sums import Measured, report
from harness.run.request import Request, _require_code
from harness.run.stages import COVERAGE
from harness.series.series import Patch, Series
from harness.verdict.verdict import Verdict
from harness.vm.ssh import Completed

SOURCE = "drivers/one.c"
PROGRAM = """\
int called(int a);
int never(int a);
int called(int a)
{
	if (a > 3)
		return 7;
	return 2;
}
int never(int a)
{
	return a + 1;
}
int main(int argc, char **argv)
{
	return called(argc) == 7;
}
"""


class Compiled:
    """A program that gcc has instrumented, with its notes and the counters of one execution."""

    def __init__(self, folder: Path, program: str = PROGRAM) -> None:
        self.folder = folder
        source = folder / SOURCE
        source.parent.mkdir(parents=True)
        source.write_text(program)
        self._run("gcc", "-O0", "--coverage", "-c", SOURCE, "-o", "drivers/one.o")
        self._run("gcc", "--coverage", "drivers/one.o", "-o", "program")
        self._run("./program")
        self.counters = (folder / "drivers/one.gcda").read_bytes()

    def _run(self, *argv: str) -> None:
        subprocess.run(argv, cwd=self.folder, check=True)

    def lines(self, counters: bytes) -> dict[int, int]:
        (found,) = gcov.read(self.folder, [(SOURCE, counters)], [SOURCE])
        return {number: line.count for number, line in found[SOURCE].items()}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(tmp_path_factory.mktemp("compiled"))


class TestGcov:
    def test_counters_give_each_line_its_count(self, compiled: Compiled) -> None:
        found = compiled.lines(compiled.counters)
        assert (found[5], found[6], found[7], found[11], found[15]) == (1, 0, 1, 0, 1)

    def test_notes_alone_give_executable_lines(self, compiled: Compiled) -> None:
        found = compiled.lines(b"")
        assert found.keys() == compiled.lines(compiled.counters).keys()
        assert set(found.values()) == {0}

    def test_counters_of_another_build_are_refused(self, compiled: Compiled, tmp_path: Path) -> None:
        other = Compiled(tmp_path, PROGRAM + "int third;\n")
        with pytest.raises(HarnessError, match=r"drivers/one\.c are of another build .* Start a new run"):
            compiled.lines(other.counters)

    def test_damaged_counters_are_no_traceback(self, compiled: Compiled) -> None:
        for damaged in (compiled.counters[:40], compiled.counters[:12] + b"\xff" * 400):
            found: dict[int, int] | None = None
            with contextlib.suppress(HarnessError):
                found = compiled.lines(damaged)
            assert found is None or found.keys() == compiled.lines(b"").keys()

    def test_answer_of_another_form_is_refused(self) -> None:
        for content in ({}, {"files": [{"file": "x.c"}]}, {"files": [{"file": "x.c", "lines": [3]}]}):
            with pytest.raises(HarnessError, match="not known here"):
                gcov._lines(content, ["x.c"])

    def test_host_without_gcov_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gcov, "PROGRAM", "gcov-of-nobody")
        with pytest.raises(HarnessError, match=r"--coverage needs gcov, .* Install Debian's package gcc"):
            gcov.require_program()

    def test_gcov_of_another_version_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gcov, "PROGRAM", "make")
        with pytest.raises(HarnessError, match="needs a gcov of the compiler's version"):
            gcov.require_program()


class TestProfile:
    def test_sources_are_changed_files_and_includers(self, tmp_path: Path) -> None:
        small = SmallKernel(tmp_path)
        tree = small.tree(
            {
                "drivers/dmabuf.c": '#include "private.h"\nint dmabuf(void)\n{\n\treturn 3;\n}\n',
                "drivers/other.c": '#include "private.h"\n',
                "drivers/private.h": "static inline int one(void)\n{\n\treturn 1;\n}\n",
                "tools/testing/test.c": "int main(void) { return 0; }\n",
                "Documentation/x.rst": "words\n",
            }
        )
        assert profile.sources(tree) == ["drivers/dmabuf.c", "drivers/other.c"]
        assert profile.sources(small.tree()) == []

    def test_make_instruments_one_folder_alone(self, tmp_path: Path) -> None:
        (tmp_path / "Makefile").write_text("all:\n\t@$(MAKE) -f sub obj=a\n\t@$(MAKE) -f sub obj=b\n")
        (tmp_path / "sub").write_text("all:\n\t@echo $(obj):$(GCOV_PROFILE_main.o)$(GCOV_PROFILE_other.o)\n")
        words = profile.make_arguments(["a/main.c", "c/other.c"])
        done = subprocess.run(
            ["make", "--no-print-directory", *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["a:y", "b:"]

    def test_added_lines_have_patch_and_function(self, tmp_path: Path) -> None:
        small = SmallKernel(tmp_path)
        old = (small.repository / "drivers/dmabuf.c").read_text()
        tree = small.tree(
            {"drivers/dmabuf.c": old + "\nstatic long added(struct a *a,\n\t\tint b)\n{\n\tb++;\n}\n"}
        )
        found = added_lines(tree, {})["drivers/dmabuf.c"]
        number = len(old.splitlines()) + 5
        assert found[number] == AddedLine(1, "\tb++;", "added")
        assert min(found) == len(old.splitlines()) + 1

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("static long added(struct a *a,", "added"),
            ("added(struct a *a)", "added"),  # below its type
            ("struct a *added(void)", "added"),
            ("int added(void);", None),
            ("\treturn added(1);", None),
            ("struct a added = {", None),
        ],
    )
    def test_function_begins_in_the_first_column(self, line: str, name: str | None) -> None:
        found = _FUNCTION.match(line)
        assert (found and found[1]) == name


LEFT_OUT = """\
#ifdef CONFIG_ON
on
#else
off
#endif
#if IS_ENABLED(CONFIG_OFF) || (defined(CONFIG_ON) && !IS_ENABLED(CONFIG_MODULE))
off
#elif IS_MODULE(CONFIG_MODULE) /* why */
on
# ifndef CONFIG_ON
off

# endif
#else
off
#endif
#if defined(CONFIG_OFF) && SOMETHING
unknown
#else
unknown
#endif
#if 0
unknown
#endif
"""


def test_left_out_lines_are_those_of_options_that_are_off() -> None:
    lines = LEFT_OUT.splitlines()
    found = left_out(lines, {"ON": "y", "MODULE": "m"})
    assert [lines[number - 1] for number in sorted(found)] == ["off"] * 4
    assert len(found) == lines.count("off")


def test_left_out_of_endless_conditions_ends() -> None:
    deep = ["#if " + "(" * 400, *["#if X"] * 1000, "x"]
    assert left_out(deep, {}) == set()


class CountingGuest:
    """A guest that answers the scripts of Counters with these words."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.machine: Any = None
        self.deadline = 1.0

    def script(self, _text: str, *_arguments: str, seconds: float | None = None) -> Completed:
        return Completed(0, self.answers.pop(0), b"")


DOCUMENTATION = b"""From: Dev <dev@example.org>
Date: Mon, 2 Mar 2026 10:00:00 +0000
Subject: [PATCH] x

Why.
---
diff --git a/Documentation/x.rst b/Documentation/x.rst
--- a/Documentation/x.rst
+++ b/Documentation/x.rst
@@ -1,1 +1,2 @@
 words
+more
"""
ROOT = b"/sys/kernel/debug/gcov/build/drivers/one.gcda\n/sys/kernel/debug/gcov/build/drivers/two.gcda\n"


def counters_of(*answers: bytes) -> Counters:
    return Counters(cast(Guest, CountingGuest(*answers)), [SOURCE, "drivers/two.c", "drivers/absent.c"])


class TestCounters:
    def test_counters_are_told_apart_by_their_sizes(self) -> None:
        found = counters_of(ROOT, b"8\n6\n", b"adcg1234adcg56")
        assert found.take() == {SOURCE: b"adcg1234", "drivers/two.c": b"adcg56"}

    def test_kernel_without_counters_is_told(self) -> None:
        with pytest.raises(HarnessError, match="no counters of lines below /sys/kernel/debug/gcov"):
            counters_of(b"")

    @pytest.mark.parametrize("answer", [b"", b"adcg1234adcg5", b"adcg1234" + b"x" * 6])
    def test_wrong_answer_is_no_count(self, answer: bytes) -> None:
        with pytest.raises(HarnessError, match=r"could not be taken|not those of gcov"):
            counters_of(ROOT, b"8\n6\n", answer).take()

    @pytest.mark.parametrize("sizes", [b"", b"8\n", b"x\ny\n", b"99999999\n6\n", b"-8\n9\n"])
    def test_impossible_sizes_are_refused(self, sizes: bytes) -> None:
        with pytest.raises(HarnessError):
            counters_of(ROOT, sizes)


def test_stored_counts_are_read_back(tmp_path: Path) -> None:
    CountsWriter(tmp_path).add("one", {SOURCE: b"first"})
    later = CountsWriter(tmp_path)
    later.add("two", {SOURCE: b"first"})
    later.add("", {SOURCE: b"second"})
    later.lose("its machine has ended")
    taken, counters, lost = read_counts(tmp_path)
    assert lost == ["its machine has ended"]
    assert [one.scenario for one in taken] == ["one", "two", ""]
    assert [counters[one.objects[SOURCE]] for one in taken] == [b"first", b"first", b"second"]
    with (tmp_path / line_counts.FOLDER / line_counts.COUNTS).open("a") as stream:
        stream.write('{"event": "taken", "sce')  # of a killed writer
    assert len(read_counts(tmp_path)[0]) == 3
    later.repair()
    later.add("three", {})
    assert len(read_counts(tmp_path)[0]) == 4
    with (tmp_path / line_counts.FOLDER / line_counts.COUNTS).open("a") as stream:
        stream.write('{"event": "counters"}\n')
    with pytest.raises(HarnessError, match=r"counts\.jsonl is damaged \(KeyError"):
        CountsWriter(tmp_path)


def measured(compiled: Compiled) -> Measured:
    added = {
        SOURCE: {
            number: AddedLine(1 if number < 9 else 2, text, "called" if number < 9 else "never")
            for number, text in enumerate(PROGRAM.splitlines(), 1)
            if number < 13
        },
        "drivers/off.c": {1: AddedLine(2, "int off;", ""), 2: AddedLine(2, "", "")},
    }
    result = Measured(added, [SOURCE])
    for counters, scenarios in ((b"", ()), (compiled.counters, ("one", "")), (compiled.counters, ("two",))):
        (lines,) = gcov.read(compiled.folder, [(SOURCE, counters)], added)
        result.add(lines, scenarios)
    return result


class TestSums:
    def test_lines_json_has_counts_and_scenarios(self, compiled: Compiled) -> None:
        lines = measured(compiled).members()[SOURCE]["lines"]
        executed = {"patch": 1, "function": "called", "count": 3, "scenarios": ["one", "two"]}
        assert executed.items() <= lines["7"].items()
        assert {"patch": 2, "function": "never", "count": 0, "scenarios": []}.items() <= lines["11"].items()
        assert "15" not in lines  # not added by the series

    def test_report_names_what_was_not_executed(self, compiled: Compiled, tmp_path: Path) -> None:
        requirements = {"one": ("MAP-01", "MAP-02"), "two": ("REV-03",)}
        sums = report(measured(compiled), requirements, ["first", "second"])
        assert sums["groups"] == {"MAP": sums["executed"], "REV": sums["executed"]}
        assert [one["executable"] > one["executed"] for one in sums["patches"]] == [True, True]
        (tmp_path / line_counts.FOLDER).mkdir()
        line_counts.write(tmp_path, line_counts.REPORT, {"schema": line_counts.SCHEMA, **sums})
        text = "\n".join(line_coverage.text(tmp_path, every=True))
        assert f"Lines: {sums['executed']} of {sums['executable']} executable lines" in text
        assert "patch 2, drivers/one.c, never(), which was never called:" in text
        assert "patch 1, drivers/one.c, called(): 1 line" in text
        assert "       11          return a + 1;" in text
        assert "Not compiled in this configuration, so not looked at: 1 line" in text

    def test_page_has_the_lines_as_plain_text(self, compiled: Compiled, tmp_path: Path) -> None:
        run = Run(tmp_path / "example-20260226T202211Z")
        run.begin()
        run.finish()
        (run.folder / line_counts.FOLDER).mkdir()
        hostile = "</pre><script>alert(1)</script>{{ 7919*7907 }}"
        sums = report(measured(compiled), {}, ["first", hostile])
        sums["missed"][0]["lines"].append([99, hostile])
        line_counts.write(run.folder, line_counts.REPORT, {"schema": line_counts.SCHEMA, **sums})
        page, summary = html.render(run.folder), markdown.render(run.folder)
        sentence = f"{sums['executed']} of {sums['executable']} executable lines that the series adds"
        assert sentence in page
        assert sentence in summary
        assert "<script>" not in page
        assert "62615533" not in page  # the product: no template was made of the text
        assert page.count("{{ 7919*7907 }}") == 2

    def test_run_that_executed_nothing_is_not_green(self, tmp_path: Path) -> None:
        run = Run(tmp_path / "example-20260226T202211Z")
        run.begin(COVERAGE)
        for entry in (run.revoke, run.map, run.told):
            run.end(entry, Verdict.CONFORMS)
        with pytest.raises(HarnessError), run.journal.stage(COVERAGE.id):
            require(0, 7, 0.0)
        page = run.finish().read_text()
        assert read(run.folder).exit_code is ExitCode.HARNESS
        assert "No verdict on the series: too few of its lines were executed." in page
        assert 'class="answer open"' in page

    def test_run_without_coverage_has_no_lines(self, tmp_path: Path) -> None:
        assert list(line_coverage.text(tmp_path)) == []

    def test_damaged_report_is_told(self, tmp_path: Path) -> None:
        (tmp_path / line_counts.FOLDER).mkdir()
        path = tmp_path / line_counts.FOLDER / line_counts.REPORT
        wrong = ("x", float("inf"))
        schema = {"schema": line_counts.SCHEMA}
        for content in ("{", *(json.dumps(schema | {"executable": number}) for number in wrong)):
            path.write_text(content)
            with pytest.raises(HarnessError, match=r"is damaged .* Remove it"):
                list(line_coverage.text(tmp_path))


class Counted:
    """The executed lines of a run whose series adds PROGRAM, on a machine that answers with ``compiled``."""

    def __init__(self, compiled: Compiled, folder: Path, config: str = "CONFIG_GCOV_KERNEL=y\n") -> None:
        self.compiled = compiled
        self.tree = SmallKernel(folder / "kernel").tree({SOURCE: PROGRAM})
        built = folder / "built"
        (built / profile.NOTES / "drivers").mkdir(parents=True)
        shutil.copy(compiled.folder / "drivers/one.gcno", built / profile.NOTES / "drivers")
        (built / "config").write_text(config)
        self.kernel = Kernel(built / "bzImage", built, built / "config", None, "6.19.6", "kernel-1", "gcc")
        self.run = Run(folder / "example-20260226T202211Z")
        self.run.begin(COVERAGE)
        self.lines = LineCoverage(self.run.results, self.run.journal, wanted=True)
        self.alive = True

    def boot(self) -> Guest:
        """Start a machine whose counters are those of one execution each time."""
        path = f"/sys/kernel/debug/gcov/{SOURCE.replace('.c', '.gcda')}\n".encode()
        size = str(len(self.compiled.counters)).encode()
        guest = CountingGuest(path, size, *[self.compiled.counters] * 9)
        guest.machine = SimpleNamespace(alive=lambda: self.alive, name="machine-1")
        self.lines.booted(cast(Guest, guest))
        return cast(Guest, guest)

    def finish(self, least: float = 0.0) -> dict[str, Any]:
        """End the run; return the member ``lines`` of its file in lines.json."""
        self.lines.finish({"one": ("MAP-01",)}, ("first",), least)
        content = json.loads((self.run.folder / line_counts.FOLDER / line_counts.LINES).read_text())
        found: dict[str, Any] = content["files"][SOURCE]["lines"]
        return found


class TestRun:
    def test_counts_belong_to_the_scenario_in_progress(self, compiled: Compiled, tmp_path: Path) -> None:
        counted = Counted(compiled, tmp_path)
        counted.lines.prepare(counted.kernel, counted.tree)
        guest = counted.boot()
        counted.lines.begin("one")
        counted.lines.take(guest)
        counted.lines.take(guest)  # between two scenarios
        assert [one.scenario for one in read_counts(counted.run.folder)[0]] == ["", "one", ""]
        line = counted.finish()["7"]
        assert line == {"patch": 1, "function": "called", "count": 3, "scenarios": ["one"]}
        assert read(counted.run.folder).results[-1].verdict is Verdict.CONFORMS

    def test_counts_of_a_dead_machine_are_noted(self, compiled: Compiled, tmp_path: Path) -> None:
        counted = Counted(compiled, tmp_path)
        counted.lines.prepare(counted.kernel, counted.tree)
        guest = counted.boot()
        counted.lines.begin("one")
        counted.alive = False
        counted.lines.take(guest)
        assert counted.finish()["7"]["scenarios"] == []
        assert "What 1 machine executed last was not counted: one" in read(counted.run.folder).notes[0]

    def test_counts_of_an_earlier_part_of_the_run_stay(self, compiled: Compiled, tmp_path: Path) -> None:
        counted = Counted(compiled, tmp_path)
        for scenario in ("one", "two"):
            counted.lines = LineCoverage(counted.run.results, counted.run.journal, wanted=True)
            counted.lines.prepare(counted.kernel, counted.tree)
            guest = counted.boot()
            counted.lines.begin(scenario)
            counted.lines.take(guest)
        assert counted.finish()["7"]["scenarios"] == ["one", "two"]

    def test_too_few_lines_are_a_fault_of_the_harness(self, compiled: Compiled, tmp_path: Path) -> None:
        counted = Counted(compiled, tmp_path)
        counted.lines.prepare(counted.kernel, counted.tree)
        counted.boot()
        with pytest.raises(HarnessError, match="--require-coverage asks for 99 %"):
            counted.finish(99.0)
        assert read(counted.run.folder).results[-1].verdict is Verdict.HARNESS_ERROR

    def test_kernel_without_gcov_is_refused(self, compiled: Compiled, tmp_path: Path) -> None:
        counted = Counted(compiled, tmp_path, "CONFIG_PCI=y\n")
        with pytest.raises(HarnessError, match="needs CONFIG_GCOV_KERNEL, which is off in this kernel"):
            counted.lines.prepare(counted.kernel, counted.tree)

    def test_counting_is_off_unless_it_is_wanted(self, compiled: Compiled, tmp_path: Path) -> None:
        counted = Counted(compiled, tmp_path)
        counted.lines = LineCoverage(counted.run.results, counted.run.journal, wanted=False)
        counted.lines.prepare(counted.kernel, counted.tree)
        counted.boot()
        counted.lines.finish({}, (), 99.0)
        assert not (counted.run.folder / line_counts.FOLDER).exists()


def test_no_executed_line_is_a_fault_of_the_run() -> None:
    with pytest.raises(
        HarnessError, match="None of the 7 executable lines that the series adds was executed"
    ):
        require(0, 7, 0.0)
    with pytest.raises(HarnessError, match="has no executable line that the series adds"):
        require(0, 0, 0.0)
    with pytest.raises(HarnessError, match=r"3 of 4 .* 75\.0 %, and --require-coverage asks for 80 %"):
        require(3, 4, 80.0)
    require(3, 4, 75.0)


def test_coverage_of_a_series_without_c_is_refused() -> None:
    patch = Patch("0001-x.patch", DOCUMENTATION, "x")
    series = Series("words", "x", "6.19", "base", (patch,), {}, "a test")
    with pytest.raises(UsageError, match="words changes no C file of the kernel: leave --coverage out"):
        _require_code(series)
    code = replace(patch, content=DOCUMENTATION.replace(b"Documentation/x.rst", b"drivers/one.c"))
    _require_code(replace(series, patches=(code,)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"require_coverage": 90.0, "series": "x"}, "give both"),
        ({"coverage": True, "series": "x", "require_coverage": 101.0}, "takes a percentage"),
        ({"coverage": True}, "no series is given"),
        ({"coverage": True, "kernel": Path("k"), "headers": Path("h")}, "leave --kernel out"),
        ({"coverage": True, "series": "x", "shard": SimpleNamespace()}, "leave --shard out"),
    ],
)
def test_coverage_of_nothing_is_a_usage_error(options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Request(**options)
