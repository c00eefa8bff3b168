"""The quiescence oracle: does anything still reach a range that its owner took back?

A hostile client keeps storing to the range.  Once it has been taken back, the
owner writes all of it anew; whatever differs from that later came from the
client.  That the client's next store faults would say less: another processor
may still have the page in its TLB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.hammer import Blows, Hammer
from harness.probe import PAGE, Fault, Mapping
from harness.witness import RamBar

THEIRS = 0xBAD0BEEF
OURS = 0x600D0A3E
WORD = 4  # bytes


def landed(blows: Sequence[Blows]) -> int:
    """How many accesses of all threads reached the device."""
    return sum(one.landed for one in blows)


@dataclass(frozen=True)
class Oracle:
    """Watches a range of a RAM BAR, from byte ``offset`` on, as its owner and the host see it.

    ``view`` is the owner's mapping of just that range through the device.  The
    words that count are ``stride`` bytes apart: every one, or the first of each
    page.  Page by page it is quicker to write over all of them, and so finds what
    is within reach for some microseconds only.
    """

    view: Mapping
    host: RamBar
    offset: int
    stride: int = WORD

    def require_reach(self, hammer: Hammer) -> None:
        """Raise HarnessError unless the host sees ``THEIRS`` arrive in every word.

        Who is not shown what arrives says nothing by seeing nothing arrive.
        """
        self.host.fill(0, self.offset, self.view.length)
        hammer.blows(more=hammer.lap)
        missing = self._host_sees(THEIRS)
        if missing:
            raise HarnessError(f"The client was to reach all of the range before the revoke, but {missing}.")

    def disturbed(self) -> str:
        """Where a 32-bit word is not ``OURS`` to the owner or to the host; empty if it is everywhere."""
        return self._owner_sees(OURS) or self._host_sees(OURS)

    def _owner_sees(self, value: int) -> str:
        if self.stride == PAGE:
            return _first_other("the owner", self.view.pages(), value, PAGE)
        differs = self.view.differs(value)
        return f"the owner sees {differs}" if differs else ""

    def _host_sees(self, value: int) -> str:
        words = self.host.words(self.offset, self.view.length, self.stride)
        return _first_other("the host", words, value, self.stride)


def _first_other(who: str, words: Sequence[int | Fault], value: int, stride: int) -> str:
    for index, word in enumerate(words):
        if word != value:
            seen = f"{word:#010x}" if isinstance(word, int) else str(word)
            return f"{who} sees {seen} at offset {index * stride:#x} instead of {value:#010x}"
    return ""
