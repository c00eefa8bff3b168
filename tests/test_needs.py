"""What a scenario asks of its machine, and the order of scenarios that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from harness.lib.errors import UsageError
from harness.plugin.items import needs_of
from harness.plugin.selection import in_order, shuffled
from harness.run.needs import WORDS, Needs
from harness.vm.hardware import GIB, MIB
from harness.vm.layout import Layout


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
        ({"big_ram": True}, Needs(Layout(bigram=GIB))),
        ({"power": True}, Needs(Layout(rng=True))),
        ({"pair": True}, Needs(Layout(pair=MIB))),
        ({"kernel": "nopat quiet"}, Needs(Layout(arguments=("nopat", "quiet")))),
        ({"big_ram": True, "alone": True}, Needs(Layout(bigram=GIB), fresh=True, alone=True)),
        ({"fresh": False, "power": False}, Needs()),
    ],
)
def test_what_the_marker_means(asked: dict[str, Any], needs: Needs) -> None:
    assert needs_of(item("test_one", asked)) == needs


def test_a_scenario_without_the_marker_takes_what_is_there() -> None:
    assert needs_of(item("test_one")) == Needs()


def test_the_closest_marker_decides_and_the_others_add_to_it() -> None:
    """A file asks for a layout, one scenario in it for something else as well."""
    assert needs_of(item("test_one", {"alone": True, "power": False}, {"big_ram": True, "power": True})) == (
        Needs(Layout(bigram=GIB), fresh=True, alone=True)
    )


@pytest.mark.parametrize("asked", [{"huge": True}, {"Fresh": True}])
def test_a_word_that_is_not_known_is_named(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"test_one says {next(iter(asked))}; it knows {', '.join(WORDS)}"):
        needs_of(item("test_one", asked))


def test_a_word_without_a_value_is_named() -> None:
    bare = cast(pytest.Item, Item("test_one", pytest.mark.machine("fresh")))
    with pytest.raises(UsageError, match="says 'fresh'"):
        needs_of(bare)


def test_scenarios_without_wishes_stay_where_they_are() -> None:
    items = [item(name) for name in ("c", "a", "b")]
    assert names(in_order(items)) == ["c", "a", "b"]


def test_each_layout_comes_once_the_usual_one_first_and_those_alone_last() -> None:
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


def test_a_shuffle_keeps_together_what_can_share_a_machine() -> None:
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


def test_the_same_seed_gives_the_same_order_whatever_is_left_out() -> None:
    items = [item(f"usual {n}") for n in range(20)]
    order = names(shuffled(items, "7"))
    assert names(shuffled(items[::-1], "7")) == order
    assert names(shuffled(items[::2], "7")) == [name for name in order if name in names(items[::2])]
    assert names(shuffled(items, "8")) != order
