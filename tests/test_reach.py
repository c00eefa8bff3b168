"""Reach: what it says of mappings that are in reach, lost, or neither, and what it raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from harness.actor.handles import Buffer, Mapping
from harness.actor.reply import BUS_ADRERR, Fault, Refused, Sigbus, Sigsegv
from harness.lib.page_table import PageSpan, PageTable
from harness.vm.hardware import PAGE
from suites.support.reach import Reach, View, look

WORDS = [0x10, 0x11]
PRESENT = PageTable((PageSpan(0, 2 * PAGE, "pte", frozenset({"USR", "RW", "PCD"})),))


@dataclass
class Device:
    """An actor whose mappings all show the same: ``words``, or that they are lost."""

    lost: bool = False
    table: PageTable = PRESENT
    words: list[int] = field(default_factory=lambda: list(WORDS))
    fault: type[Fault] = Sigbus
    code: str = BUS_ADRERR
    stores: bool = False
    maps: bool = True

    def page_table(self, mapping: Any) -> PageTable:
        return self.table

    def map(self, buffer: Any) -> Any:
        if not self.maps:
            raise Refused("ENODEV", "map", "")
        return mapping(self)

    def load_each(self, places: Sequence[tuple[Any, int]]) -> list[int | Fault]:
        return [one.load32(place) for one, place in places]


@dataclass(frozen=True)
class Shown:
    """A mapping of two pages."""

    actor: Device
    length: int = 2 * PAGE

    def load32(self, place: int) -> int | Fault:
        device = self.actor
        return device.fault(device.code, place) if device.lost else device.words[place // PAGE]

    def pages(self) -> list[int | Fault]:
        return [self.load32(place) for place in range(0, self.length, PAGE)]

    def store32(self, place: int, value: int) -> Fault | None:
        return None if self.actor.stores or not self.actor.lost else Sigbus(BUS_ADRERR, place)

    def page_table(self) -> PageTable:
        return self.actor.table

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def mapping(device: Device) -> Mapping:
    return cast(Mapping, Shown(device))


def reach(device: Device) -> Reach:
    buffer = Buffer(cast(Any, device), "buf1", 2 * PAGE, None)
    views = {"BAR 0 at 0x0": View.of(mapping(device)), "BAR 2 at 0x1000": View.of(mapping(device), PAGE)}
    return Reach(buffer, mapping(device), mapping(device), views, WORDS)


def lose(device: Device) -> None:
    device.lost, device.table, device.maps = True, PageTable(()), False


def test_reach_of_a_page_is_either_left_or_missing() -> None:
    device = Device()
    ways = reach(device)
    assert (ways.missing(), ways.present()) == ("", True)
    assert ways.left() != ""
    lose(device)
    assert (ways.left(), ways.present()) == ("", False)
    with pytest.raises(Refused):
        ways.missing()


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("table", PRESENT, "the page table has pages of the touched mapping"),
        ("lost", False, "loads from the touched mapping are [16, 17]"),
        ("fault", Sigsegv, "loads from the touched mapping are [Sigsegv("),
        ("code", "objerr", "loads from the touched mapping are [Sigbus(code='objerr'"),
        ("stores", True, "a store to the touched mapping is None"),
        ("maps", True, "the DMABUF can be mapped"),
    ],
)
def test_what_is_left_is_named(what: str, value: object, said: str) -> None:
    device = Device()
    ways = reach(device)
    lose(device)
    setattr(device, what, value)
    assert ways.left().startswith(said)


def test_a_device_fd_mapping_that_is_left_is_named() -> None:
    device, other = Device(), Device()
    view = View.of(mapping(other), PAGE)
    ways = replace(reach(device), views={"BAR 2 at 0x1000": view})
    lose(device)
    assert ways.left() == "the device-fd mapping of BAR 2 at 0x1000 gives data"
    lose(other)
    assert ways.left() == ""


def test_require_gone_raises_with_what_is_left() -> None:
    device = Device()
    ways = reach(device)
    with pytest.raises(AssertionError, match="to be refused, but the page table has pages"):
        ways.require_gone()
    lose(device)
    ways.require_gone()


def test_require_back_raises_with_what_is_missing() -> None:
    device = Device()
    ways = reach(device)
    ways.require_back()
    device.words = [0x10, 0x12]
    with pytest.raises(AssertionError, match=r"but the touched mapping shows \[16, 18\] instead"):
        ways.require_back()


def test_require_present_and_zapped_exclude_each_other() -> None:
    device = Device()
    ways = reach(device)
    ways.require_present()
    with pytest.raises(AssertionError, match=r"to lose pages of .*, but it has all 0x2000 bytes"):
        ways.require_zapped()
    device.table = PageTable((PageSpan(0, PAGE, "pte", frozenset({"USR", "RW", "PCD"})),))
    ways.require_zapped()
    with pytest.raises(AssertionError, match=r"to keep every page .* but it has 0x1000 of 0x2000 bytes"):
        ways.require_present()


def test_what_shows_something_else_is_missing() -> None:
    device = Device()
    ways = reach(device)
    device.words = [0x10, 0xFFFFFFFF]
    assert ways.missing() == "the touched mapping shows [16, 4294967295] instead of [16, 17]"
    seen = look(ways.views)
    assert seen == {"BAR 0 at 0x0": "data", "BAR 2 at 0x1000": "4294967295 instead of 17"}


def test_sigbus_elsewhere_is_not_sigbus() -> None:
    view = View(mapping(Device()), PAGE, 0x11)
    assert view.judge(Sigbus(BUS_ADRERR, PAGE)) == "SIGBUS"
    assert view.judge(Sigbus(BUS_ADRERR, 0)).endswith("instead of 17")
    assert view.judge(Sigbus("objerr", PAGE)).endswith("instead of 17")
