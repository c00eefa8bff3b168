"""A mapping's page table entries, as ptdump shows them."""

from __future__ import annotations

from dataclasses import dataclass

# x86-64 with PAT on, arch/x86/mm/pat/memtype.c: pat_bp_init(); the PAT bit itself is not used.
_CACHING = {
    (False, False): "write-back",
    (True, False): "write-combining",
    (False, True): "uncached-minus",
    (True, True): "uncached",
}


@dataclass(frozen=True)
class PageSpan:
    """A present run of a page table: offsets in the mapping (bytes), level, flags as the kernel says them."""

    start: int
    end: int
    level: str
    flags: frozenset[str]

    @property
    def huge(self) -> bool:
        """Whether one entry maps more than a page (``PSE``; 2 MiB at ``pmd``, 1 GiB at ``pud``)."""
        return "PSE" in self.flags

    @property
    def caching(self) -> str:
        """``write-back``, ``write-combining``, ``uncached-minus`` or ``uncached``."""
        return _CACHING["PWT" in self.flags, "PCD" in self.flags]


@dataclass(frozen=True)
class PageTable:
    """What a process's page table held of one mapping."""

    spans: tuple[PageSpan, ...]

    @classmethod
    def parse(cls, words: str) -> PageTable:
        """From the words of a ``pagetable`` reply.  Raises ValueError if they are none."""
        spans = []
        for word in words.split():
            where, level, flags = word.split(":")
            start, end = (int(number, 16) for number in where.split("-"))
            spans.append(PageSpan(start, end, level, frozenset(flags.split(","))))
        return cls(tuple(spans))

    def is_empty(self) -> bool:
        """Nothing of the mapping is present, at any level."""
        return not self.spans

    def huge(self) -> tuple[PageSpan, ...]:
        """The spans mapped by huge pages."""
        return tuple(span for span in self.spans if span.huge)

    def mapped(self, level: str | None = None) -> int:
        """Bytes present, at ``level`` (``pte``, ``pmd``, ``pud``) or at any."""
        return sum(span.end - span.start for span in self.spans if level in (None, span.level))

    def where(self, level: str) -> tuple[tuple[int, int], ...]:
        """What is mapped at ``level``: start and end (bytes) of each run."""
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
        """The cache modes found; more than one is worth a look."""
        return frozenset(span.caching for span in self.spans)
