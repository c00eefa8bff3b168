"""Access to a device's memory: which mappings of a DMABUF and of the device still have it.

Each mapping is touched before the event under test.  The fault handler alone keeps an
access from a page that was never touched; the page table has to lose a touched one.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass

from harness.actor.expect import (
    require,
    require_equal,
    require_gone,
    require_no_page,
    require_pages,
    require_refusal,
)
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.reply import BUS_ADRERR, Fault, Sigbus
from harness.actor.words import words
from harness.lib.text import counted
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
        return "data" if word == self.word else f"{words(word)} instead of {words(self.word)}"


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

    def present(self) -> bool:
        """Tell whether the page table still has every page of the touched mapping."""
        return self.touched.page_table().mapped() == self.touched.length

    def require_gone(self) -> None:
        """Raise Mismatch unless every access is SIGBUS at its address and mmap() is refused."""
        require_no_page(self.touched)
        for mapping in (self.touched, self.untouched):
            require_gone(mapping)
            require_equal(mapping.store32(8, 0xBAD), Sigbus(BUS_ADRERR, 8))
        for name, view in self.views.items():
            require_equal(view.seen(), "SIGBUS", f"the device-fd mapping of {name} could still be read")
        require_refusal(lambda: self.buffer.actor.map(self.buffer))

    def require_back(self) -> None:
        """Raise Mismatch unless every mapping, and a new one, shows its old content."""
        with self.buffer.actor.map(self.buffer) as fresh:
            require_pages(self.words, self.touched, self.untouched, fresh)
        for name, view in self.views.items():
            require_equal(
                view.seen(), "data", f"the device-fd mapping of {name} did not show its old content"
            )

    def require_present(self) -> None:
        """Raise Mismatch unless the page table still has every page of the touched mapping."""
        require_equal(
            self.touched.page_table().mapped() // PAGE,
            self.touched.length // PAGE,
            "the page table did not keep every page of the touched mapping",
        )

    def require_zapped(self) -> None:
        """Raise Mismatch if the page table still has every page of the touched mapping."""
        pages = counted(self.touched.length // PAGE, "page")
        require(
            not self.present(),
            f"the page table still had all {pages} of the touched mapping",
            expected=f"less than {pages}",
            seen=pages,
        )
