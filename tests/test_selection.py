"""The selection of scenarios."""

from __future__ import annotations

import pytest

from harness.plugin.selection import one_of_each

pytest_plugins = ["pytester"]

SUITE = """
    import pytest

    @pytest.fixture(params=["c", "python"])
    def owner(request):
        return request.param

    @pytest.mark.requirement("MAP-01")
    @pytest.mark.parametrize("state", ["live", pytest.param("dead", marks=pytest.mark.requirement("REV-01"))])
    @pytest.mark.parametrize("page", [0, 1])
    def test_rows(owner, state, page):
        pass

    @pytest.mark.requirement("MAP-01")
    def test_probes(owner):
        pass

    @pytest.mark.requirement("MAP-01")
    def test_alone():
        pass
"""


def test_one_of_each_keeps_every_row_of_a_table(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = requirement(*ids)")
    items = pytester.getitems(SUITE)
    chosen, others = one_of_each(items)
    assert sorted(item.name for item in chosen) == [
        "test_alone",
        "test_probes[c]",
        "test_rows[c-0-dead]",
        "test_rows[c-0-live]",
        "test_rows[c-1-dead]",
        "test_rows[c-1-live]",
    ]
    assert {item.name for item in others} == {item.name for item in items} - {item.name for item in chosen}
