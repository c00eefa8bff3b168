"""What holds for all tests of the harness."""

from __future__ import annotations

import pytest

from harness.actor.transcript import forget_operation


@pytest.fixture(autouse=True)
def _no_operation() -> None:
    """Forget the operations of earlier tests, as a scenario forgets those of earlier scenarios."""
    forget_operation()
