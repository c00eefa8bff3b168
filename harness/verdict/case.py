"""A test case inside a program: its name and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

from harness.verdict.verdict import Verdict


@dataclass(frozen=True)
class Case:
    """One result that a test program reported; ``name`` has those of its parents before it.

    ``verdict`` is ``conforms``, ``violates`` or ``not-applicable``.  ``reason`` may quote the program.
    """

    name: str
    verdict: Verdict
    reason: str = ""
