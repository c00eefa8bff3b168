"""The table of docs/limits.md and the constants of the program say the same."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
ROW = re.compile(
    r"\| (?P<what>[^|]+) \| (?P<number>[\d ]*\d) ?(?P<unit>[KMG]iB)? "
    r"\| `(?P<name>[\w.]+)` \| (?P<then>[^|]+) \|"
)
#: The modules that read what a stranger wrote, and the names of limits there.
READERS = (
    "actor/transcript.py",
    "guest/*.py",
    "vm/*.py",
    "klog/*.py",
    "verdict/ktap.py",
    "lib/command.py",
    "lib/errors.py",
    "lib/page_table.py",
    "kernel/make_output.py",
    "kernel/kconfig_why.py",
    "kernel/uapi.py",
    "series/diff.py",
    "series/mail.py",
    "series/unpack.py",
    "journal/writer.py",
)
LIMIT = re.compile(r"MAX_\w+|(\w+_)?LIMIT|WINDOW")


def table() -> dict[str, re.Match[str]]:
    """Return the rows of the document by the name of their constant."""
    lines = (ROOT / "docs/limits.md").read_text().splitlines()
    rows = [ROW.fullmatch(line) for line in lines if "`harness." in line]
    assert None not in rows
    return {row["name"]: row for row in rows if row is not None}


def constants() -> set[str]:
    """Return the names of all limits in the READERS."""
    found = set()
    for path in (path for pattern in READERS for path in (ROOT / "harness").glob(pattern)):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            for target in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Name) and LIMIT.fullmatch(target.id):
                    found.add(f"{module}.{target.id}")
    return found


@pytest.mark.parametrize("name", sorted(table()))
def test_limit_is_that_of_the_program(name: str) -> None:
    row = table()[name]
    module, _, constant = name.rpartition(".")
    said = int(row["number"].replace(" ", "")) * UNITS[row["unit"] or ""]
    assert said == getattr(importlib.import_module(module), constant)


def test_every_limit_of_a_reader_is_in_the_table() -> None:
    found = constants()
    assert len(found) > 25
    assert found - set(table()) == set()


def test_document_is_linked() -> None:
    for document in ("README.md", "docs/architecture.md"):
        assert "limits.md" in (ROOT / document).read_text()
