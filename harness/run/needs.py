"""What a scenario asks of its machine, and the order of scenarios that asks for the fewest machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from harness.lib.errors import UsageError
from harness.lib.files import digest
from harness.vm.hardware import GIB, MIB, Layout

USUAL = Layout()


@dataclass(frozen=True)
class Needs:
    """What the marker ``machine`` says; without it, the machine that is already running.

    ``fresh``: no scenario has used it before.  ``alone``: none will after it
    either, because the scenario may leave the kernel broken.
    """

    layout: Layout = USUAL
    fresh: bool = False
    alone: bool = False


# The marker's words.  Two owners' worth of devices (edu2, ram2) every machine has.
WORDS = {
    "fresh": "a machine that no scenario has used before",
    "alone": "a fresh machine that no scenario uses after it",
    "big_ram": "the device bigram, with a RAM BAR of 1 GiB",
    "power": "the device rng, with power management and function-level reset",
    "pair": "the devices pair and pair2, two functions that are reset together",
    "kernel": 'words for the kernel\'s command line, "nopat"',
}


def needs_of(item: pytest.Item) -> Needs:
    """What the scenario's markers ask for together; the one closest to it decides.

    Raises UsageError for a word that is not in WORDS.
    """
    asked: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("machine"))):
        unknown = [*map(repr, mark.args), *(word for word in mark.kwargs if word not in WORDS)]
        if unknown:
            raise UsageError(
                f"The marker `machine` of {item.nodeid} says {unknown[0]}; it knows {', '.join(WORDS)}."
            )
        asked |= mark.kwargs
    layout = Layout(
        bigram=GIB if asked.get("big_ram") else 0,
        rng=bool(asked.get("power")),
        pair=MIB if asked.get("pair") else 0,
        arguments=tuple(str(asked.get("kernel", "")).split()),
    )
    alone = bool(asked.get("alone"))
    return Needs(layout, alone or bool(asked.get("fresh")), alone)


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The items as they were, but one layout after the other, the usual one first, and those alone last."""
    needs = [needs_of(item) for item in items]
    layouts = list(dict.fromkeys([USUAL, *(one.layout for one in needs)]))
    ranked = sorted(zip(needs, items, strict=True), key=lambda pair: _rank(pair[0], layouts))
    return [item for _, item in ranked]


def shuffled(items: Sequence[pytest.Item], seed: str) -> list[pytest.Item]:
    """The items that can share a machine in an order that hangs on ``seed`` alone, and so do these groups.

    Two items of one group keep their order when others are left out.
    """

    def rank(item: pytest.Item) -> tuple[str, str]:
        needs = needs_of(item)
        group = f"{needs.layout} {needs.alone}"
        return digest("group", seed, group), digest("item", seed, item.nodeid)

    return sorted(items, key=rank)


def _rank(needs: Needs, layouts: list[Layout]) -> tuple[bool, int]:
    return needs.alone, layouts.index(needs.layout)
