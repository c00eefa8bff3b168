"""Random cases: the smallest that fails is found, and repeated alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import strategies as st

from harness.actor.actor import Actor
from harness.actor.mismatch import Mismatch
from harness.actor.reply import ActorDiedError, Refused
from harness.plugin import search
from harness.plugin.search import Search


@dataclass
class Actors:
    """Started actors, each a list of the lines that it was told; the first ``aside`` were set aside."""

    lines: list[list[str]] = field(default_factory=list)
    aside: int = 0

    def start(self) -> Actor:
        self.lines.append([])
        return cast(Actor, RecordingActor(self.lines[-1]))

    def begin_anew(self) -> None:
        self.aside = len(self.lines)


@dataclass(frozen=True)
class RecordingActor:
    """An actor that keeps the lines that it is told."""

    lines: list[str]

    def comment(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def actors() -> Actors:
    return Actors()


def look(actors: Actors, check: Any, examples: int = 100) -> None:
    Search(actors.start, actors.begin_anew)(
        st.integers(0, 10**6), lambda actor: cast(Any, actor), check, examples=examples
    )


def test_search_without_a_failure_tries_every_example(actors: Actors) -> None:
    tried: list[int] = []
    look(actors, lambda _, case: tried.append(case), examples=40)
    assert len(tried) == 40
    assert actors.lines == [[f"case {number}: {case}" for number, case in enumerate(tried, 1)]]


def test_search_tries_the_same_cases_each_time(actors: Actors) -> None:
    look(actors, lambda *_: None)
    look(actors, lambda *_: None)
    assert actors.lines[0] == actors.lines[1]


@pytest.mark.parametrize("error", [AssertionError("no"), Refused("EINVAL", "map", "no")])
def test_search_repeats_the_smallest_failure_alone(actors: Actors, error: Exception) -> None:
    def check(actor: RecordingActor, case: int) -> None:
        actor.lines.append(f"try {case}")
        if case >= 1234:
            raise error

    with pytest.raises(type(error)) as caught:
        look(actors, check)
    assert caught.value is error
    assert error.__notes__ == ["The smallest case that fails: 1234"]
    assert actors.aside == 1
    assert actors.lines[1:] == [["the smallest case that fails: 1234", "try 1234"]]
    del error.__notes__


def test_search_takes_several_assertions_as_one_failure(actors: Actors) -> None:
    def check(_: RecordingActor, case: int) -> None:
        if case % 2:
            assert case < 501
        assert case < 1000

    with pytest.raises(AssertionError):
        look(actors, check)
    assert actors.lines[1] == ["the smallest case that fails: 501"]


def test_search_says_when_a_case_does_not_fail_alone(actors: Actors) -> None:
    def check(actor: RecordingActor, case: int) -> None:
        assert case < 1000 or len(actors.lines) > 1, "only the first"

    with pytest.raises(Mismatch, match=r"after others, but not alone: 1000\.") as raised:
        look(actors, check)
    assert raised.value.deviation.seen.startswith("only the first")


def test_search_ends_when_the_actor_died(actors: Actors) -> None:
    tried: list[int] = []

    def check(_: RecordingActor, case: int) -> None:
        tried.append(case)
        if case > 1000:
            raise ActorDiedError("gone")

    with pytest.raises(ActorDiedError, match="gone"):
        look(actors, check)
    assert [case > 1000 for case in tried].index(True) == len(tried) - 1
    assert (actors.aside, len(actors.lines)) == (0, 1)


def test_search_shrinks_within_its_time(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SHRINK_SECONDS", 0.0)
    failed: list[int] = []

    def check(_: RecordingActor, case: int) -> None:
        if case >= 10:
            failed.append(case)
        assert case < 10

    with pytest.raises(AssertionError):
        look(actors, check)
    assert len(failed) == 2
    assert failed[0] == failed[1]
    assert actors.lines[1] == [f"the smallest case that fails: {failed[0]}"]
