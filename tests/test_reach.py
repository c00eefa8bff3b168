"""Reach: what it says of mappings that are in reach, lost, or neither, and what it raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from harness.actor.handles import Buffer, Mapping
from harness.actor.mismatch import Mismatch
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
    ways.require_back()
    ways.require_present()
    assert sentence_of(ways.require_gone) == "The page table still had all 2 pages of the mapping."
    lose(device)
    ways.require_gone()
    ways.require_zapped()
    with pytest.raises(Refused):
        ways.require_back()


def sentence_of(attempt: Callable[[], object]) -> str:
    with pytest.raises(Mismatch) as raised:
        attempt()
    return str(raised.value)


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("table", PRESENT, "The page table still had all 2 pages of the mapping."),
        (
            "lost",
            False,
            "Expected SIGBUS at its address in all 2 pages, but saw 0x10, 0x11.",
        ),
        ("fault", Sigsegv, "SIGBUS at its address in all 2 pages, but saw SIGSEGV at its address"),
        ("code", "objerr", "SIGBUS at its address in all 2 pages, but saw SIGBUS (objerr) at its address"),
        ("stores", True, "Expected SIGBUS at 0x8, but saw success."),
        ("maps", True, "The operation was not refused."),
    ],
)
def test_what_is_left_is_named(what: str, value: object, said: str) -> None:
    device = Device()
    ways = reach(device)
    lose(device)
    setattr(device, what, value)
    assert said in sentence_of(ways.require_gone)


def test_a_device_fd_mapping_that_is_left_is_named() -> None:
    device, other = Device(), Device()
    view = View.of(mapping(other), PAGE)
    ways = replace(reach(device), views={"BAR 2 at 0x1000": view})
    lose(device)
    said = "The device-fd mapping of BAR 2 at 0x1000 could still be read."
    assert sentence_of(ways.require_gone) == said
    lose(other)
    ways.require_gone()


def test_require_present_and_zapped_exclude_each_other() -> None:
    device = Device()
    ways = reach(device)
    ways.require_present()
    said = "The page table still had all 2 pages of the touched mapping."
    assert sentence_of(ways.require_zapped) == said
    device.table = PageTable((PageSpan(0, PAGE, "pte", frozenset({"USR", "RW", "PCD"})),))
    ways.require_zapped()
    said = "The page table did not keep every page of the touched mapping."
    assert sentence_of(ways.require_present) == said


def test_what_shows_something_else_is_missing() -> None:
    device = Device()
    ways = reach(device)
    device.words = [0x10, 0xFFFFFFFF]
    assert sentence_of(ways.require_back) == "Expected 0x10, 0x11, but saw 0x10, 0xffffffff."
    seen = look(ways.views)
    assert seen == {"BAR 0 at 0x0": "data", "BAR 2 at 0x1000": "0xffffffff instead of 0x11"}


def test_sigbus_elsewhere_is_not_sigbus() -> None:
    view = View(mapping(Device()), PAGE, 0x11)
    assert view.judge(Sigbus(BUS_ADRERR, PAGE)) == "SIGBUS"
    assert view.judge(Sigbus(BUS_ADRERR, 0)).endswith("instead of 0x11")
    assert view.judge(Sigbus("objerr", PAGE)).endswith("instead of 0x11")
