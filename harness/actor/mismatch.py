"""The error of a scenario that sees something other than it expected."""

from __future__ import annotations

from harness.actor.transcript import latest_operation
from harness.verdict.deviation import Deviation


class Mismatch(AssertionError):  # noqa: N818 - the kernel's fault, not an error of the harness
    """A scenario saw something other than it expected.

    ``sentence`` says what is wrong, in words that need no source code: ``After revoke returned, 37
    pages of the client's mapping could still be written.``  ``expected`` and ``seen`` are
    clauses.  ``wanted`` is as in Deviation.  The operation that decided is the latest one in the
    transcript.
    """

    def __init__(self, sentence: str, *, expected: str, seen: str, wanted: str = "") -> None:
        super().__init__(sentence)
        latest = latest_operation()
        self.deviation = Deviation(expected, seen, latest.text, latest.line, wanted)

    @classmethod
    def of(cls, sentence: str, deviation: Deviation, error: AssertionError) -> Mismatch:
        """Return the mismatch that ``error`` reports, with its traceback and notes."""
        made = cls(sentence, expected=deviation.expected, seen=deviation.seen).with_traceback(
            error.__traceback__
        )
        made.deviation = deviation
        for note in getattr(error, "__notes__", ()):
            made.add_note(note)
        return made
