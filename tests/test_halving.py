"""The first patch with which a violation shows: which prefix is tried next, and what the tries prove."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.verdict.halving import State, Try, since, upcoming, useful

V, H, N, W, U, B = (
    State.VIOLATES,
    State.HOLDS,
    State.NOT_YET,
    State.OTHERWISE,
    State.UNKNOWN,
    State.AS_BASE,
)


def tries(of: int, **states: State) -> list[Try]:
    """Return tries of the prefixes ``p3=State``, and that of the whole series, where it violates."""
    known = {int(name[1:]): state for name, state in states.items()} | {of: V}
    return [Try(count, of, state, f"reason {count}", f"subject {count}") for count, state in known.items()]


def search(truth: Mapping[int, State], unusable: Mapping[int, str] | None = None) -> tuple[list[int], str]:
    """Search with the states of all prefixes; return the prefixes that were tried, and the words found."""
    of = max(truth)
    done = tries(of)
    tried = []
    while (count := upcoming(done, of, unusable or {})) is not None:
        assert count not in tried
        tried.append(count)
        done.append(Try(count, of, truth[count], "it hangs", f"subject {count}"))
    found = since(done, unusable)
    assert found is None or found.done
    return tried, found.words if found is not None else ""


def states(first: State, at: int, of: int = 14, rest: State = V) -> dict[int, State]:
    return {count: first if count < at else rest for count in range(1, of + 1)}


@pytest.mark.parametrize("at", range(1, 15))
def test_search_finds_each_patch_in_four_tries(at: int) -> None:
    tried, words = search(states(H, at))
    assert words == f"patch {at}/14, subject {at}"
    assert len(tried) <= 4


def test_search_begins_in_the_middle() -> None:
    assert upcoming(tries(14), 14) == 7
    assert upcoming(tries(14, p7=H), 14) == 10
    assert upcoming(tries(14, p7=V), 14) == 3


def test_search_of_one_patch_needs_no_try() -> None:
    assert search({1: V}) == ([], "patch 1/1, subject 1")


def test_prefix_without_the_interface_is_not_yet() -> None:
    _, words = search(states(N, 12))
    assert words == "patch 12/14, subject 12; 11/14 does not have what the scenario needs"


def test_violation_of_another_kind_is_the_same_begin() -> None:
    truth = {**states(N, 5), **dict.fromkeys(range(5, 9), W)}
    _, words = search(truth)
    assert words.startswith("patch 5/14, subject 5; 4/14 does not have")
    assert words.endswith("up to 8/14 it violates in another way")


def test_other_violation_that_was_mended_is_not_the_begin() -> None:
    """Patch 7 lacks what patch 8 adds; patch 11 breaks it."""
    truth = {**states(N, 7), 7: W, 8: H, 9: H, 10: H, 11: V, 12: V, 13: V, 14: V}
    assert search(truth)[1] == "patch 11/14, subject 11"


@pytest.mark.parametrize("at", range(1, 15))
@pytest.mark.parametrize("broken", [3, 7, 13])
def test_unusable_prefix_is_never_tried(at: int, broken: int) -> None:
    tried, words = search(states(H, at), {broken: "does not compile"})
    assert broken not in tried
    if broken in (at, at - 1) and broken < 14:
        low, high = (broken, broken + 1)
        assert words == (
            f"one of the patches {low}/14 to {high}/14; {broken}/14 says nothing (does not compile)"
        )
    else:
        assert words == f"patch {at}/14, subject {at}"


def test_prefix_that_hangs_is_gone_round() -> None:
    truth = {**states(H, 5), 7: U}
    tried, words = search(truth)
    assert tried[0] == 7
    assert words == "patch 5/14, subject 5"


def test_all_prefixes_unknown_name_no_patch() -> None:
    _, words = search(states(U, 14))
    assert words.startswith("one of the patches 1/14 to 14/14; 1/14 says nothing (it hangs); 2/14")


def test_what_the_base_refuses_too_names_no_patch() -> None:
    assert search(states(B, 14))[1] == ""


def test_latest_begin_counts_where_it_comes_and_goes() -> None:
    found = since(tries(14, p2=V, p5=H, p9=V, p8=H))
    assert found is not None
    assert found.patch == "patch 9/14"


def test_search_cut_off_says_so() -> None:
    found = since(tries(14, p7=V))
    assert found is not None
    assert not found.done
    assert found.words == "one of the patches 1/14 to 7/14; the search is not finished"
    assert since([]) is None


def test_only_a_try_between_is_useful() -> None:
    known = tries(14, p7=V, p3=H)
    assert [count for count in range(1, 15) if useful(known, 14, count)] == [4, 5, 6]


@pytest.mark.parametrize("count", [0, 15, -1, "x", None])
def test_try_of_no_prefix_is_refused(count: object) -> None:
    members = {**Try(1, 14, H).members(), "count": count}
    with pytest.raises((ValueError, TypeError)):
        Try.read(members)


def test_try_survives_its_members() -> None:
    one = Try(3, 14, N, "why", "what")
    assert Try.read(one.members()) == one
