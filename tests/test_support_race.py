"""The evidence that both sides of a race were inside at once, from what is seen of the other side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from harness.actor.call import Call, Place
from harness.actor.mismatch import Mismatch
from harness.guest.held import Held
from harness.lib.errors import HarnessError
from suites.support import race

ENDED = Place("E", ())
LOCK = Place("D", ("rwsem_down_read_slowpath", "down_read", "vfio_pci_dma_buf_huge_fault"))
LATER_LOCK = Place("D", ("rwsem_down_write_slowpath", "down_write"))
SLEEP = Place("D", ("schedule_timeout", "msleep", "pci_bridge_wait_for_secondary_bus"))
IDLE = Place("S", ("unix_stream_read_generic", "unix_stream_recvmsg", "ksys_read"))
COMPLETION = Place("S", ("schedule_timeout", "wait_for_completion_interruptible_timeout"))
RUNS = Place("R", ())


class Other:
    """A call of the other side, which is at these places one after the other, and then stays at the last."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = list(places)

    def ended(self) -> bool:
        return self._places[0] == ENDED

    def place(self) -> Place:
        return self._places.pop(0) if len(self._places) > 1 else self._places[0]


class HeldAt:
    """A held processor; ``function`` is what the other processor executes."""

    place = "vmf_insert_pfn"

    def __init__(self, function: str) -> None:
        self._function = function

    def sample(self, cpu: int) -> str:
        assert cpu == race.OTHER
        return self._function


def outcome(places: Sequence[Place], function: str = "") -> str:
    other, held = cast(Call, cast(Any, Other(places))), cast(Held, cast(Any, HeldAt(function)))
    return race.outcome_while_held(held, other)


@pytest.mark.parametrize(
    ("places", "function", "seen"),
    [
        ([ENDED], "", "returned"),
        ([RUNS, IDLE, ENDED], "", "returned"),
        ([SLEEP, SLEEP, SLEEP, SLEEP, SLEEP, SLEEP, ENDED], "", "returned"),
        ([LOCK] * (race.LOOKS - 1) + [LATER_LOCK, ENDED], "", "returned"),
        ([IDLE, LOCK], "", "blocked"),
        ([COMPLETION], "", "blocked"),
        ([RUNS], "rwsem_spin_on_owner", "blocked"),
        ([RUNS], "smp_call_function_many_cond", "blocked"),
    ],
)
def test_other_side_returns_or_is_blocked(places: Sequence[Place], function: str, seen: str) -> None:
    assert outcome(places, function) == seen


@pytest.mark.parametrize(
    ("place", "function"), [(IDLE, ""), (SLEEP, ""), (RUNS, ""), (RUNS, "copy_page_range")]
)
def test_other_side_that_is_not_inside_is_an_error(
    place: Place, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "PATIENCE", 0.05)
    with pytest.raises(HarnessError, match="neither returned nor waited for the one held at vmf_insert_pfn"):
        outcome([place], function)


def result(words: str) -> race.Result:
    made = race.Result(words)
    made.line = "revoke dev1 buf1"
    return made


def test_result_must_be_one_of_those_allowed() -> None:
    race.require_result(result(""), race.DONE)
    with pytest.raises(Mismatch) as raised:
        race.require_result(result("EBADFD"), race.DONE, "SIGBUS")
    assert str(raised.value) == "Revoke, with another operation inside at once, ended in EBADFD."
    found = raised.value.deviation
    assert (found.expected, found.seen) == ("success or SIGBUS", "EBADFD")


def test_result_is_told_as_a_clause() -> None:
    assert race.told("ENODEV") == "which was refused with ENODEV"
    assert race.told("map2") == "which succeeded"
