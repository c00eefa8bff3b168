"""The page table entries of a mapping, from the kernel's ptdump."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.lib.text import printable

#: Runs of pages in one dump: those of a mapping of 1 GiB of which each page differs from the next.
MAX_SPANS = 1 << 18
_SPAN = re.compile(
    r"(?P<start>(?:0x)?[0-9a-f]{1,16})-(?P<end>(?:0x)?[0-9a-f]{1,16}):(?P<level>[^:]{0,30}):(?P<flags>[^:]{0,200})"
)

# x86-64 with PAT on, arch/x86/mm/pat/memtype.c: pat_bp_init(); the PAT bit itself is not used.
_CACHING = {
    (False, False): "write-back",
    (True, False): "write-combining",
    (False, True): "uncached-minus",
    (True, True): "uncached",
}


@dataclass(frozen=True)
class PageSpan:
    """A present run of a page table: offsets in the mapping (bytes), level, flags in ptdump's words."""

    start: int
    end: int
    level: str
    flags: frozenset[str]

    def __str__(self) -> str:
        return f"{self.start:#x} to {self.end:#x} by {self.level} ({' '.join(sorted(self.flags))})"

    @property
    def huge(self) -> bool:
        """True if an entry maps more than a page (``PSE``; 2 MiB at ``pmd``, 1 GiB at ``pud``)."""
        return "PSE" in self.flags

    @property
    def caching(self) -> str:
        """The cache mode: ``write-back``, ``write-combining``, ``uncached-minus`` or ``uncached``."""
        return _CACHING["PWT" in self.flags, "PCD" in self.flags]


@dataclass(frozen=True)
class PageTable:
    """The present entries of a process's page table for one mapping."""

    spans: tuple[PageSpan, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.spans)) or "no entry"

    @classmethod
    def parse(cls, words: str) -> PageTable:
        """Parse the words of a ``pagetable`` reply.  Raises ValueError."""
        spans: list[PageSpan] = []
        for word in words.split():
            found = _SPAN.fullmatch(word)
            if found is None or len(spans) == MAX_SPANS:
                raise ValueError(f"no page table of at most {MAX_SPANS} spans: {printable(word)!r}")
            level, flags = found["level"], found["flags"]
            start, end = int(found["start"], 16), int(found["end"], 16)
            spans.append(PageSpan(start, end, level, frozenset(flags.split(","))))
        return cls(tuple(spans))

    def is_empty(self) -> bool:
        """Return whether nothing of the mapping is present, at any level."""
        return not self.spans

    def huge(self) -> tuple[PageSpan, ...]:
        """Return the spans that are mapped by huge pages."""
        return tuple(span for span in self.spans if span.huge)

    def mapped(self, level: str | None = None) -> int:
        """Return the number of present bytes at ``level`` (``pte``, ``pmd``, ``pud``), by default at any."""
        return sum(span.end - span.start for span in self.spans if level in (None, span.level))

    def where(self, level: str) -> tuple[tuple[int, int], ...]:
        """Return the runs that are present at ``level``: start and end of each, in bytes."""
        runs: list[tuple[int, int]] = []
        for span in self.spans:
            if span.level != level:
                continue
            if runs and runs[-1][1] == span.start:
                runs[-1] = runs[-1][0], span.end
            else:
                runs.append((span.start, span.end))
        return tuple(runs)

    def caching(self) -> frozenset[str]:
        """Return all cache modes of the mapping; more than one is suspicious."""
        return frozenset(span.caching for span in self.spans)
