"""Values in words: what a scenario expected and saw, as a person reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import pytest

from harness.actor import importer
from harness.actor.footprint import Footprint
from harness.actor.hammer import Counts
from harness.actor.handles import Buffer, Range
from harness.actor.processes import Segment
from harness.actor.reply import Sigbus, Sigsegv, Vma, Watched
from harness.actor.words import LONGEST, comparison, words
from harness.lib.page_table import PageTable

GONE = [Sigbus("adrerr", page * 0x1000) for page in range(4)]
TABLE = "0x0-0x2000:pte:USR,RW,PCD,NX 0x200000-0x400000:pmd:USR,RW,PCD,PSE,NX"


@dataclass(frozen=True)
class DeviceAnswer:
    length: int
    errno: str = "EINVAL"
    ranges: Sequence[int] = field(default_factory=tuple)
    secret: str = field(default="", repr=False)


class Bare:
    pass


class Color(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "success"),
        (True, "yes"),
        (7, "7"),
        (0x10000ED, "0x10000ed"),
        (-22, "-0x16"),
        ("", "nothing"),
        ("EBADFD", "EBADFD"),
        (b"\xa5\xa5", "a5a5"),
        (b"", "no bytes"),
        (Sigbus("adrerr", 0x1000), "SIGBUS at 0x1000"),
        (Sigbus("mceerr_ar", 0), "SIGBUS (mceerr_ar) at 0x0"),
        (Sigsegv("maperr", None), "SIGSEGV"),
        (Sigsegv("accerr", 8), "SIGSEGV (accerr) at 0x8"),
        ([], "nothing"),
        (["EBADFD", "success"], "EBADFD, success"),
        ([[0, 1], [4, 5]], "[0, 1], [4, 5]"),
        ({"EINVAL", "EBUSY"}, "EBUSY, EINVAL"),
        ({"read": "EINVAL", "write": None}, "read: EINVAL, write: success"),
        ({"a": 1}.values(), "1"),
        (Color.RED, "red"),
        (Bare, "Bare"),
        (Bare(), "an object of type Bare"),
        (Range(0x1000, 0x2000), "0x2000 bytes at 0x1000"),
        (DeviceAnswer(1), "device answer (length 1)"),
        (DeviceAnswer(0, "ENODEV", (1,), "x"), "device answer (length 0, errno ENODEV, ranges 1)"),
        (Footprint(6, 1, 0), "6 descriptors, 1 DMABUF and 0 records in the kernel log"),
        (Segment(0x3000, 0), "0x3000 bytes of memory with 0x0 in the file"),
        (importer.Entry.parse("0xf8000000:0x1000"), "0x1000 bytes at 0xf8000000"),
        (
            importer.Event.parse("6,8805747629,remapped,19,59,actor,0,r,?"),
            "remapped with errno 19",
        ),
        (
            Watched.parse("loads=812 sigbus=40 sigsegv=0 values=0x010000ed,more"),
            "812 loads of 0x10000ed, and more, 40 SIGBUS, 0 SIGSEGV",
        ),
        (
            Counts.parse("cpu=1,stored=77,loaded=0,sigbus=3,sigsegv=0,other=0"),
            "77 stores and 0 loads that landed, "
            "3 SIGBUS at the address, 0 SIGSEGV and 0 other SIGBUS on CPU 1",
        ),
        (
            Vma.parse("0x0-0x4000,rw-s,0x2000,/dmabuf:,pf+io"),
            "a VMA of /dmabuf: rw-s from 0x0 to 0x4000 at file offset 0x2000 with the flags io pf",
        ),
        (
            PageTable.parse(TABLE),
            "0x0 to 0x2000 by pte (NX PCD RW USR); 0x200000 to 0x400000 by pmd (NX PCD PSE RW USR)",
        ),
        (PageTable(()), "no entry"),
    ],
)
def test_value_is_said_in_words(value: object, said: str) -> None:
    assert words(value) == said


def test_handle_is_said_by_its_name() -> None:
    assert words(Buffer(None, "buf2", 0x1000, None)) == "buf2"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        (GONE, "SIGBUS at its address in all 4 pages"),
        ([0] * 8, "0 in all 8 pages"),
        (list(range(0x40, 0x50)), "0x40 to 0x4f in all 16 pages"),
        ([*GONE[:2], 7, 7, 9], "SIGBUS at its address in pages 0 to 1; 7 in pages 2 to 3; 9 in page 4"),
        ([0, 5, 0, 5, 0, 5, 6], "0 in page 0; 5 in page 1; 0 in page 2; 5 in page 3; and 3 pages more"),
        (["EINVAL"] * 5, "EINVAL in all 5 entries"),
    ],
)
def test_pages_are_said_in_runs(pages: list[object], said: str) -> None:
    assert words(pages) == said


@pytest.mark.parametrize(
    ("operator", "left", "right", "expected", "seen"),
    [
        ("==", "success", "EINVAL", "EINVAL", "success"),
        ("==", 512, 1, "1", "512"),
        ("==", 0x10000ED, 0x20, "0x20", "0x10000ed"),
        ("!=", "success", "success", "anything but success", "success"),
        ("in", "EBUSY", ("EPERM", "EACCES"), "one of EPERM, EACCES", "EBUSY"),
        ("not in", "x", {"x": 1}.keys(), "none of x", "x"),
        ("<", 600, 512, "less than 512", "600"),
        (">", 0, 0, "more than 0", "0"),
        ("<=", {"EIO"}, {"EINVAL", "EPERM"}, "nothing but EINVAL, EPERM", "EIO"),
        ("is", None, "x", "x", "success"),
        ("==", {*"abcdf"}, {*"abcde"}, "with e and without f", "with f and without e"),
        ("==", {*"abcd"}, {*"abcde"}, "with e", "without e"),
        (
            "==",
            [0x10, 0x11, *GONE[2:]],
            GONE,
            *("SIGBUS at its address in pages 0 to 1", "0x10 to 0x11 in pages 0 to 1"),
        ),
        ("==", [1], [1, 2], "2 pages: 1, 2", "1 page: 1"),
        ("==", ["x"], [], "0 pages: nothing", "1 in number: x"),
        ("==", {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}, "b: 3, c: 4", "b: 2, c: nothing"),
        ("==", list(range(9)), [0] * 9, "0 in pages 1 to 8", "0x1 to 0x8 in pages 1 to 8"),
    ],
)
def test_comparison_says_what_differs(
    operator: str, left: object, right: object, expected: str, seen: str
) -> None:
    assert comparison(operator, left, right) == (expected, seen)


def test_values_are_one_short_printable_line() -> None:
    hostile = {"name": "a\n\x1b[31mred\x00" + "x" * 1000}
    for said in (words(hostile), *comparison("in", hostile, [hostile])):
        assert said.isprintable()
        assert len(said) <= LONGEST
    assert words(hostile).startswith(r"name: a \x1b[31mred\x00xx")


@pytest.mark.parametrize("value", [Bare(), [Bare()], {Bare(): Bare()}, {Bare()}, DeviceAnswer(Bare())])  # type: ignore[arg-type]
def test_no_value_has_an_address(value: object) -> None:
    assert not re.search(r"0x[0-9a-f]{6,}|object at|<", words(value))
