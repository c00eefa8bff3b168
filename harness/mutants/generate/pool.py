"""The faults that can be made of a series, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.kernel.added_lines import added_lines
from harness.kernel.tree import Tree
from harness.lib.files import digest
from harness.mutants.generate import line_rules, statement_rules
from harness.mutants.generate.c_source import Source, Span
from harness.mutants.generate.coverage import Coverage
from harness.mutants.generate.fault import Fault


class Pool:
    """The faults of the C lines that a series adds, those of lines that ran alone if there is ``coverage``.

    ``options`` are those of the kernel's configuration.  ``sources`` has the files, ``added`` the number
    of lines that the series adds and the configuration compiles, ``eligible`` the number of those from
    which faults are made.
    """

    def __init__(self, tree: Tree, options: Mapping[str, str], coverage: Coverage | None, seed: str) -> None:
        self._coverage = coverage
        found = added_lines(tree, options)
        self._patches = {
            (file, number): one.patch for file, here in found.items() for number, one in here.items()
        }
        lines = {
            file: frozenset(number for number, one in here.items() if not one.left_out)
            for file, here in found.items()
            if file.endswith(".c") and here
        }
        self.sources = {file: Source(tree.content(file)) for file in lines}
        self.added = sum(map(len, lines.values()))
        wanted = lines
        if coverage is not None:
            wanted = {file: frozenset(here & coverage.executed(file)) for file, here in lines.items()}
            wanted = {
                file: frozenset(_with_continued(self.sources[file], lines[file], here))
                for file, here in wanted.items()
            }
        self.eligible = sum(map(len, wanted.values()))
        self.faults = in_order(_faults(self.sources, wanted), seed)

    def patch_of(self, fault: Fault) -> int:
        """Return the number of the patch, from 1, that brought the first line of a fault."""
        return self._patches[fault.file, fault.first]

    def scenarios(self, fault: Fault) -> list[str]:
        """Return the scenarios that executed a line of a fault, or of the statements that it is in.

        Empty without coverage.
        """
        first, last = fault.first, fault.last
        for span in _spans(self.sources[fault.file]):
            if span.first <= fault.last and fault.first <= span.last:
                first, last = min(first, span.first), max(last, span.last)
        return [] if self._coverage is None else self._coverage.scenarios(fault.file, first, last)


def _with_continued(source: Source, added: frozenset[int], executed: frozenset[int]) -> set[int]:
    """Return the executed lines with the other lines of the statements and conditions that begin there.

    gcov counts a statement of several lines at one or some of them.
    """
    found = set(executed)
    for span in _spans(source):
        whole = set(range(span.first, span.last + 1))
        if whole & executed:
            found |= whole & added
    return found


def _spans(source: Source) -> Iterator[Span]:
    """Yield the statements and conditions of a file."""
    for function in source.functions:
        yield from (one.span for one in function.statements)
        yield from function.conditions


def _faults(sources: Mapping[str, Source], wanted: Mapping[str, frozenset[int]]) -> list[Fault]:
    found: dict[str, Fault] = {}
    for file, source in sources.items():
        for rules in (statement_rules, line_rules):
            for fault in rules.faults(file, source, wanted[file]):
                found.setdefault(fault.name, fault)
    return list(found.values())


def in_order(faults: Sequence[Fault], seed: str) -> list[Fault]:
    """Return the faults so that every line has one before a line has its second, else by ``seed``."""
    shuffled = sorted(faults, key=lambda fault: digest("fault", seed, fault.name))
    of_line: dict[tuple[str, int], int] = {}
    ranked = []
    for place, fault in enumerate(shuffled):
        rank = of_line[fault.file, fault.first] = of_line.get((fault.file, fault.first), 0) + 1
        ranked.append((rank, place, fault))
    return [fault for _, _, fault in sorted(ranked, key=lambda one: one[:2])]
