"""Whether the memory of a device can be reached: by the mappings of a DMABUF, and through the device.

Everything is touched before, for what was never touched is out of reach by the
fault handler alone; a page that was, somebody has to take away.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass

from harness.probe import BUS_ADRERR, PAGE, Buffer, Device, Fault, Mapping, Range, Refused, Sigbus

VFIO_REGION_INFO_FLAG_MMAP = 4  # include/uapi/linux/vfio.h; a BAR of I/O ports has none


@dataclass(frozen=True)
class View:
    """A mapping whose 32-bit word at ``place`` was ``word``."""

    mapping: Mapping
    place: int
    word: int | Fault

    @classmethod
    def of(cls, mapping: Mapping, place: int = 0) -> View:
        """Touch it."""
        return cls(mapping, place, mapping.load32(place))

    def seen(self) -> str:
        """``data`` if it is what it was, ``SIGBUS`` at this address, or what else there is."""
        return self.judge(self.mapping.load32(self.place))

    def judge(self, word: int | Fault) -> str:
        """The same of a word that was loaded."""
        if word == Sigbus(BUS_ADRERR, self.place):
            return "SIGBUS"
        return "data" if word == self.word else f"{word} instead of {self.word}"


def look(views: Map[str, View]) -> dict[str, str]:
    """What is seen of each of some views of one C actor, see View.seen()."""
    actor = next(iter(views.values())).mapping.actor
    words = actor.load_each([(view.mapping, view.place) for view in views.values()])
    return {name: view.judge(word) for (name, view), word in zip(views.items(), words, strict=True)}


def views_of(device: Device) -> dict[str, View]:
    """Device-fd mappings of a page of every BAR that has them: of the first, the second and the last."""
    views = {}
    for bar, size in device.bars.items():
        if not device.region(bar).flags & VFIO_REGION_INFO_FLAG_MMAP:
            continue
        for place in sorted({0, PAGE, size - PAGE} & set(range(0, size, PAGE))):
            views[f"BAR {bar} at {place:#x}"] = View.of(device.actor.map(device, PAGE, place, bar=bar))
    return views


@dataclass(frozen=True)
class Reach:
    """All ways to the memory of a device; of the mappings of the DMABUF one is ``untouched``.

    ``words`` are the first of each page of it.
    """

    buffer: Buffer
    touched: Mapping
    untouched: Mapping
    views: Map[str, View]
    words: Sequence[int | Fault]

    @classmethod
    def of(cls, device: Device, bar: int, ranges: Sequence[Range]) -> Reach:
        """Make them.  Refused where a DMABUF cannot be mapped."""
        owner = device.actor
        buffer = owner.export(device, bar, ranges)
        touched, untouched = owner.map(buffer), owner.map(buffer)
        return cls(buffer, touched, untouched, views_of(device), touched.pages())

    def left(self) -> str:
        """What is still in reach, or lost in another way than by SIGBUS at its address; empty if nothing."""
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
        """Which way, or new mapping, does not show what was there before; empty if all do."""
        with self.buffer.actor.map(self.buffer) as fresh:
            for name, mapping in (("touched", self.touched), ("untouched", self.untouched), ("new", fresh)):
                if (pages := mapping.pages()) != self.words:
                    return f"the {name} mapping shows {pages} instead of {self.words}"
        for name, view in self.views.items():
            if (seen := view.seen()) != "data":
                return f"the device-fd mapping of {name} gives {seen}"
        return ""

    def present(self) -> bool:
        """Whether no page of the touched mapping has been taken away since."""
        return self.touched.page_table().mapped() == self.touched.length
