"""The order in which scenarios run, and their repetitions."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import pytest

from harness.lib.files import digest
from harness.plugin.items import REPETITION, SHARD, needs_of, requirement_ids
from harness.plugin.selection import split
from harness.run.needs import USUAL, Needs
from harness.run.request import ANY_SEED
from harness.verdict.record import repetition_mark
from harness.vm.pci_devices import Layout


def first(items: Sequence[pytest.Item], ids: Sequence[str]) -> list[pytest.Item]:
    """Return the items that check these requirements, in the order of ``ids``, and then all others.

    Items that can share a machine stay together, and the machines keep their order, so that
    the run still needs the fewest machines.
    """
    chosen, others = split(items, set(ids))
    machines = list(dict.fromkeys(_machine(item) for item in chosen))

    def rank(item: pytest.Item) -> tuple[int, int]:
        return machines.index(_machine(item)), min(
            ids.index(name) for name in requirement_ids(item) if name in ids
        )

    return [*sorted(chosen, key=rank), *others]


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the items sorted by layout, the usual one first, and those with a machine alone last.

    Of one layout, those that taint the kernel themselves are the last ones.  Otherwise
    their order stays.
    """
    needs = [needs_of(item) for item in items]
    layouts = list(dict.fromkeys([USUAL, *(one.layout for one in needs)]))
    ranked = sorted(zip(needs, items, strict=True), key=lambda pair: _rank(pair[0], layouts))
    return [item for _, item in ranked]


def shuffled(items: Sequence[pytest.Item], seed: str) -> list[pytest.Item]:
    """Return the items in a random order that depends on ``seed``.

    Items that can share a machine are a group; groups are shuffled as well.  Two items
    of a group keep their order when other items are left out.
    """

    def rank(item: pytest.Item) -> tuple[str, str]:
        needs = needs_of(item)
        group = f"{needs.layout} {needs.alone}"
        return digest("group", seed, group), digest("item", seed, item.nodeid)

    return sorted(items, key=rank)


def seed_of(value: str) -> str:
    """Return the seed for a value of ``--random-order``, a new one for ANY_SEED."""
    return str(secrets.randbelow(1 << 32)) if value == ANY_SEED else value


def repeated(
    items: Sequence[pytest.Item],
    times: int,
    seed: str,
    order: Callable[[list[pytest.Item]], list[pytest.Item]],
) -> list[pytest.Item]:
    """Return the scenarios ``times`` times, one whole round after the other, then the other tests.

    With a ``seed`` each round is shuffled differently, and then sorted by ``order``.
    """
    scenarios = [item for item in items if requirement_ids(item)]
    others = [item for item in items if not requirement_ids(item)]
    rounds = [scenarios, *([_again(item, number) for item in scenarios] for number in range(2, times + 1))]
    if seed:
        rounds = [order(shuffled(each, f"{seed}/{number}")) for number, each in enumerate(rounds, 1)]
    return [*(item for each in rounds for item in each), *others]


def _again(item: pytest.Item, number: int) -> pytest.Item:
    """Return a copy of a test for repetition ``number``.

    The name of the original has the id of its parameters already.  from_parent() would
    append that id again, so the parameters (callspec) are set afterwards.
    """
    assert isinstance(item, pytest.Function)
    assert item.parent is not None
    name = item.name + repetition_mark(number)
    again: pytest.Function = pytest.Function.from_parent(
        item.parent, name=name, callobj=item.obj, fixtureinfo=item._fixtureinfo
    )
    again.originalname = item.originalname
    if hasattr(item, "callspec"):
        again.callspec = item.callspec
        again.own_markers.extend(item.callspec.marks)
    again.stash[REPETITION] = number
    again.stash[SHARD] = item.stash.get(SHARD, 0)
    return again


def _machine(item: pytest.Item) -> tuple[object, bool]:
    needs = needs_of(item)
    return needs.layout, needs.alone


def _rank(needs: Needs, layouts: list[Layout]) -> tuple[bool, int, bool]:
    return needs.alone, layouts.index(needs.layout), bool(needs.taints)
