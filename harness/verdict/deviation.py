"""The difference between what a scenario expected and what it saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# What was expected, where the kernel complained or died: no operation decided.
NO_COMPLAINT = "no complaint of the kernel, and its state as before"
ALIVE = "a kernel that lives"
# Stands before the functions in which a call that does not return waits.
WAITS_IN = "; it waits in "


@dataclass(frozen=True)
class Deviation:
    """What a scenario expected, and what it saw instead; both are clauses in words.

    - ``operation`` is the line of the transcript that was answered wrongly, without the
      prompt; empty if no operation decided.
    - ``line`` is its line number in the transcript, from 1; 0 if it is not known.
    - ``wanted`` is the pattern of the replies that would have conformed (probes/PROTOCOL.md,
      "Transcripts"); empty if no single reply decided.
    """

    expected: str
    seen: str
    operation: str = ""
    line: int = 0
    wanted: str = ""

    @property
    def sentence(self) -> str:
        """Both clauses as one sentence."""
        return f"Expected {self.expected}, but saw {self.seen}."

    @property
    def verb(self) -> str:
        """The name of the operation that decided, see verb_of()."""
        return verb_of(self.operation)

    @property
    def of_kernel(self) -> bool:
        """Return whether the kernel complained or died, so that ``operation`` is only the latest one."""
        return self.expected in (NO_COMPLAINT, ALIVE)

    def members(self) -> dict[str, Any]:
        """Return the deviation as members of a JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> Deviation:
        """Return the deviation of members().

        Raises KeyError, TypeError, ValueError or OverflowError for anything else.
        """
        texts = {name: str(members[name]) for name in ("expected", "seen", "operation", "wanted")}
        return cls(line=int(members["line"]), **texts)


def verb_of(operation: str) -> str:
    """Return an operation's name (``load32``, ``host word``), without the actor that did it; or empty."""
    words = operation.split()
    if words[:1] in (["host"], ["guest"]):
        return " ".join(words[:2])
    while words and words[0][:1] in ("@", "&"):
        words = words[1:]
    return words[0] if words else ""
