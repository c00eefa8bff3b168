"""Compare what a scenario sees with what it expects, and say in words what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass

from harness.actor.answer import call_of, statement
from harness.actor.handles import Mapping
from harness.actor.mismatch import Mismatch
from harness.actor.reply import BUS_ADRERR, Fault, Sigbus, outcome
from harness.actor.transcript import latest_operation, recent_operations
from harness.actor.wanted import wanted_reply, wrong_part
from harness.actor.words import comparison, words
from harness.lib.page_table import PageTable
from harness.lib.text import counted, part_of
from harness.verdict.deviation import Deviation
from harness.vm.hardware import PAGE


@dataclass(frozen=True)
class Comparison:
    """A comparison that does not hold; ``clause`` and ``moment`` are as in Mismatch.

    The clause is empty if there is no more to say than both values.
    """

    deviation: Deviation
    clause: str
    moment: str

    @classmethod
    def of(cls, operator: str, seen: object, expected: object) -> Comparison:
        """Compare what was ``seen`` last with what was ``expected``, with an operator of Python."""
        clauses = comparison(operator, seen, expected)
        latest = latest_operation()
        reply = wanted_reply(operator, seen, expected, latest)
        if not reply and operator == "==" and (part := wrong_part(seen, expected, recent_operations())):
            latest, seen, expected = part
            reply = wanted_reply(operator, seen, expected, latest)
        clause = statement(latest, operator, seen, expected, answered=bool(reply))
        deviation = Deviation(*clauses, latest.text, latest.line, reply)
        return cls(deviation, clause, latest.moment if clause else latest.since)

    def mismatch(self, clause: str = "") -> Mismatch:
        """Return the error, with this ``clause`` in place of its own."""
        found = self.deviation
        said = clause or self.clause or f"expected {found.expected}, but saw {found.seen}"
        return Mismatch.of(said, self.moment, found)


def require(holds: bool, clause: str, *, expected: str, seen: str) -> None:
    """Raise Mismatch with these words, which are as in Mismatch, unless something holds."""
    if not holds:
        raise Mismatch(clause, expected=expected, seen=seen)


def require_equal(seen: object, expected: object, clause: str = "") -> None:
    """Raise Mismatch, with this ``clause`` if any, unless what was ``seen`` last is as ``expected``."""
    if seen != expected:
        raise Comparison.of("==", seen, expected).mismatch(clause)


def require_answers(answers: Map[str, object], expected: object, *names: str) -> None:
    """Raise Mismatch unless each of the calls with these ``names`` has the ``expected`` answer."""
    require_equal({name: answers[name] for name in names}, dict.fromkeys(names, expected))


def require_pages(expected: Sequence[int | Fault], *mappings: Mapping) -> None:
    """Raise Mismatch unless a load from each page of each mapping has its ``expected`` answer."""
    for mapping in mappings:
        require_equal(mapping.pages(), list(expected))


def require_gone(*mappings: Mapping) -> None:
    """Raise Mismatch unless a load from each page of each mapping is SIGBUS at its address."""
    for mapping in mappings:
        require_pages([Sigbus(BUS_ADRERR, at) for at in range(0, mapping.length, PAGE)], mapping)


def require_data(mapping: Mapping, offset: int = 0) -> None:
    """Raise Mismatch if a load of 32 bits from a mapping faults."""
    word = mapping.load32(offset)
    if isinstance(word, Fault):
        raise Comparison.of("==", word, "data").mismatch()


def require_readable(*mappings: Mapping) -> None:
    """Raise Mismatch if a load from a page of one of these mappings faults."""
    for mapping in mappings:
        pages = mapping.pages()
        lost = sum(isinstance(page, Fault) for page in pages)
        if lost:
            latest = latest_operation()
            clause = f"{part_of(lost, len(pages), 'page')} of {latest.subject} could not be read"
            raise Mismatch(clause, expected="data in every page", seen=words(pages))


def require_no_page(*mappings: Mapping) -> None:
    """Raise Mismatch if the page table of its process has a page of one of these mappings."""
    for mapping in mappings:
        table = mapping.page_table()
        if not table.is_empty():
            latest = latest_operation()
            what = part_of(table.mapped() // PAGE, mapping.length // PAGE, "page")
            subject = latest.subject or "the mapping"
            raise Mismatch(
                f"the page table still had {what} of {subject}",
                expected="no page table entry",
                seen=str(table),
                wanted="ok",
                compared=f"the page table still had pages of {subject}",
            )


def require_mapped(mapping: Mapping, level: str | None = None, length: int | None = None) -> PageTable:
    """Return the page table of a mapping; raise Mismatch unless it has ``length`` bytes, by default all.

    With ``level`` only the pages count that are mapped at it.
    """
    table = mapping.page_table()
    seen, expected = (bytes_ // PAGE for bytes_ in (table.mapped(level), length or mapping.length))
    if seen != expected:
        latest = latest_operation()
        at = f" at {level} level" if level else ""
        pages = counted(expected, "page")
        raise Mismatch(
            f"the page table had {seen} of {pages} of {latest.subject or 'the mapping'}{at}",
            expected=f"{pages}{at}",
            seen=str(table),
        )
    return table


def require_refusal(attempt: Callable[[], object]) -> str:
    """Return the errno by which the kernel refuses; raise Mismatch if it does not refuse."""
    errno = outcome(attempt)
    if errno == "success":
        latest = latest_operation()
        clause = f"{call_of(latest)} was not refused"
        raise Mismatch(clause, expected="a refusal", seen="success", wanted="not ok *", moment=latest.moment)
    return errno
