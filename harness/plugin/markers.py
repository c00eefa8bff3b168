"""The pytest markers of scenarios."""

from __future__ import annotations

import pytest

from harness.run.needs import MACHINE_KEYWORDS

requirement = pytest.mark.requirement
on_dialect = pytest.mark.on_dialect
on_attribute = pytest.mark.on_attribute
machine = pytest.mark.machine
needs_option = pytest.mark.needs_option

#: For pytest's ``--markers``.
LINES = (
    "requirement(*ids): the rows of the matrix that a scenario checks",
    "on_dialect(*names): the dialects in which a scenario can run",
    "on_attribute(*kinds): the interfaces for the memory attribute with which a scenario can run",
    "needs_option(*names): the kernel options, without CONFIG_, that a scenario needs",
    "machine(...): the machine that a scenario needs. "
    + "; ".join(f"{word}: {what}" for word, what in MACHINE_KEYWORDS.items()),
)
