"""Violations with one cause are told as one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.report.causes import grouped, same_cause
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import NO_COMPLAINT, Deviation
from harness.verdict.record import Complaint, Entry, Result
from harness.verdict.verdict import Kind, Verdict


def violation(name: str, requirement: str, expected: str, seen: str, operation: str) -> Result:
    return Result(
        Entry(f"suites/test_x.py::{name}", Kind.SCENARIO, name, (requirement,)),
        Verdict.VIOLATES,
        reason=f"Expected {expected}, but saw {seen}.",
        ended=True,
        deviation=Deviation(expected, seen, operation, 7),
    )


# What one fault handler that does not look at the state of a DMABUF leads to.
STILL_MAPPED = [
    ("SIGBUS at its address in all 4 pages", "0x10, 0x11, 0x12, 0x13", "loadpages map1"),
    ("SIGBUS at 0x0", "0x10000ed", "load32 map1 0"),
    ("SIGBUS at 0x57f8", "0x40", "load8 map1 0x57f8"),
    ("SIGBUS at its address in all 16 pages", "9 to 0x18 in all 16 pages", "loadpages map1"),
    ("SIGBUS at its address in all 16 pages", "0x10 in page 0; 0 to 7 in pages 8 to 15", "@c loadpages map1"),
    ("SIGBUS at 0x1000", "success", "store32 map1 0x1000 0"),
    ("EFAULT", "success", "syscopy map2 out offset=4 bytes=4"),
    ("revoked: SIGBUS", "revoked: data", "close buf6"),
    ("no page table entry", "0x0 to 0x4000 by pte (NX RW USR)", "pagetable map1"),
    ("SIGBUS for every access", "262914 accesses that landed", "@client hammered ham1 more=1"),
]


def test_accesses_that_do_not_fault_have_one_cause() -> None:
    results = [violation(f"test_{n}", f"REV-{n:02}", *answer) for n, answer in enumerate(STILL_MAPPED, 1)]
    (cause,) = grouped(results)
    assert len(cause.results) == len(STILL_MAPPED)


@pytest.mark.parametrize(
    "other",
    [
        ("success", "EINVAL", "map buf1 length=0x1000"),
        ("0x10", "SIGBUS at 0x0", "load32 map1 0"),
        ("0x10", "0x11", "load32 map1 0"),
        ("an answer within 10 s", "none", "load32 map1 0"),
    ],
)
def test_another_wrong_answer_has_another_cause(other: tuple[str, str, str]) -> None:
    results = [violation("test_a", "REV-01", *STILL_MAPPED[1]), violation("test_b", "MAP-01", *other)]
    assert len(grouped(results)) == 2


def test_place_of_a_call_that_hangs_is_no_part_of_the_cause() -> None:
    places = (
        "none",
        "none; it waits in msleep < revoke",
        "none; it waits in schedule_timeout < msleep < revoke",
    )
    results = [
        violation(f"test_{n}", f"REV-{n:02}", "an answer within 10 s", seen, "revoke dev1 buf1")
        for n, seen in enumerate(places, 1)
    ]
    assert len(grouped(results)) == 1


def test_results_with_one_complaint_have_one_cause() -> None:
    splat = Complaint("WARNING", "WARNING: x.c:1", "f00dfacecafe", "text")
    results = [
        replace(violation(f"test_{n}", f"MAP-{n:02}", *answer), complaints=(splat,))
        for n, answer in enumerate([STILL_MAPPED[0], ("success", "EINVAL", "map buf1 length=0x1000")])
    ]
    assert [len(one.results) for one in grouped(results)] == [2]


def test_cause_links_results_through_a_third() -> None:
    """The first two share a requirement and the operation, the last two the wrong answer."""
    results = [
        violation("test_a", "MAP-01", "success", "EINVAL", "map buf1 length=0x1000"),
        violation("test_b", "MAP-01", "success", "ENOMEM", "map buf1 length=0x2000"),
        violation("test_c", "HUGE-01", "success", "ENOMEM", "map buf1 length=0x200000"),
    ]
    assert [len(one.results) for one in grouped(results)] == [3]
    assert [len(one.results) for one in grouped(results[::2])] == [1, 1]


@pytest.mark.parametrize(("place", "number"), [("p1ace", 1), ("0ther", 2)])
def test_complaints_at_one_place_have_one_cause(place: str, number: int) -> None:
    first = Complaint("bug", "BUG: use-after-free", "111111111111", "text", place="p1ace")
    results = [
        replace(violation(f"test_{one.fingerprint}", "MAP-01", *STILL_MAPPED[0]), complaints=(one,))
        for one in (first, replace(first, fingerprint="222222222222", place=place))
    ]
    assert len(grouped(results)) == number


def test_numbers_without_an_operation_have_no_common_cause() -> None:
    results = [
        violation("test_a", "LIFE-05", "at most 3", "7", ""),
        violation("test_b", "REV-19", "at most 0", "20", ""),
        violation("test_c", "REV-19", "at most 0", "12", ""),
    ]
    assert sorted(len(one.results) for one in grouped(results)) == [1, 2]


def test_inherited_violations_are_a_cause_of_their_own() -> None:
    mine, theirs = (violation(name, "MAP-01", *STILL_MAPPED[0]) for name in "ab")
    base = BaseAnswer(Verdict.VIOLATES, failure="same")
    results = [
        replace(mine, base=BaseAnswer(Verdict.CONFORMS)),
        replace(theirs, failure="same", base=base),
    ]
    assert [one.inherited for one in grouped(results)] == [False, True]


def test_cause_in_another_run_ignores_the_origin() -> None:
    mine = violation("test_a", "MAP-01", "success", "EINVAL", "map buf1")
    splat = Complaint("bug", "BUG: use-after-free", "111111111111", "text")
    assert same_cause(mine, replace(mine, base=BaseAnswer(Verdict.CONFORMS)))
    assert not same_cause(mine, violation("test_a", "MAP-01", "success", "ENODEV", "map buf1"))
    assert not same_cause(mine, replace(mine, complaints=(splat,)))


def test_health_of_the_kernel_is_no_matter_of_an_operation() -> None:
    """Whatever a scenario asked last, the same is left over."""
    left = "The scenario passed, but {} DMABUFs are left over"
    results = [
        violation("test_a", "REV-01", NO_COMPLAINT, left.format(1), "load32 map1 0"),
        violation("test_b", "IMP-02", NO_COMPLAINT, left.format(5000), "together dev1 revoke"),
        violation(
            "test_c", "REV-01", NO_COMPLAINT, "The scenario passed, but 1 module is left", "load32 map1 0"
        ),
    ]
    assert sorted(len(one.results) for one in grouped(results)) == [1, 2]


def test_spans_of_pages_have_one_cause_whatever_their_number() -> None:
    spans = ("0x0 to 0x4000 by pte (RO)", "0x0 to 0x8b000 by pte (RO); 0x555000 to 0x6df000 by pte (RO)")
    results = [
        violation(f"test_{n}", f"FLAG-{n:02}", "RW entries", seen, "pagetable map1")
        for n, seen in enumerate(spans, 1)
    ]
    assert len(grouped(results)) == 1


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [("load32 map1 0", "host word ram 0x0", 1), ("load32 map1 0", "seek buf1", 2)],
)
def test_wrong_value_has_one_cause_and_a_wrong_count_another(first: str, second: str, number: int) -> None:
    results = [
        violation(f"test_{n}", f"MAP-{n:02}", "0x10", "0x11", operation)
        for n, operation in enumerate((first, second), 1)
    ]
    assert len(grouped(results)) == number
