"""The state table as data, and what is refused in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.lib.errors import HarnessError
from suites.support.state_table import load


def test_the_projects_own_table_is_whole() -> None:
    table = load()
    assert table.states[0] == "live"
    assert table.events["revoke"]["revoked"] == "EBADFD"
    assert all(set(row) == set(table.states) for row in table.events.values())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "states"),
        ('states = ["a"]', "events"),
        ("states = [", "no table"),
        ('states = ["a"]\nevents = 1', "no table"),
        ('states = ["a", "b"]\n[events]\nmap = ["x"]', "'map'"),
        ('states = ["a", "b"]\n[events]\nmap = ["x", ""]', "'map'"),
        ('states = ["a"]\n[events]\nmap = [1]', "'map'"),
    ],
)
def test_a_malformed_table_is_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "state_table.toml"
    path.write_text(text)
    with pytest.raises(HarnessError, match=word):
        load(path)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"absent\.toml"):
        load(tmp_path / "absent.toml")
