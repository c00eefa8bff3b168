"""Access to a device's memory: which mappings of a DMABUF and of the device still have it.

Each mapping is touched before the event under test.  The fault handler alone keeps an
access from a page that was never touched; the page table has to lose a touched one.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass

from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.reply import BUS_ADRERR, Fault, Refused, Sigbus
from harness.vm.hardware import PAGE

VFIO_REGION_INFO_FLAG_MMAP = 4  # include/uapi/linux/vfio.h; a BAR of I/O ports lacks it


@dataclass(frozen=True)
class View:
    """A mapping whose 32-bit word at ``place`` was ``word``."""

    mapping: Mapping
    place: int
    word: int | Fault

    @classmethod
    def of(cls, mapping: Mapping, place: int = 0) -> View:
        """Load the word, which touches its page."""
        return cls(mapping, place, mapping.load32(place))

    def seen(self) -> str:
        """Load the word again: ``data`` if it is the same, ``SIGBUS`` at its address, or what else it is."""
        return self.judge(self.mapping.load32(self.place))

    def judge(self, word: int | Fault) -> str:
        """Say what seen() says, of a word that was loaded elsewhere."""
        if word == Sigbus(BUS_ADRERR, self.place):
            return "SIGBUS"
        return "data" if word == self.word else f"{word} instead of {self.word}"


def look(views: Map[str, View]) -> dict[str, str]:
    """Return View.seen() of each of these views of one C actor."""
    actor = next(iter(views.values())).mapping.actor
    words = actor.load_each([(view.mapping, view.place) for view in views.values()])
    return {name: view.judge(word) for (name, view), word in zip(views.items(), words, strict=True)}


def views_of(device: Device) -> dict[str, View]:
    """Map the first, the second and the last page of every BAR that the device fd can map."""
    views = {}
    for bar, size in device.bars.items():
        if not device.region(bar).flags & VFIO_REGION_INFO_FLAG_MMAP:
            continue
        for place in sorted({0, PAGE, size - PAGE} & set(range(0, size, PAGE))):
            views[f"BAR {bar} at {place:#x}"] = View.of(device.actor.map(device, PAGE, place, bar=bar))
    return views


@dataclass(frozen=True)
class Reach:
    """Mappings of a device's memory: two of a DMABUF, one of them ``untouched``, and ``views`` of the BARs.

    ``words`` are the first word of each page of the DMABUF.
    """

    buffer: Buffer
    touched: Mapping
    untouched: Mapping
    views: Map[str, View]
    words: Sequence[int | Fault]

    @classmethod
    def of(cls, device: Device, bar: int, ranges: Sequence[Range]) -> Reach:
        """Make the mappings.  Raises Refused where a DMABUF cannot be mapped."""
        owner = device.actor
        buffer = owner.export(device, bar, ranges)
        touched, untouched = owner.map(buffer), owner.map(buffer)
        return cls(buffer, touched, untouched, views_of(device), touched.pages())

    def left(self) -> str:
        """Say which access is not SIGBUS at its address, or that mmap() succeeds; empty if there is none."""
        owner = self.buffer.actor
        if not owner.page_table(self.touched).is_empty():
            return "the page table has pages of the touched mapping"
        for name, mapping in (("touched", self.touched), ("untouched", self.untouched)):
            gone = [Sigbus(BUS_ADRERR, at) for at in range(0, mapping.length, PAGE)]
            if (pages := mapping.pages()) != gone:
                return f"loads from the {name} mapping are {pages}"
            if (store := mapping.store32(8, 0xBAD)) != Sigbus(BUS_ADRERR, 8):
                return f"a store to the {name} mapping is {store}"
        for name, view in self.views.items():
            if (seen := view.seen()) != "SIGBUS":
                return f"the device-fd mapping of {name} gives {seen}"
        try:
            owner.map(self.buffer)
        except Refused:
            return ""
        return "the DMABUF can be mapped"

    def missing(self) -> str:
        """Say which mapping, or new mapping, does not show its old content; empty if all do."""
        with self.buffer.actor.map(self.buffer) as fresh:
            for name, mapping in (("touched", self.touched), ("untouched", self.untouched), ("new", fresh)):
                if (pages := mapping.pages()) != self.words:
                    return f"the {name} mapping shows {pages} instead of {self.words}"
        for name, view in self.views.items():
            if (seen := view.seen()) != "data":
                return f"the device-fd mapping of {name} gives {seen}"
        return ""

    def present(self) -> bool:
        """Tell whether the page table still has every page of the touched mapping."""
        return self.touched.page_table().mapped() == self.touched.length

    def require_gone(self) -> None:
        """Raise AssertionError unless every access is SIGBUS at its address and mmap() is refused."""
        if left := self.left():
            raise AssertionError(f"Expected every access to be SIGBUS and mmap() to be refused, but {left}.")

    def require_back(self) -> None:
        """Raise AssertionError unless every mapping, and a new one, shows its old content."""
        if missing := self.missing():
            raise AssertionError(f"Expected every mapping to show its old content, but {missing}.")

    def require_present(self) -> None:
        """Raise AssertionError unless the page table still has every page of the touched mapping."""
        if not self.present():
            raise AssertionError(
                "Expected the page table to keep every page of the touched mapping, but it has "
                f"{self.touched.page_table().mapped():#x} of {self.touched.length:#x} bytes."
            )

    def require_zapped(self) -> None:
        """Raise AssertionError if the page table still has every page of the touched mapping."""
        if self.present():
            raise AssertionError(
                "Expected the page table to lose pages of the touched mapping, but it has all "
                f"{self.touched.length:#x} bytes."
            )
