"""The needs of a scenario, and the order of scenarios that follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from harness.lib.errors import UsageError
from harness.plugin.items import needs_of
from harness.plugin.order import in_order, shuffled
from harness.run.needs import MACHINE_KEYWORDS, Needs
from harness.vm.hardware import GIB, MIB
from harness.vm.pci_devices import Layout


class Item:
    """A collected test, as far as its markers go; the closest marker comes first, as in pytest."""

    def __init__(self, name: str, *marks: pytest.MarkDecorator) -> None:
        self.nodeid = name
        self._marks = [mark.mark for mark in marks]

    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        return (mark for mark in self._marks if mark.name == name)


def item(name: str, *closest_first: dict[str, Any]) -> pytest.Item:
    return cast(pytest.Item, Item(name, *(pytest.mark.machine(**asked) for asked in closest_first)))


def names(items: list[pytest.Item]) -> list[str]:
    return [one.nodeid for one in items]


@pytest.mark.parametrize(
    ("asked", "needs"),
    [
        ({}, Needs()),
        ({"fresh": True}, Needs(fresh=True)),
        ({"alone": True}, Needs(fresh=True, alone=True)),
        ({"taints": [14]}, Needs(taints=frozenset({14}))),
        ({"quiet": True}, Needs(quiet=True)),
        ({"big_ram": True}, Needs(Layout(bigram=GIB))),
        ({"power": True}, Needs(Layout(rng=True, pair=MIB))),
        ({"pair": True}, Needs(Layout(rng=True, pair=MIB))),
        ({"ats": True}, Needs(Layout(rng=True, ats=True))),
        ({"hold": True}, Needs(Layout(arguments=("irqaffinity=0",), cpus=3, debugger=True))),
        ({"parallel": True}, Needs(Layout(parallel=True))),
        ({"kernel": "nopat quiet"}, Needs(Layout(arguments=("nopat", "quiet")))),
        ({"big_ram": True, "alone": True}, Needs(Layout(bigram=GIB), fresh=True, alone=True)),
        ({"fresh": False, "power": False}, Needs()),
    ],
)
def test_marker_words_give_their_needs(asked: dict[str, Any], needs: Needs) -> None:
    assert needs_of(item("test_one", asked)) == needs


def test_scenario_without_the_marker_has_no_needs() -> None:
    assert needs_of(item("test_one")) == Needs()


def test_closest_marker_decides_and_others_add() -> None:
    """A file's marker asks for a layout, the marker of a scenario in it for more."""
    assert needs_of(item("test_one", {"alone": True, "power": False}, {"big_ram": True, "power": True})) == (
        Needs(Layout(bigram=GIB), fresh=True, alone=True)
    )


@pytest.mark.parametrize("asked", [{"huge": True}, {"Fresh": True}])
def test_unknown_word_is_a_usage_error(asked: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=f"test_one says {next(iter(asked))}; it knows {', '.join(MACHINE_KEYWORDS)}"
    ):
        needs_of(item("test_one", asked))


def test_positional_word_is_a_usage_error() -> None:
    bare = cast(pytest.Item, Item("test_one", pytest.mark.machine("fresh")))
    with pytest.raises(UsageError, match="says 'fresh'"):
        needs_of(bare)


def test_order_without_needs_stays() -> None:
    items = [item(name) for name in ("c", "a", "b")]
    assert names(in_order(items)) == ["c", "a", "b"]


def test_order_is_usual_then_layouts_then_alone() -> None:
    items = [
        item("alone", {"alone": True}),
        item("big 1", {"big_ram": True}),
        item("usual 1"),
        item("nopat 1", {"kernel": "nopat"}),
        item("fresh", {"fresh": True}),
        item("big 2", {"big_ram": True, "fresh": True}),
        item("alone with much", {"alone": True, "big_ram": True}),
        item("usual 2"),
        item("nopat 2", {"kernel": "nopat"}),
    ]
    assert names(in_order(items)) == [
        *("usual 1", "fresh", "usual 2"),
        *("big 1", "big 2"),
        *("nopat 1", "nopat 2"),
        *("alone", "alone with much"),
    ]


def test_shuffle_keeps_groups_together() -> None:
    items = [item(f"usual {n}") for n in range(20)]
    items += [item(f"big {n}", {"big_ram": True}) for n in range(20)]
    items += [item(f"alone {n}", {"alone": True}) for n in range(20)]
    seen = set()
    for seed in range(20):
        order = names(shuffled(items, str(seed)))
        assert sorted(order) == sorted(names(items))
        groups = [name.split()[0] for name in order]
        kinds = list(dict.fromkeys(groups))
        assert groups == [kind for kind in kinds for _ in range(20)]
        seen.add(tuple(kinds))
        assert order != names(items)
    assert len(seen) > 1


def test_shuffle_depends_on_the_seed_alone() -> None:
    items = [item(f"usual {n}") for n in range(20)]
    order = names(shuffled(items, "7"))
    assert names(shuffled(items[::-1], "7")) == order
    assert names(shuffled(items[::2], "7")) == [name for name in order if name in names(items[::2])]
    assert names(shuffled(items, "8")) != order
