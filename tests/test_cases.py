"""The errors of suites/support: a store that lands, a refused call that leaves something behind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from harness.actor.actor import Actor
from harness.actor.hammer import Counts
from harness.actor.mismatch import Mismatch
from harness.actor.reply import Refused
from harness.run.failure import failure_of
from suites.support.cases import nothing_left, require_none, require_refused
from suites.support.store_oracle import OURS, THEIRS, Oracle, require_none_landed, require_sigbus_alone

WORDS = 4


def blows(stored: int, loaded: int = 0) -> Counts:
    return Counts(cpu=0, stored=stored, loaded=loaded, sigbus=7, sigsegv=0, other=0)


@dataclass
class Range:
    """A range as both the owner's mapping and the host show it."""

    words_: list[int] = field(default_factory=lambda: [OURS] * WORDS)
    length: int = 4 * WORDS

    def words(self, offset: int, length: int, stride: int) -> list[int]:
        return self.words_

    def differs(self, value: int) -> str:
        return ""


def test_no_access_that_lands_passes() -> None:
    require_none_landed([blows(3, 4), blows(1)], [blows(3, 4), blows(1)])


@pytest.mark.parametrize("after", [[blows(4, 4), blows(1)], [blows(3, 4), blows(1, 1)]])
def test_one_access_that_lands_is_counted(after: list[Counts]) -> None:
    with pytest.raises(Mismatch, match=r"^All 1 access to the mapping still reached the device\.$"):
        require_none_landed([blows(3, 4), blows(1)], after)


def failure(before: list[Counts], after: list[Counts]) -> str:
    with pytest.raises(Mismatch) as raised:
        require_none_landed(before, after)
    return failure_of(raised.value)


def test_counts_of_a_hammer_are_not_compared_with_the_base() -> None:
    one, other = failure([blows(1)], [blows(38)]), failure([blows(2)], [blows(512)])
    assert one.splitlines()[1] == "accesses still reached the device"
    # The rest are the lines of the suites that raised.
    assert one == other


def test_thread_with_another_signal_than_sigbus_is_named() -> None:
    require_sigbus_alone([blows(0)], tries=6)
    with pytest.raises(Mismatch, match="the thread on CPU 0 ended in SIGBUS"):
        require_sigbus_alone([blows(0)], tries=7)
    with pytest.raises(Mismatch, match="the thread on CPU 0 ended in SIGBUS"):
        require_sigbus_alone([replace(blows(0), sigsegv=1)], tries=6)


def test_an_undisturbed_range_passes_and_another_word_raises() -> None:
    seen = Range()
    oracle = Oracle(cast(Any, seen), cast(Any, seen), 0)
    oracle.require_undisturbed()
    seen.words_[2] = THEIRS
    with pytest.raises(Mismatch, match=r"^1 of 4 words of the range could still be written by the client\.$"):
        oracle.require_undisturbed()


@dataclass
class Owner:
    """An actor that only tells its footprint."""

    descriptors: int = 3

    def say(self, *words: object) -> str:
        return f"fds={self.descriptors} dmabufs=0 log=0"

    def refuse(self) -> None:
        raise Refused("EINVAL", "call", "")

    def leave(self) -> None:
        self.descriptors += 1
        self.refuse()


def test_a_refused_call_that_leaves_nothing_passes() -> None:
    owner = Owner()
    require_refused(cast(Actor, owner), {"a call": owner.refuse}, "EINVAL", "ENODEV")


def test_a_deviation_is_named() -> None:
    owner = Owner()
    with pytest.raises(Mismatch) as raised:
        require_refused(cast(Actor, owner), {"one": owner.leave, "two": lambda: None}, "ENODEV")
    said = "one: EINVAL instead of ENODEV; one: 1 descriptor left behind; two: success instead of ENODEV"
    assert raised.value.deviation.seen == said
    assert raised.value.deviation.wanted == "error ENODEV"
    assert "one: EINVAL instead of ENODEV, and 2 more" in str(raised.value)
    require_none([])


def test_a_body_that_leaves_something_raises() -> None:
    owner = Owner()
    with (
        pytest.raises(AssertionError, match="1 descriptor more"),
        nothing_left(cast(Actor, owner)),
    ):
        owner.descriptors += 1
