"""The selection of scenarios."""

from __future__ import annotations

from typing import cast

import pytest

from harness.plugin.selection import one_of_each


class Item:
    """A collected test, as far as its name and its requirements go."""

    def __init__(self, name: str, *ids: str) -> None:
        self.nodeid = name
        self._mark = pytest.mark.requirement(*ids).mark

    def iter_markers(self, _name: str) -> list[pytest.Mark]:
        return [self._mark]


def test_one_of_each_keeps_the_first_variant() -> None:
    items = [
        Item("a.py::test_one[c]", "MAP-01"),
        Item("a.py::test_one[python]", "MAP-01"),
        Item("a.py::test_one[revoked]", "MAP-01", "REV-01"),
        Item("a.py::test_two", "MAP-01"),
        Item("b.py::test_one[python]", "MAP-01"),
    ]
    chosen, others = one_of_each([cast(pytest.Item, item) for item in items])
    assert [item.nodeid for item in chosen] == [
        "a.py::test_one[c]",
        "a.py::test_one[revoked]",
        "a.py::test_two",
        "b.py::test_one[python]",
    ]
    assert [item.nodeid for item in others] == ["a.py::test_one[python]"]
