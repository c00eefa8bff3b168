"""The order in which scenarios are given out to machines that work side by side."""

from __future__ import annotations

import pytest

from harness.run.needs import LARGEST, Needs
from harness.run.schedule import OWN, WORTH_A_BOOT, Job, Schedule
from harness.vm.pci_devices import Layout

USUAL, OTHER, THIRD = Needs(), Needs(Layout(rng=True)), Needs(Layout(pair=1))
BIG = Needs(LARGEST)
ALONE = Needs(fresh=True, alone=True)
LONG = WORTH_A_BOOT + 1


def taken(schedule: Schedule, process: int, number: int) -> list[str | None]:
    """Return the next scenarios of a process."""
    return [schedule.next(process) for _ in range(number)]


def test_longest_scenario_of_a_layout_is_the_first() -> None:
    schedule = Schedule([Job("a", USUAL, 0.9), Job("b", USUAL, 5.0), Job("c", USUAL, 2.0)])
    assert taken(schedule, OWN, 4) == ["b", "c", "a", None]


def test_variants_of_one_length_are_not_given_out_in_a_row() -> None:
    names = [f"{kind}[{number}]" for kind in ("wait", "load") for number in range(8)]
    schedule = Schedule([Job(name, USUAL, 0.6 + number / 100) for number, name in enumerate(names)])
    first = taken(schedule, OWN, 8)
    assert {str(name)[:4] for name in first} == {"wait", "load"}


def test_scenario_that_taints_is_the_last_of_its_layout() -> None:
    tainting = Needs(taints=frozenset({14}))
    schedule = Schedule([Job("a", USUAL, 1.0), Job("b", tainting, 9.0)])
    assert taken(schedule, OWN, 2) == ["a", "b"]


def test_random_order_is_kept_in_each_layout() -> None:
    jobs = [Job("a", USUAL, 1.0), Job("x", OTHER, 1.0), Job("b", USUAL, 3.0), Job("y", OTHER, 5.0)]
    schedule = Schedule(jobs, keep_order=True)
    assert taken(schedule, OWN, 2) == ["a", "b"]
    assert taken(schedule, 1, 2) == ["x", "y"]


def test_run_begins_with_the_layout_that_was_booted() -> None:
    schedule = Schedule([Job("a", USUAL, 1.0), Job("x", OTHER, 100.0)])
    assert schedule.next(OWN) == "a"


def test_worker_takes_the_layout_with_the_most_work_left() -> None:
    jobs = [Job("a", USUAL, 1.0), Job("x", OTHER, 2.0), Job("p", THIRD, 1.5), Job("q", THIRD, 1.5)]
    schedule = Schedule(jobs)
    assert schedule.next(OWN) == "a"
    assert taken(schedule, 1, 3) == ["p", "q", "x"]


def test_first_worker_takes_no_layout_of_the_booted_machine() -> None:
    schedule = Schedule([Job("a", USUAL, 8 * LONG), Job("b", USUAL, LONG), Job("x", OTHER, 1.0)])
    assert schedule.next(1) == "x"
    assert schedule.next(OWN) == "a"


def test_machine_joins_another_for_more_than_a_boot() -> None:
    schedule = Schedule([Job("a", USUAL, 8 * LONG), Job("b", USUAL, LONG), Job("c", USUAL, 1.0)])
    assert schedule.next(OWN) == "a"
    assert schedule.next(1) == "b"
    assert schedule.next(2) is None
    assert taken(schedule, 1, 2) == ["c", None]


def test_scenarios_that_are_alone_are_taken_by_any_machine() -> None:
    schedule = Schedule([Job("a", USUAL, 1.0), Job("b", ALONE, 1.0), Job("c", ALONE, 2.0)])
    assert schedule.next(OWN) == "a"
    assert schedule.next(1) == "c"
    assert schedule.next(OWN) == "b"


def test_second_round_begins_after_the_first() -> None:
    jobs = [Job("a", USUAL, 1.0), Job("x", OTHER, 1.0), Job("a2", USUAL, 50.0, 2), Job("x2", OTHER, 5.0, 2)]
    assert taken(Schedule(jobs), OWN, 5) == ["a", "x", "a2", "x2", None]


def test_quiet_scenarios_are_left_to_the_run_itself() -> None:
    quiet = Needs(quiet=True)
    schedule = Schedule([Job("a", quiet, 9.0), Job("b", USUAL, 1.0)])
    assert taken(schedule, OWN, 2) == ["b", None]
    assert schedule.next(1) is None
    assert [schedule.next_quiet(), schedule.next_quiet()] == ["a", None]


def test_big_layout_has_one_machine_and_others_beside_it() -> None:
    schedule = Schedule([Job("a", USUAL, LONG), *(Job(name, BIG, LONG) for name in "xyz")])
    assert schedule.next(OWN) == "a"
    first = schedule.next(1)
    assert schedule.next(OWN) is None
    assert {first, *taken(schedule, 1, 3)} == {"x", "y", "z", None}


def test_big_layout_of_two_rounds_has_one_machine() -> None:
    jobs = [Job("a", USUAL, 1.0), Job("x", BIG, 1.0), Job("a2", USUAL, 1.0, 2), Job("x2", BIG, 1.0, 2)]
    schedule = Schedule(jobs)
    assert schedule.next(OWN) == "a"
    assert schedule.next(1) == "x"
    assert taken(schedule, OWN, 2) == ["a2", None]
    assert taken(schedule, 1, 2) == ["x2", None]


def test_big_layout_is_left_to_the_run_if_memory_is_short() -> None:
    schedule = Schedule([Job("a", USUAL, 1.0), Job("x", BIG, LONG)], big_beside=False)
    assert schedule.next(OWN) == "a"
    assert schedule.next(1) is None
    assert schedule.next_quiet() == "x"


def test_scenarios_of_a_worker_that_ended_are_run() -> None:
    schedule = Schedule([Job("a", USUAL, 1.0), Job("x", OTHER, 1.0), Job("y", OTHER, 1.0)])
    assert schedule.next(1) == "x"
    assert taken(schedule, OWN, 2) == ["a", None]
    schedule.leave(1)
    assert schedule.next(OWN) == "y"


def test_closed_schedule_gives_out_nothing() -> None:
    schedule = Schedule([Job("a", USUAL, 1.0), Job("b", Needs(quiet=True), 1.0)])
    schedule.close()
    assert schedule.next(OWN) is None
    assert schedule.next_quiet() is None


@pytest.mark.parametrize("workers", [1, 3])
def test_every_scenario_is_given_out_once(workers: int) -> None:
    needs = [USUAL, OTHER, THIRD, ALONE, Needs(quiet=True)]
    jobs = [Job(f"{number}", needs[number % 5], 1.0 + number % 7) for number in range(100)]
    schedule = Schedule(jobs)
    given: list[str] = []
    busy = list(range(workers + 1))
    while busy:
        for process in list(busy):
            name = schedule.next(process)
            busy.remove(process) if name is None else given.append(name)
    while (name := schedule.next_quiet()) is not None:
        given.append(name)
    assert sorted(given, key=int) == [one.id for one in jobs]
