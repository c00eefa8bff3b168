"""Failures as text: equal in two runs of one kernel, different for different values."""

from __future__ import annotations

import pytest

from harness.actor.mismatch import Mismatch
from harness.actor.reply import DeadlineError
from harness.lib.paths import SUITES
from harness.run.error_to_verdict import KernelDiedError, UnhealthyKernelError
from harness.run.failure import both, failure_of, without_varying


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<Actor object at 0x7f5b8c0d5e10>", "<Actor object at 0x7f5b8c1d5e99>"),
        ("a fault at address 0x7f12345000", "a fault at address 0x7fabcde000"),
        ("slab of ffff888101234500", "slab of ffff888109999900"),
        ("process 123 did not end", "process 4567 did not end"),
        ("machine-1/processors.txt", "machine-12/processors.txt"),
        ("it took 3.25 s", "it took 12 s"),
    ],
)
def test_what_varies_between_runs_is_left_out(one: str, other: str) -> None:
    assert without_varying(one) == without_varying(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("assert 34 == 22", "assert 33 == 22"),
        ("offset=0x1000", "offset=0x2000"),
        ("value=0x010000ed", "value=0xffffffff"),
        ("EINVAL", "ENOTTY"),
        ("assert 7 == 0", "assert 70000 == 0"),
    ],
)
def test_observed_values_are_kept(one: str, other: str) -> None:
    assert without_varying(one) != without_varying(other)


def raised(error: Exception, file: str = str(SUITES / "test_map.py"), line: int = 7) -> BaseException:
    """Return the error, raised at this line of a file."""
    source = "\n" * (line - 1) + "raise error"
    try:
        exec(compile(source, file, "exec"), {"error": error})
    except type(error) as caught:
        return caught
    raise AssertionError


def test_failure_has_the_lines_of_the_suites() -> None:
    failure = failure_of(raised(AssertionError("assert 1 == 2")))
    assert failure == "AssertionError\nassert 1 == 2\ntest_map.py:7"
    assert failure_of(raised(AssertionError("assert 1 == 2"), line=8)) != failure


def test_failure_outside_the_suites_has_its_last_line() -> None:
    assert failure_of(raised(ValueError("x"), "/elsewhere/mine.py", 3)) == "ValueError\nx\nmine.py:3"


def test_failure_has_the_case_of_a_search() -> None:
    error = AssertionError("assert False")
    error.add_note("The smallest case that fails: Creation(bar=2)")
    assert "Creation(bar=2)" in failure_of(raised(error))


def test_failure_of_a_mismatch_has_what_was_seen() -> None:
    one, other = (Mismatch("a page was left", expected="none", seen=seen) for seen in ("0x10", "0x11"))
    assert failure_of(one) == "Mismatch\nA page was left.\nExpected none, but saw 0x10."
    assert failure_of(one) != failure_of(other)


def test_failure_of_a_mismatch_omits_what_it_does_not_compare() -> None:
    """The number of accesses of a hammer differs from run to run."""
    made = (
        Mismatch(f"{count} stores landed", expected="none", seen=f"{count}", compared="stores landed")
        for count in (37, 41)
    )
    assert {failure_of(one) for one in made} == {"Mismatch\nstores landed"}


def test_complaint_leaves_the_failure_before_it() -> None:
    """The console's part is compared by fingerprints, the state's part by its text."""
    unhealthy = UnhealthyKernelError(
        "the kernel said: WARNING at core.c:5; 2 DMABUFs are left over", changes=("2 DMABUFs are left over",)
    )
    assert failure_of(unhealthy) == "passed\n2 DMABUFs are left over"
    unhealthy.__cause__ = raised(AssertionError("assert 1 == 2"))
    assert failure_of(unhealthy) == "AssertionError\nassert 1 == 2\ntest_map.py:7\n2 DMABUFs are left over"


def test_missed_deadline_has_no_failure() -> None:
    late = DeadlineError("revoke dev1 buf1", 20.0, answered=False)
    assert failure_of(raised(late)) == ""
    unhealthy = UnhealthyKernelError("the kernel said: INFO: task blocked", on_console=True)
    unhealthy.__cause__ = late
    assert failure_of(unhealthy) == "a deadline was missed"


def test_deaths_of_the_kernel_have_one_failure() -> None:
    one = KernelDiedError("The kernel died: Oops: 0002 [#1] SMP")
    other = KernelDiedError("The kernel died: it does not answer any more")
    assert failure_of(one) == failure_of(other)


@pytest.mark.parametrize(("first", "second"), [("", ""), ("", "assert 1 == 2"), ("assert 1 == 2", "")])
def test_missed_deadline_beside_another_failure_has_none(first: str, second: str) -> None:
    assert both(first, second) == ""
    assert both("assert 1 == 2", "the kernel died") == "assert 1 == 2\nthe kernel died"
