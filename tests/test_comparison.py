"""The origin of a violation: new, inherited, or not comparable."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.verdict.comparison import BaseAnswer, Origin, compare
from harness.verdict.verdict import Verdict

FAILURE = "AssertionError\nassert 34 == 22\ntest_bad_creation.py:190"
WARNING, PANIC = "0123456789ab", "ba9876543210"
SAME = BaseAnswer(Verdict.VIOLATES, "assert 34 == 22", FAILURE)


def origin(
    base: BaseAnswer, verdict: Verdict = Verdict.VIOLATES, failure: str = FAILURE, *complaints: str
) -> Origin:
    return compare(verdict, failure, complaints, base).origin


def test_same_failure_on_the_base_is_inherited() -> None:
    assert origin(SAME) is Origin.INHERITED


def test_same_complaint_on_the_base_is_inherited() -> None:
    base = replace(SAME, failure="passed", complaints=(WARNING, PANIC))
    assert origin(base, Verdict.VIOLATES, "passed", WARNING) is Origin.INHERITED


def test_same_death_of_the_base_is_inherited() -> None:
    base = BaseAnswer(Verdict.KERNEL_DIED, "The kernel died: Oops", "the kernel died", (PANIC,))
    assert origin(base, Verdict.KERNEL_DIED, "the kernel died", PANIC) is Origin.INHERITED


@pytest.mark.parametrize(
    "base",
    [
        BaseAnswer(Verdict.CONFORMS),
        replace(SAME, failure=FAILURE.replace("34", "35")),
        replace(SAME, failure=FAILURE.replace(":190", ":191")),
        BaseAnswer(Verdict.KERNEL_DIED, "The kernel died: Oops", FAILURE),
    ],
    ids=["conforms", "another value", "another line", "died"],
)
def test_base_that_differs_leaves_the_violation_new(base: BaseAnswer) -> None:
    assert origin(base) is Origin.NEW


def test_complaint_that_the_base_lacks_is_new() -> None:
    base = replace(SAME, complaints=(PANIC,))
    compared = compare(Verdict.VIOLATES, FAILURE, (WARNING, PANIC), base)
    assert compared.origin is Origin.NEW
    assert WARNING in compared.reason
    assert PANIC not in compared.reason


def test_death_where_the_base_only_violates_is_new() -> None:
    assert origin(SAME, Verdict.KERNEL_DIED, "the kernel died", PANIC) is Origin.NEW


@pytest.mark.parametrize(
    "base",
    [
        BaseAnswer(Verdict.NOT_REACHED, "the base alone does not boot: it panics"),
        BaseAnswer(Verdict.NOT_APPLICABLE, "needs the dialect feature; this kernel has map"),
        BaseAnswer(Verdict.HARNESS_ERROR, "QEMU was killed"),
        replace(SAME, refused=("map buf1 length=0x1000 prot=rw: EINVAL",)),
    ],
    ids=["not asked", "not applicable", "harness error", "no interface"],
)
def test_base_without_an_answer_is_not_comparable(base: BaseAnswer) -> None:
    compared = compare(Verdict.VIOLATES, FAILURE, (), base)
    assert compared.origin is Origin.NOT_COMPARABLE
    assert (base.refused or (base.reason,))[0] in compared.reason


def test_deaths_without_a_message_are_not_comparable() -> None:
    base = BaseAnswer(Verdict.KERNEL_DIED, "it does not answer any more", "the kernel died")
    assert origin(base, Verdict.KERNEL_DIED, "the kernel died") is Origin.NOT_COMPARABLE


def test_missed_deadline_is_not_comparable() -> None:
    assert origin(replace(SAME, failure=""), Verdict.VIOLATES, "") is Origin.NOT_COMPARABLE


def test_answer_survives_json() -> None:
    answer = replace(SAME, complaints=(WARNING,), refused=("revoke dev1 buf1: ENOTTY",))
    assert BaseAnswer.read(json.loads(json.dumps(answer.members()))) == answer


@pytest.mark.parametrize("name", ["verdict", "failure", "refused"])
def test_answer_lacking_a_member_is_refused(name: str) -> None:
    members = SAME.members()
    del members[name]
    with pytest.raises(KeyError):
        BaseAnswer.read(members)
