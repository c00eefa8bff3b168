"""The verdict on a test program of the kernel, by its output and its exit status."""

from __future__ import annotations

import pytest

from harness.verdict.selftest import Outcome, judge
from harness.verdict.verdict import Verdict

GOOD = b"TAP version 13\n1..2\nok 1 a\nok 2 b # SKIP no device\n"
BAD = b"TAP version 13\n1..2\nok 1 a\n# x.c:7: 1 is not 2\nnot ok 2 b\n"


def outcome(output: bytes, status: int, **more: bool) -> Outcome:
    return judge(output, status, limit=4096, seconds=60, **more)


@pytest.mark.parametrize(
    ("output", "status", "verdict", "reason"),
    [
        (GOOD, 0, Verdict.CONFORMS, "1 test passed, 1 skipped."),
        (BAD, 1, Verdict.VIOLATES, "1 of 2 tests failed: b."),
        (BAD, 0, Verdict.VIOLATES, "1 of 2 tests failed: b."),
        (GOOD, 1, Verdict.VIOLATES, "It exited with 1, although none of 2 tests failed."),
        (GOOD, 139, Verdict.VIOLATES, "It was ended by SIGSEGV after the test b."),
        (GOOD, 255, Verdict.VIOLATES, "It exited with 255, although none of 2 tests failed."),
        (b"", 255, Verdict.VIOLATES, "It exited with 255 and printed no KTAP. Last, it said: nothing"),
        (b"", 192, Verdict.VIOLATES, "It was ended by SIGRTMAX."),
        (b"", 134, Verdict.VIOLATES, "It was ended by SIGABRT."),
        (b"", 137, Verdict.VIOLATES, "It was killed: it did not end within 60 s, or memory ran out."),
        (GOOD[:27], 0, Verdict.VIOLATES, "Its output is no valid KTAP: it planned 2 results and printed 1."),
        (GOOD[:27], 4, Verdict.NOT_APPLICABLE, "It was skipped after 1 test: ok 1 a"),
        (b"no device\n", 4, Verdict.NOT_APPLICABLE, "It was skipped: no device"),
        (b"1..0 # SKIP no device", 0, Verdict.NOT_APPLICABLE, "It was skipped: no device."),
        (b"1..0 # SKIP no device", 4, Verdict.NOT_APPLICABLE, "It was skipped: no device"),
        (b"1..1\nok 1 a # SKIP b", 0, Verdict.NOT_APPLICABLE, "None of 1 test ran: b."),
        (b"1..0", 0, Verdict.NOT_APPLICABLE, "None of 0 tests ran: it ran none."),
        (b"oh", 2, Verdict.NOT_APPLICABLE, "It is expected to fail (exit status 2)."),
        (b"oh\n\nno", 1, Verdict.VIOLATES, "It exited with 1 and printed no KTAP. Last, it said: oh / no"),
        (b"\x1b", 1, Verdict.VIOLATES, r"It exited with 1 and printed no KTAP. Last, it said: \x1b"),
    ],
)
def test_program_has_a_verdict_and_a_sentence(
    output: bytes, status: int, verdict: Verdict, reason: str
) -> None:
    found = outcome(output, status)
    assert (found.verdict, found.reason) == (verdict, reason)


def test_program_without_ktap_passes_only_if_its_status_decides() -> None:
    strict, lenient = outcome(b"all is well\n", 0), outcome(b"all is well\n", 0, status_decides=True)
    assert strict.verdict is Verdict.NOT_APPLICABLE
    assert 'say `ktap = "optional"`' in strict.reason
    assert lenient.verdict is Verdict.CONFORMS
    assert lenient.reason.endswith("Last, it said: all is well")


def test_endless_output_is_a_violation() -> None:
    found = outcome(b"ok 1 a\n" * 4096, 141)
    assert (found.verdict, found.reason) == (
        Verdict.VIOLATES,
        "It printed more than 4 KiB, and the rest was not read.",
    )
    assert len(found.cases) <= 600


def test_failure_names_each_failed_test_in_order() -> None:
    assert outcome(BAD, 1).failure == "1 of 2 tests failed: b.\nb"


def test_killed_program_has_no_failure_to_compare() -> None:
    assert outcome(BAD, 137).failure == ""
