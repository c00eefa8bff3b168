"""A generated fault: some lines of a C file, and what stands there instead."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from harness.lib.files import digest
from harness.lib.text import slug

MAX_SHOWN = 200  # characters of a fault's text


@dataclass(frozen=True)
class Fault:
    """A change of the lines ``first`` to ``last`` (from 1) of ``file`` in the function ``function``.

    ``old`` and ``new`` are the text of these lines with their ends.  Both have the same number of lines:
    so no other line moves, and the line numbers in an object stay.  ``rule`` says in a few words what was
    changed.
    """

    file: str
    first: int
    last: int
    function: str
    rule: str
    old: str
    new: str

    def __post_init__(self) -> None:
        assert self.old.count("\n") == self.new.count("\n") == self.last - self.first + 1, self

    @cached_property
    def name(self) -> str:
        """Return the name of the fault, the same for the same change of the same lines."""
        stem = slug(self.file.rpartition("/")[2].removesuffix(".c").replace("_", "-").lower())
        short = digest(self.file, str(self.first), self.old, self.new)[:8]
        return f"{stem}-{self.first}-{short}"

    @property
    def place(self) -> str:
        """Return FILE:LINE."""
        return f"{self.file}:{self.first}"

    @property
    def change(self) -> str:
        """Return what was changed, on one line."""
        was, now = (" ".join(text.split()) for text in (self.old, self.new))
        return _short(f"{was!r} became {now!r}")

    def apply(self, lines: list[str]) -> str:
        """Return the text of the file with this fault; ``lines`` are those of the whole file."""
        assert "".join(lines[self.first - 1 : self.last]) == self.old, self
        return "".join([*lines[: self.first - 1], self.new, *lines[self.last :]])


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
