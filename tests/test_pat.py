"""The memory types of a BAR, by the kernel's PAT list."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.guest.guest import Guest, PciFunction
from harness.guest.pat import LIST, MemoryType, of_bar, parse
from harness.lib.errors import HarnessError

TEXT = """\
PAT memtype list:
PAT: [mem 0x000000003ffe0000-0x000000003ffe3000] write-back
PAT: [mem 0x00000000fe800000-0x00000000fe801000] uncached-minus
PAT: [mem 0x0000000380001000-0x0000000380002000] write-combining
PAT: [mem 0x0000000380000000-0x0000000384000000] uncached-minus
PAT: [mem 0x0000000384000000-0x0000000384001000] write-through
"""
RESOURCE = (
    "0x00000000fe800000 0x00000000fe8000ff 0x40200\n"
    "0x0000000000000000 0x0000000000000000 0x0\n"
    "0x0000000380000000 0x0000000383ffffff 0x14220c\n"
)


class RecordedGuest(Guest):
    """A guest that has these files."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files

    def read(self, path: str) -> str:
        return self.files[path]


def test_bar_has_the_modes_of_overlapping_ranges() -> None:
    device = PciFunction("ram", "0000:02:00.0", 0x1AF4, 0x1110, "5", "", "", {0: 256, 2: 64 << 20})
    files = {f"/sys/bus/pci/devices/{device.address}/resource": RESOURCE, LIST: TEXT}
    guest = RecordedGuest(files)
    assert of_bar(guest, device, 2) == {"write-combining", "uncached-minus"}
    assert of_bar(guest, device, 0) == {"uncached-minus"}


def test_end_of_a_range_is_exclusive() -> None:
    assert parse(TEXT)[-1] == MemoryType(0x384000000, 0x384001000, "write-through")


@pytest.mark.parametrize("text", ["", "something else\n", "PAT memtype list:\nnonsense\n"])
def test_malformed_list_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="not known here"):
        parse(text)
