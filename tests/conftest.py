"""What holds for all tests of the harness."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from harness.actor.transcript import forget_operation


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have a machine or a build, which take minutes; keep each file together.

    Of two processes (tox.ini), neither then waits long for the other at the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("vm") or item.get_closest_marker("build")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_operation() -> None:
    """Forget the operations of earlier tests, as a scenario forgets those of earlier scenarios."""
    forget_operation()


@pytest.fixture
def main_undone() -> Iterator[None]:
    """Restore what main() changes in its process: it expects to be called once."""
    level = logging.getLogger("paramiko").level
    yield
    logging.getLogger("paramiko").setLevel(level)
