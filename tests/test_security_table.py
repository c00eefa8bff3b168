"""The table of attacks in docs/security.md: each row names a test, and the test is there."""

from __future__ import annotations

import re

from harness.lib.paths import PROJECT

ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| `(?P<file>test_\w+\.py)::(?P<test>test_\w+)`(?: \*)? \|$")


def test_each_attack_in_the_table_has_its_test() -> None:
    text = (PROJECT / "docs" / "security.md").read_text()
    table = text.split("## Attack, and what happens")[1].split("\n## ")[0]
    rows = [
        line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| attack |")
    ]
    assert len(rows) >= 80
    for line in rows:
        row = ROW.match(line)
        assert row, line
        source = (PROJECT / "tests" / row["file"]).read_text()
        assert f"def {row['test']}(" in source, line
