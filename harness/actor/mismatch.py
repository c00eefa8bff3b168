"""The error of a scenario that sees something other than it expected."""

from __future__ import annotations

from harness.actor.scene import Operation
from harness.actor.transcript import latest_operation
from harness.verdict.deviation import Deviation


class Mismatch(AssertionError):  # noqa: N818 - the kernel's fault, not an error of the harness
    """A scenario saw something other than it expected.

    ``clause`` says what is wrong, in words that need no source code: ``37 of 64 pages of the
    client's mapping could still be written``.  The sentence begins with the ``moment``, by
    default the latest event of the transcript: ``After revoke returned``; with none if it is
    empty.  ``expected`` and ``seen`` are clauses.  ``wanted`` is as in Deviation.  The
    ``operation`` that decided is by default the latest one in the transcript.

    ``compared`` is what another kernel has to do as well to fail in the same way.  By default
    it is all of the above; a helper whose counts differ from run to run leaves them out.
    """

    def __init__(
        self,
        clause: str,
        *,
        expected: str,
        seen: str,
        wanted: str = "",
        moment: str | None = None,
        compared: str = "",
        operation: Operation | None = None,
    ) -> None:
        latest = operation or latest_operation()
        text = sentence(latest.since if moment is None else moment, clause)
        super().__init__(text)
        self.deviation = Deviation(expected, seen, latest.text, latest.line, wanted)
        self.compared = compared or f"{text}\n{self.deviation.sentence}"

    @classmethod
    def of(cls, clause: str, moment: str, deviation: Deviation) -> Mismatch:
        """Return a mismatch of a deviation that is known already."""
        made = cls(clause, expected=deviation.expected, seen=deviation.seen, moment=moment)
        made.deviation = deviation
        return made

    def in_place_of(self, error: AssertionError) -> Mismatch:
        """Return this with the traceback and the notes of ``error``."""
        for note in getattr(error, "__notes__", ()):
            self.add_note(note)
        return self.with_traceback(error.__traceback__)


def sentence(moment: str, clause: str) -> str:
    """Return a clause as a sentence that begins with the moment, if there is one."""
    if moment:
        return f"{moment}, {clause}."
    # The name of a function stays as it is.
    return f"{clause}." if "(" in clause.partition(" ")[0] else f"{clause[:1].upper()}{clause[1:]}."
