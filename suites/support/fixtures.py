"""The values that fixtures hand to scenarios, and their types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.actor.actor import Actor
from harness.actor.importer import Importer
from harness.guest.guest import PciFunction

Start = Callable[[str], Actor]  # starts an actor: "c" or "python"
Importers = Callable[[Actor], Importer]  # opens an importer of the test module
Finding = Callable[[str], None]  # records a sentence in the report; no verdict depends on it


@dataclass(frozen=True)
class MemoryDevice:
    """A PCI function with a BAR of memory, and the index of that BAR."""

    function: PciFunction
    bar: int
