"""The text of a failure: what comes first, the evidence, and its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report.failure_text import (
    COMPLAINT_LINES,
    COMPLAINTS,
    CONSOLE_LINES,
    HEADLINE_LIMIT,
    LINE_LIMIT,
    LOG_LINES,
    TEXT_LIMIT,
    TRANSCRIPT_LINES,
    failure_text,
    headline,
)
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import Complaint, ConsoleRange, Entry, Result
from harness.verdict.verdict import Kind, Verdict

ID = "suites/test_map.py::test_one[edu-c]"
ENTRY = Entry(ID, Kind.SCENARIO, "A DMABUF of a BAR can be mapped", ("MAP-01", "MAP-13"))
TRACEBACK = """owner = <harness.actor.actor.Actor object at 0x7f14f0b71890>

>       mapping = owner.map(owner.export(owner.open(registers.address, via), 0))

suites/test_map.py:38: \n_ _ _
harness/actor/actor.py:113: in map
    name = self.say(
E   AssertionError
"""


def violation(reason: str = "mmap() failed with EINVAL", **more: object) -> Result:
    return Result(ENTRY, Verdict.VIOLATES, reason, ended=True, **more)  # type: ignore[arg-type]


def test_text_begins_with_ids_title_reason_and_seen(tmp_path: Path) -> None:
    deviation = Deviation("success", "EINVAL", "map buf1 length=0x1000 prot=rw", 3, "ok")
    failure = "Mismatch\nmmap() failed\nactor.py:9\ntest_map.py:38\ntest_map.py:12"
    result = violation(
        deviation=deviation, failure=failure, details=TRACEBACK, base=BaseAnswer(Verdict.CONFORMS)
    )
    lines = failure_text(result, tmp_path).splitlines()
    assert lines[:5] == [
        "MAP-01 MAP-13: A DMABUF of a BAR can be mapped. mmap() failed with EINVAL",
        "expected: success",
        "seen: EINVAL",
        "asked: map buf1 length=0x1000 prot=rw",
        "at: suites/test_map.py:38",
    ]
    assert lines[5].startswith("base: new, ")
    assert lines[-1] == "More in the results folder: events.jsonl (traceback)"


def test_text_has_no_traceback(tmp_path: Path) -> None:
    text = failure_text(violation(details=TRACEBACK), tmp_path)
    for part in ("Actor object", "harness/actor", "AssertionError", "owner.map"):
        assert part not in text


def test_transcript_ends_with_the_marked_answer(tmp_path: Path) -> None:
    lines = [f"> load32 map1 {number:#x}\nok 0x0" for number in range(100)]
    (tmp_path / "t.txt").write_text("\n".join(lines) + "\n")
    deviation = Deviation("0x1", "0x0", "load32 map1 0x4f", 159)
    text = failure_text(violation(deviation=deviation, transcript="t.txt"), tmp_path)
    assert f"transcript (t.txt, lines {161 - TRANSCRIPT_LINES} to 160; --> is the wrong answer):" in text
    part = text.partition("transcript (")[2].partition("\n\n")[0].splitlines()
    assert part[-2:] == ["    > load32 map1 0x4f", "--> ok 0x0"]
    assert len(part) == TRANSCRIPT_LINES + 1
    assert text.endswith("\n\nMore in the results folder: t.txt")


def test_transcript_without_a_deviation_is_unmarked(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("> revoke dev1 buf1\nok\n")
    text = failure_text(violation(transcript="t.txt"), tmp_path)
    assert "transcript (t.txt, lines 1 to 2):\n    > revoke dev1 buf1\n    ok\n" in text


def test_complaint_is_shown_from_its_head(tmp_path: Path) -> None:
    trace = "\n".join(f"frame {number}" for number in range(COMPLAINT_LINES + 7))
    noise = Complaint("lost", "messages", "f0", "lost messages", fault=False)
    result = violation(complaints=(noise, Complaint("bug", "BUG: oops", "f1", f"BUG: oops\n{trace}")))
    text = failure_text(result, tmp_path)
    assert "kernel (f1):\n    BUG: oops\n    frame 0\n" in text
    assert "    (8 more lines)\n" in text
    assert text.index("kernel (f1)") < text.index("kernel (f0)")


def test_complaint_has_the_source_lines_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "f1.txt").write_text("# decoded\nf (drivers/vfio/x.c:1)\n")
    text = failure_text(violation(complaints=(Complaint("bug", "BUG", "f1", "raw"),)), tmp_path)
    assert "kernel (f1):\n    # decoded\n    f (drivers/vfio/x.c:1)\n" in text
    assert "raw" not in text
    assert text.endswith("folder: stacks/f1.txt")


def test_many_complaints_are_counted(tmp_path: Path) -> None:
    many = tuple(Complaint("bug", "BUG", f"f{number}", "BUG") for number in range(COMPLAINTS + 2))
    text = failure_text(violation(complaints=many), tmp_path)
    assert text.count("kernel (") == COMPLAINTS
    assert "(2 more complaints of the kernel)" in text


def test_console_is_shown_for_a_silent_death(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("before\n" + "".join(f"[{n}.0] x\n" for n in range(50)))
    span = ConsoleRange("console.log", 7, 10_000)
    text = failure_text(Result(ENTRY, Verdict.KERNEL_DIED, "It hung.", console=span), tmp_path)
    assert f"console (console.log):\n    ({50 - CONSOLE_LINES} lines before these)\n" in text
    assert "    [49.0] x\n" in text
    assert "before\n" not in text.partition("console (")[0]
    assert "console (" not in failure_text(violation(console=span), tmp_path)


@pytest.mark.parametrize("name", ["../secret", "link", "missing", "folder", "/etc/passwd"])
def test_file_outside_the_results_is_not_quoted(tmp_path: Path, name: str) -> None:
    results = tmp_path / "results"
    (results / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("hunter2")
    (results / "link").symlink_to("../secret")
    span = ConsoleRange(name, 0, 100)
    result = Result(ENTRY, Verdict.KERNEL_DIED, "It hung.", transcript=name, console=span)
    text = failure_text(result, results)
    assert "(there is no such file in the results folder)" in text
    assert "hunter2" not in text
    assert "root:" not in text


@pytest.mark.parametrize("details", ["", "error: one\nerror: two"])
def test_stage_has_its_last_messages(tmp_path: Path, details: str) -> None:
    (tmp_path / "build.log").write_text("".join(f"line {number}\n" for number in range(LOG_LINES + 1)))
    stage = Entry("build", Kind.STAGE, "the patched kernel builds")
    result = Result(
        stage, Verdict.VIOLATES, "It does not compile.", details, transcript="build.log", ended=True
    )
    lines = failure_text(result, tmp_path).splitlines()
    assert lines[:3] == ["build: It does not compile.", "", "last messages:"]
    assert lines[3] == ("    error: one" if details else "    (1 lines before these)")
    assert lines[-3] == ("    error: two" if details else f"    line {LOG_LINES}")
    assert lines[-1] == "More in the results folder: build.log"


def test_headline_is_one_short_line() -> None:
    assert "\n" not in headline(violation("first\nsecond"))
    assert "second" not in headline(violation("first\nsecond"))
    assert headline(violation("x" * 2000)).endswith("x…")
    assert len(headline(violation("x" * 2000))) == HEADLINE_LIMIT
    assert headline(violation("")).endswith("mapped. violates, where conforms was expected")


def test_rest_of_the_reason_follows(tmp_path: Path) -> None:
    text = failure_text(violation("first\n\nsecond\nthird"), tmp_path)
    assert text == f"{headline(violation('first'))}\nsecond\nthird"


def test_text_is_cut_at_its_limit(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(f"> print {'y' * 1000}\n")
    text = failure_text(violation(transcript="t.txt"), tmp_path)
    assert max(map(len, text.splitlines())) == LINE_LIMIT
    splats = tuple(
        Complaint("bug", "BUG", f"f{number}", "\n".join(["z" * LINE_LIMIT] * COMPLAINT_LINES))
        for number in range(COMPLAINTS)
    )
    text = failure_text(violation(complaints=splats), tmp_path)
    assert len(text) < TEXT_LIMIT + 100
    assert text.endswith("characters, is left out)")


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"> x\n\x1b[2J\xff\n")
    deviation = Deviation("\x1b[1m", "a\nb\x00", "op\u202e", 1)
    text = failure_text(violation("\x1b]0;x\x07", deviation=deviation, transcript="t.txt"), tmp_path)
    assert r"\x1b]0;x\x07" in text
    assert r"seen: a b\x00" in text
    assert r"--> \x1b[2J\xff" in text
    assert all(character.isprintable() or character == "\n" for character in text)
