"""The oracle of stores: does a store of a client still reach a range after its owner has revoked it?

A hostile client keeps storing to the range.  After the revoke the owner writes the
whole range; a word that differs later was stored by the client.  A fault of the
client's next store would prove less: another processor may still have the page in
its TLB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.actor.hammer import Counts, Hammer
from harness.actor.handles import Mapping
from harness.actor.mismatch import Mismatch
from harness.actor.reply import Fault
from harness.actor.transcript import latest_operation
from harness.lib.errors import HarnessError
from harness.lib.text import part_of
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar

THEIRS = 0xBAD0BEEF  # stored by the client
OURS = 0x600D0A3E  # stored by the owner
WORD = 4  # bytes


def landed(blows: Sequence[Counts]) -> int:
    """Count the accesses of all threads that reached the device."""
    return sum(one.landed for one in blows)


def require_none_landed(before: Sequence[Counts], after: Sequence[Counts]) -> None:
    """Raise Mismatch if an access reached the device between these two counts."""
    count = landed(after) - landed(before)
    tries = sum(map(_tries, after)) - sum(map(_tries, before))
    if count:
        part = f"{'all' if count == tries else f'{count} of'} {_accesses(tries)}"
        raise Mismatch(
            f"{part} to {latest_operation().subject or 'the mapping'} still reached the device",
            expected="SIGBUS for every access",
            seen=f"{_accesses(count)} that landed",
            compared="accesses still reached the device",
        )


def require_sigbus_alone(blows: Sequence[Counts], tries: int) -> None:
    """Raise Mismatch unless each thread had more than ``tries`` SIGBUS, and no other signal."""
    for one in blows:
        if one.sigbus <= tries or one.sigsegv or one.other:
            raise Mismatch(
                f"not every access of the thread on CPU {one.cpu} ended in SIGBUS at its address",
                expected=f"more than {_accesses(tries)} that end in SIGBUS at their address",
                seen=str(one),
                compared="not every access ended in SIGBUS at its address",
            )


def _accesses(count: int) -> str:
    return "1 access" if count == 1 else f"{count} accesses"


def _tries(one: Counts) -> int:
    return one.landed + one.sigbus + one.sigsegv + one.other


@dataclass(frozen=True)
class Oracle:
    """Compares a range of a RAM BAR, from byte ``offset`` on, as its owner and the host see it.

    ``view`` is the owner's device-fd mapping of the range.  The words compared are
    ``stride`` bytes apart: every word, or the first of each page.  Fewer words take
    less time to write, so that a page accessible for microseconds is found as well.
    """

    view: Mapping
    host: RamBar
    offset: int
    stride: int = WORD

    def require_reach(self, hammer: Hammer) -> None:
        """Raise HarnessError unless the host sees the client's stores arrive in every word.

        Only then does the absence of stores after the revoke prove anything.
        """
        self.host.fill(0, self.offset, self.view.length)
        hammer.counts(more=hammer.accesses_per_round)
        missing = self._host_sees(THEIRS)
        if missing:
            raise HarnessError(f"The client was to reach all of the range before the revoke, but {missing}.")

    def require_undisturbed(self) -> None:
        """Raise Mismatch if the owner or the host sees another word than the owner wrote."""
        owner, words = self._owner_sees(OURS), self._host_words()
        others = [word for word in words if word != OURS]
        if not owner and not others:
            return
        what = part_of(len(others), len(words), "page" if self.stride == PAGE else "word")
        clause = f"{what} of the range did not keep what the owner wrote"
        if THEIRS in others:
            clause = f"{what} of the range could still be written by the client"
        raise Mismatch(
            clause,
            expected=f"{OURS:#010x}, which the owner wrote, in every word",
            seen=owner or self._host_sees(OURS),
            compared="the range did not keep what the owner wrote",
        )

    def _host_words(self) -> Sequence[int]:
        return self.host.words(self.offset, self.view.length, self.stride)

    def _owner_sees(self, value: int) -> str:
        if self.stride == PAGE:
            return _first_other("the owner", self.view.pages(), value, PAGE)
        differs = self.view.differs(value)
        return f"the owner sees {differs}" if differs else ""

    def _host_sees(self, value: int) -> str:
        return _first_other("the host", self._host_words(), value, self.stride)


def _first_other(who: str, words: Sequence[int | Fault], value: int, stride: int) -> str:
    for index, word in enumerate(words):
        if word != value:
            seen = f"{word:#010x}" if isinstance(word, int) else str(word)
            return f"{who} sees {seen} at offset {index * stride:#x} instead of {value:#010x}"
    return ""
