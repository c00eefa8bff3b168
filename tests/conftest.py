"""What holds for all tests of the harness."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from harness.actor.transcript import forget_operation


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
