"""The table at the end of a run: readable at any width, and harmless to a terminal."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.journal.facts import Facts
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.lib.errors import BuildError, ExitCode
from harness.lib.progress import Progress
from harness.lib.text import visible
from harness.report import junit, terminal
from harness.verdict import requirements
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import Entry, repetition_mark
from harness.verdict.verdict import Kind, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"


class Terminal(io.StringIO):
    """A stream that rich takes for a terminal."""

    def isatty(self) -> bool:
        return True


def shown(directory: Path, stream: io.StringIO, width: int | None = None, *, every: bool = True) -> str:
    terminal.show(directory, stream, width, every=every)
    lines = stream.getvalue().splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the variables that set colours or size."""
    for name in ("FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("name", ["mixed", "apply-failed", "killed"])
@pytest.mark.parametrize(("form", "width"), [("wide", 110), ("plain", None), ("short", 80)])
def test_report_equals_the_golden_file(
    name: str, form: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPORTS)
    stream = io.StringIO() if form == "plain" else Terminal()
    output = shown(Path(name), stream, width, every=form != "short")
    assert output == (REPORTS / name / f"{form}.txt").read_text()


@pytest.mark.parametrize("show", [terminal.show, lambda _, stream: Progress(stream=stream).say("apply")])
def test_output_to_a_reader_that_has_gone_ends_nothing(show: Callable[[Path, TextIO], None]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stream:  # noqa: PTH123 - a descriptor has no path
        show(REPORTS / "mixed", stream)
        stream.write("the next one")


def test_table_on_a_narrow_terminal_is_lines() -> None:
    narrow, plain = (shown(REPORTS / "mixed", stream, 60) for stream in (Terminal(), io.StringIO()))
    assert narrow.partition("Findings:")[0] == plain.partition("Findings:")[0]
    assert "! violates               MAP-01, MAP-13  A DMABUF" in narrow


def test_table_has_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[31m" in shown(REPORTS / "mixed", Terminal(), 110)
    assert "\x1b" not in shown(REPORTS / "mixed", io.StringIO(), 110)


def run_one(root: Path, text: str, name: str = "test_x") -> Path:
    results = ResultsFolder.create(root, "example")
    results.write_run(
        title=text, kernel_release=text, accelerator=text, base=text, base_wanted="6.19", digest=text
    )
    journal = results.journal()
    journal.plan([Entry(name, Kind.SCENARIO, text, (text,))])
    journal.run_started()
    journal.started(name)
    journal.ended(name, Verdict.VIOLATES, reason=text)
    journal.note(text)
    journal.run_ended()
    return results.dir


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec=None, categories=None)), name=st.text())
@pytest.mark.parametrize("form", [Terminal, io.StringIO])
def test_table_of_any_text_is_printable(
    tmp_path_factory: pytest.TempPathFactory, form: type[io.StringIO], text: str, name: str
) -> None:
    printed = shown(run_one(tmp_path_factory.mktemp("run"), text, name), form(), 110)
    assert all(c.isprintable() or c in "\n\t" for c in printed)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"identity": "ab" * 32, "digest": "cd" * 32}, "series example abababababab, base"),
        ({"digest": "cd" * 32}, "series example cdcdcdcdcdcd, base"),
        ({"identity": "", "digest": "cd" * 32}, "series example, base"),
        ({"identity": "", "checkout": "ef" * 20}, "tree efefefefefef of example, base"),
        ({"identity": "ab" * 32, "checkout": "ef" * 20}, "example abababababab, tree efefefefefef, base"),
    ],
)
def test_last_line_names_series_and_tree(tmp_path: Path, facts: Facts, says: str) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    results.write_run(**facts)
    results.journal().plan([])
    assert says in shown(results.dir, io.StringIO()).splitlines()[-1]


def test_table_shows_markup_as_text(tmp_path: Path) -> None:
    printed = shown(run_one(tmp_path, "[bold]x[/] :smile: [link=file:///etc]y[/link]"), Terminal(), 200)
    assert "[bold]x[/] :smile: [link=file:///etc]y[/link]" in printed


def test_table_on_ascii_escapes_other_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = run_one(tmp_path, "größe €")
    for width, tty in ((110, True), (None, False)):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        monkeypatch.setattr(stream, "isatty", lambda answer=tty: bool(answer))
        terminal.show(directory, stream, width)
        stream.flush()
        assert b"gr\\xf6\\xdfe \\u20ac" in raw.getvalue()


def test_table_is_ordered_by_requirement(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    ids = ["REV-10", "MAP-02", "REV-9", "MAP-01"]
    results.journal().plan([Entry(f"test_{name}", Kind.SCENARIO, "", (name,)) for name in ids])
    printed = shown(results.dir, io.StringIO())
    order = sorted(ids, key=lambda name: printed.index(f"test_{name}"))
    assert order == ["REV-9", "REV-10", "MAP-01", "MAP-02"]  # groups in the order of the plan


def test_table_line_is_no_wider_for_another_long_cell(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    many = tuple(f"MAP-{number:02}" for number in range(40))
    entries = [Entry("a", Kind.SCENARIO, "A title", ("REV-01",)), Entry("b", Kind.SCENARIO, "", many)]
    results.journal().plan(entries)
    printed = shown(results.dir, io.StringIO())
    line = next(line for line in printed.splitlines() if "REV-01" in line)
    assert len(line) < 80
    assert ", ".join(many) in printed


def test_table_cuts_a_long_reason(tmp_path: Path) -> None:
    printed = shown(run_one(tmp_path, "\n".join(f"line{number}." for number in range(9))), io.StringIO())
    assert "      line3.\n      ...\n" in printed


def test_table_indents_foreign_text(tmp_path: Path) -> None:
    printed = shown(run_one(tmp_path, "x\nResults: elsewhere"), io.StringIO())
    assert [line for line in printed.splitlines() if line.startswith("Results: elsewhere")] == []


def test_table_of_an_empty_plan_is_shown(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    results.journal().plan([])
    assert "0 scenarios: none ran" in shown(results.dir, io.StringIO())


def test_reports_and_exit_code_come_from_the_journal(tmp_path: Path) -> None:
    directory = run_one(tmp_path, "reason")
    stream = io.StringIO()
    junit.write(directory)
    terminal.show(directory, stream)
    assert read(directory).exit_code is ExitCode.SERIES
    assert f"Results: {directory}" in stream.getvalue()
    assert (directory / "junit.xml").exists()


def test_visible_keeps_plain_text() -> None:
    assert visible("mmap() failed: EINVAL\n\tgrün ✓ 日本\\x1b") == "mmap() failed: EINVAL\n\tgrün ✓ 日本\\x1b"


def test_table_joins_variants_with_one_verdict(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    journal = results.journal()
    names = [f"test_x[{kind}]" for kind in ("c", "python", "odd")]
    journal.plan([Entry(name, Kind.SCENARIO, "It maps", ("MAP-01",)) for name in names])
    for name in names:
        journal.started(name)
        journal.ended(name, Verdict.VIOLATES if "odd" in name else Verdict.CONFORMS, reason="why")
    text = shown(results.dir, io.StringIO())
    assert "  conforms  MAP-01  It maps (2 variants)\n" in text
    assert "! violates  MAP-01  It maps\n      test_x[odd]\n      why\n" in text


def repeated(root: Path, **observed: str) -> Path:
    """Record a run with a verdict for each repetition, given as ``name="conforms violates"``."""
    results = ResultsFolder.create(root, "example")
    results.write_run(random_order="4711")
    journal = results.journal()
    entries = {
        Entry(f"test_{name}{repetition_mark(n)}", Kind.SCENARIO, name, ("MAP-01",), repetition=n): verdict
        for name, verdicts in observed.items()
        for n, verdict in enumerate(verdicts.split(), 1)
    }
    journal.plan(entries)
    journal.run_started()
    for entry, verdict in entries.items():
        journal.started(entry.id)
        journal.ended(entry.id, Verdict(verdict))
    journal.run_ended()
    return results.dir


def test_table_has_a_section_for_differing_verdicts(tmp_path: Path) -> None:
    directory = repeated(
        tmp_path, steady="conforms conforms conforms", odd="conforms not-applicable conforms"
    )
    text = shown(directory, io.StringIO())
    assert "  conforms        MAP-01  steady (3 runs)\n  conforms        MAP-01  odd (2 runs)\n" in text
    assert (
        "\nVerdicts that differ between repetitions:\n! MAP-01  test_odd\n"
        "      2 conforms, 1 not-applicable (#2)\n\n"
    ) in text
    assert "2 scenarios, 3 times each: 5 conforms, 1 not-applicable; " in text
    assert "all as expected, 1 scenario with more than one verdict.\n" in text


def test_table_of_agreeing_repetitions_has_no_section(tmp_path: Path) -> None:
    assert "differ" not in shown(repeated(tmp_path, steady="violates violates"), io.StringIO())


def test_last_line_of_the_table_has_the_seed(tmp_path: Path) -> None:
    lines = shown(repeated(tmp_path, steady="conforms"), io.StringIO()).splitlines()
    assert lines[-1].endswith(", accelerator (none was started), --random-order 4711")


def test_violations_show_their_origin(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    journal = results.journal()
    same = BaseAnswer(Verdict.VIOLATES, "EINVAL", "EINVAL")
    answers = {"test_old": same, "test_new": BaseAnswer(Verdict.CONFORMS), "test_other": None}
    journal.plan([Entry(name, Kind.SCENARIO, f"about {name}", ("MAP-01",)) for name in answers])
    journal.run_started()
    for name, answer in answers.items():
        journal.started(name)
        journal.ended(name, Verdict.VIOLATES, reason="EINVAL", failure="EINVAL")
        if answer is not None:
            journal.compared(name, answer)
    journal.run_ended()
    output = shown(results.dir, io.StringIO())
    rows = [line.split("MAP-01")[0].strip() for line in output.splitlines() if "  MAP-01" in line]
    assert rows == ["= violates (inherited)", "! violates (new)", "! violates"]
    assert "the base does the same" in output
    headings = [line for line in output.splitlines() if ". MAP-01: " in line]
    assert headings == [
        "1. MAP-01: new, 1 scenario",
        "2. MAP-01: 1 scenario",
        "3. MAP-01: inherited, 1 scenario",
    ]
    assert "3 violates; 2 not as expected, 1 inherited from the base." in output
    assert "compared with the base alone: 1 new, 1 inherited. An inherited one fails no run." in output


def conforming(root: Path, number: int) -> Path:
    """Record a run of ``number`` scenarios of each group, of which a few do not apply."""
    results = ResultsFolder.create(root, "example")
    journal = results.journal()
    names = [f"{group}-{n:02}" for group in requirements.load().groups for n in range(number)]
    journal.plan([Entry(f"test_{name}", Kind.SCENARIO, f"about {name}", (name,)) for name in names])
    journal.run_started()
    for name in names:
        journal.started(f"test_{name}")
        applies = not name.endswith("3")
        verdict = Verdict.CONFORMS if applies else Verdict.NOT_APPLICABLE
        journal.ended(f"test_{name}", verdict, reason="" if applies else f"the kernel lacks {name}")
    journal.run_ended()
    return results.dir


def test_report_of_a_conforming_run_has_few_lines(tmp_path: Path) -> None:
    output = shown(conforming(tmp_path, 20), Terminal(), 80, every=False)
    assert len(output.splitlines()) <= 24
    assert "Not applicable, so not looked at: 30 scenarios, of 30 reasons (-v shows all)\n" in output


def fail_stage(root: Path) -> Path:
    """Record a run whose build failed, so that no scenario was reached."""
    results = ResultsFolder.create(root, "example")
    journal = results.journal()
    scenarios = [Entry(f"test_{n}", Kind.SCENARIO, "", ("MAP-01",)) for n in range(3)]
    journal.plan([Entry("build", Kind.STAGE, "the kernel builds"), *scenarios])
    journal.run_started()
    log = results.dir / "build.log"
    log.write_text("all of it")
    error = BuildError("The kernel does not build: x.c:1: error.", log=log, tail="last line")
    with pytest.raises(BuildError), journal.stage("build"):
        raise error
    journal.run_ended()
    return results.dir


def test_report_of_a_failed_stage_is_its_reason(tmp_path: Path) -> None:
    directory = fail_stage(tmp_path)
    assert shown(directory, io.StringIO()).splitlines()[:-2] == [
        "build: violates",
        "  The kernel does not build: x.c:1: error.",
        "    last line",
        f"  The whole log: {directory}/build.log",
    ]


def violated(root: Path, **seen: tuple[str, Deviation]) -> Path:
    """Record a run whose scenarios, by name, violate a requirement with this deviation."""
    results = ResultsFolder.create(root, "example")
    journal = results.journal()
    journal.plan([Entry(name, Kind.SCENARIO, f"about {name}", (one[0],)) for name, one in seen.items()])
    journal.run_started()
    for name, (_, deviation) in seen.items():
        journal.started(name)
        journal.ended(name, Verdict.VIOLATES, reason=deviation.sentence, deviation=deviation)
    journal.run_ended()
    return results.dir


def test_report_joins_scenarios_with_one_wrong_answer(tmp_path: Path) -> None:
    refused = Deviation("success", "EINVAL", "map buf1 length=0x1000", 7, "ok")
    other = Deviation("SIGBUS at 0x0", "0x10", "load32 map1 0x0", 9)
    directory = violated(
        tmp_path, a=("MAP-01", refused), b=("HUGE-01", refused), c=("REV-01", other), d=("MAP-02", refused)
    )
    output = shown(directory, io.StringIO(), every=False)
    assert "Not as promised: 4 of 4 applicable scenarios, by 2 causes, the gravest first." in output
    assert [line for line in output.splitlines() if line[:2] in ("1.", "2.")] == [
        "1. MAP-01: 3 scenarios",
        "2. REV-01: 1 scenario",
    ]
    assert "    expected   success\n    seen       EINVAL\n" in output
    assert "    also       HUGE-01 (1), MAP-02 (1)\n" in output


def test_report_marks_the_wrong_answer(tmp_path: Path) -> None:
    found = Deviation("SIGBUS at 0x0", "0x10", "load32 map1 0x0", 3)
    directory = violated(tmp_path, a=("REV-01", found))
    transcript = directory / "transcripts" / "a.txt"
    transcript.parent.mkdir(exist_ok=True)
    transcript.write_text("> revoke dev1 buf1\nok\n> load32 map1 0x0\nok 0x10\n> unmap map1\nok\n")
    events = directory / "events.jsonl"
    events.write_text(events.read_text().replace('"reason"', '"transcript": "transcripts/a.txt", "reason"'))
    assert "-> ok 0x10\n    the rest   transcripts/a.txt\n" in shown(directory, io.StringIO())
