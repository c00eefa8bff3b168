"""The scenarios that docs/port.md names exist, and check the requirements that it names."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMED = re.findall(r"([A-Z]+-\d\d) `(test_\w+)`", (ROOT / "docs/port.md").read_text())


@functools.cache
def scenarios() -> dict[str, set[str]]:
    """Read the requirement ids of each scenario, by its name."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "suites").glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                marks = [mark for mark in node.decorator_list if "requirement" in ast.unparse(mark)]
                found[node.name] = set(re.findall(r"'([A-Z]+-\d\d)'", " ".join(map(ast.unparse, marks))))
    return found


@pytest.mark.parametrize(("identity", "name"), NAMED)
def test_named_scenario_checks_its_requirement(identity: str, name: str) -> None:
    assert identity in scenarios()[name]


def test_every_row_of_the_ported_groups_has_a_scenario() -> None:
    checked = set().union(*scenarios().values())
    for group, rows in (("MAP", 14), ("ALIAS", 7), ("RNG", 10), ("HUGE", 12)):
        assert {f"{group}-{row:02}" for row in range(1, rows + 1)} <= checked
