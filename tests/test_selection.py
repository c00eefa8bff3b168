"""The selection of scenarios."""

from __future__ import annotations

import pytest

from harness.plugin import fast
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


FEW = """
    import pytest

    @pytest.mark.requirement("MAP-01", "MAP-02")
    def test_slow():
        pass

    @pytest.mark.requirement("MAP-01")
    @pytest.mark.parametrize("row", [0, 1])
    def test_quick(row):
        pass

    @pytest.mark.requirement("MAP-02")
    @pytest.mark.on_dialect("ioctl")
    def test_of_one_dialect():
        pass

    def test_of_no_requirement():
        pass
"""


def covered(pytester: pytest.Pytester, seconds: dict[str, float], *always: str) -> list[str]:
    pytester.makeini("[pytest]\nmarkers =\n requirement(*ids)\n on_dialect(*names)")
    items = pytester.getitems(FEW)
    module = items[0].nodeid.partition("::")[0]
    recorded = {f"{module}::{name}": one for name, one in seconds.items()}
    chosen = fast.covering(items, recorded, [f"{module}::{name}" for name in always])
    return [item.name for item in chosen]


def test_fast_takes_the_quickest_scenario_of_a_requirement(pytester: pytest.Pytester) -> None:
    seconds = {"test_slow": 9.0, "test_quick": 0.1, "test_of_one_dialect": 0.1}
    # The other dialects have only the slow one for MAP-02.
    assert covered(pytester, seconds) == ["test_slow", "test_quick[0]", "test_of_one_dialect"]


def test_fast_takes_what_is_named_first(pytester: pytest.Pytester) -> None:
    seconds = {"test_slow": 9.0, "test_quick": 0.1, "test_of_one_dialect": 0.1}
    # The slow one checks what the others check, so they are not needed.
    assert covered(pytester, seconds, "test_slow", "test_of_no_requirement") == ["test_slow"]
    assert covered(pytester, seconds, "test_quick[1]")[1:] == ["test_quick[1]", "test_of_one_dialect"]


def test_fast_takes_one_scenario_that_checks_all(pytester: pytest.Pytester) -> None:
    seconds = {"test_slow": 0.1, "test_quick": 0.1, "test_of_one_dialect": 0.1}
    assert covered(pytester, seconds) == ["test_slow"]
