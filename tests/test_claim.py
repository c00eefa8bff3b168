"""The claim of a scenario: what shows it again, and why some cannot be packed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.klog.fingerprint import constant_parts
from harness.lib.errors import UsageError
from harness.run.claim import Kind, claim_of
from harness.verdict.deviation import NO_COMPLAINT, Deviation
from harness.verdict.record import Complaint, Entry, Result
from harness.verdict.verdict import Kind as EntryKind
from harness.verdict.verdict import Verdict

ENTRY = Entry("suites/test_x.py::test_x[c]", EntryKind.SCENARIO, "x", ("REV-01",))
TRANSCRIPT = """\
# transcript 2
# suites/test_x.py::test_x[c]
! machine ram=0x4000000 cpus=0x2
! device ram 0000:02:00.0
! guest bind 0000:02:00.0 vfio-pci
! actor 1 c
> open vfio 0000:02:00.0
ok dev1 bars=0:0x100,2:0x4000000
! host word ram 0x0
ok 0x00000007
> read dev1 0 0 4
ok 0x1
> read dev1 0 0 4
ok 0x0
> hammered ham1
ok cpu=1,stored=7
> load32 map1 0
ok 0x00000007
! guest load-importer
! end 1
"""
LOAD, HAMMERED = 17, 15
EXPECTED = TRANSCRIPT.replace("load32 map1 0\nok 0x00000007\n", "load32 map1 0\nok 0x00000007\n= sigbus *\n")


def result(verdict: Verdict = Verdict.VIOLATES, line: int = 0, expected: str = "SIGBUS") -> Result:
    deviation = Deviation(expected, "7", "load32 map1 0", line) if verdict is Verdict.VIOLATES else None
    return Result(ENTRY, verdict, "It is 7.", transcript="t.txt", ended=True, deviation=deviation)


def folder(path: Path, text: str = TRANSCRIPT) -> Path:
    (path / "t.txt").write_text(text)
    return path


def test_wrong_reply_is_the_claim_at_its_line(tmp_path: Path) -> None:
    claim = claim_of(result(line=LOAD), folder(tmp_path, EXPECTED))
    assert (claim.kind, claim.line) == (Kind.REPLY, LOAD)
    assert claim.witnessed() == {"ram"}
    assert not claim.needs_importer()  # it is loaded afterwards
    assert list(claim.settings()) == [
        "kind reply",
        f"line {LOAD}",
        f"measured {HAMMERED}",
        "left-out 11",
        "polled 13",
    ]


def test_wrong_reply_without_a_pattern_is_among_all(tmp_path: Path) -> None:
    claim = claim_of(result(line=LOAD), folder(tmp_path))
    assert (claim.kind, claim.line) == (Kind.ANSWERS, LOAD)


def test_operation_without_line_is_found_by_text(tmp_path: Path) -> None:
    assert claim_of(result(), folder(tmp_path)).line == LOAD


def test_expected_pattern_decides_before_the_line(tmp_path: Path) -> None:
    text = TRANSCRIPT.replace("stored=7\n", "stored=7\n= ok cpu=1,stored=0\n")
    assert claim_of(result(), folder(tmp_path, text)).line == HAMMERED


def test_measurement_without_a_pattern_is_no_claim(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A measurement decided"):
        claim_of(result(line=HAMMERED), folder(tmp_path))


@pytest.mark.parametrize("reply", ["timeout\n", ""])
def test_missed_deadline_is_a_silence(tmp_path: Path, reply: str) -> None:
    text = TRANSCRIPT.replace("load32 map1 0\nok 0x00000007\n", f"load32 map1 0\n{reply}")
    claim = claim_of(result(line=LOAD), folder(tmp_path, text))
    assert (claim.kind, claim.line) == (Kind.SILENCE, LOAD)


def test_complaint_of_the_kernel_is_the_claim(tmp_path: Path) -> None:
    title = "WARNING: CPU: 1 PID: 77 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110"
    complained = replace(
        result(expected=NO_COMPLAINT, line=LOAD), complaints=(Complaint("refcount", title, "f" * 12, title),)
    )
    claim = claim_of(complained, folder(tmp_path))
    assert (claim.kind, claim.line) == (Kind.COMPLAINT, 0)
    (pattern,) = claim.complaints
    assert re.search(pattern, "WARNING: CPU: 0 PID: 3 at lib/refcount.c:30 refcount_warn_saturate+0xb/0x11")
    assert not re.search(pattern, "WARNING: CPU: 0 PID: 3 at lib/list.c:30 refcount_warn_saturate+0xb/0x11")


def test_dmabufs_left_over_are_the_claim(tmp_path: Path) -> None:
    left = replace(result(expected=NO_COMPLAINT), reason="The kernel is worse off: 1 DMABUFs are left over")
    assert claim_of(left, folder(tmp_path)).kind is Kind.LEFTOVER


def test_death_of_the_kernel_is_the_claim(tmp_path: Path) -> None:
    assert claim_of(result(Verdict.KERNEL_DIED), folder(tmp_path)).kind is Kind.DEATH


def test_conforming_scenario_claims_all_replies(tmp_path: Path) -> None:
    claim = claim_of(result(Verdict.CONFORMS), folder(tmp_path))
    assert (claim.kind, claim.line) == (Kind.CONFORMS, 0)
    assert claim.needs_importer()


@pytest.mark.parametrize(
    ("verdict", "words"),
    [(Verdict.NOT_APPLICABLE, "is not applicable"), (Verdict.HARNESS_ERROR, "has no verdict on the kernel")],
)
def test_scenario_without_a_verdict_is_refused(tmp_path: Path, verdict: Verdict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        claim_of(result(verdict), folder(tmp_path))


def test_step_of_the_harness_alone_is_refused(tmp_path: Path) -> None:
    other = "! other a debugger holds processor 1 in zap\n"
    before = folder(tmp_path, TRANSCRIPT.replace("> load32", f"{other}> load32"))
    with pytest.raises(UsageError, match="only the harness can do: a debugger holds processor 1 in zap"):
        claim_of(result(line=LOAD + 1), before)
    after = folder(tmp_path, TRANSCRIPT.replace("! guest load-importer\n", other))
    assert claim_of(result(line=LOAD), after).line == LOAD


@pytest.mark.parametrize("name", ["", "../t.txt"])
def test_missing_transcript_is_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "results"
    inner.mkdir()
    folder(tmp_path)
    with pytest.raises(UsageError, match="has no transcript"):
        claim_of(replace(result(), transcript=name), inner)


def test_constant_parts_leave_out_what_varies() -> None:
    title = "BUG: unable to handle page fault for address: ffffc90000abc000 in f+0x1/0x2 at x.c:12"
    assert constant_parts(title) == ("BUG: unable to handle page fault for address: ", " in f", " at x.c")
