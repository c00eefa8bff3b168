"""The memory behind a RAM BAR, as the host sees it."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest

from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar


@pytest.fixture
def bar(tmp_path: Path) -> RamBar:
    path = tmp_path / "bar"
    path.write_bytes(bytes(4 * PAGE))
    return RamBar(path)


def grown(name: str) -> Path:
    Path(name).write_bytes(b"x" * 4 * PAGE)
    return Path(name)


class TestRamBar:
    def test_ram_bar_shares_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "bar"
        path.write_bytes(bytes(4 * PAGE))
        with RamBar(path) as bar, path.open("r+b") as other:
            assert bar.size == 4 * PAGE
            other.seek(PAGE + 4)
            other.write(b"\x78\x56\x34\x12")
            other.flush()
            assert bar.word(PAGE + 4) == 0x12345678
            bar.write(8, b"abc")
            assert path.read_bytes()[8:11] == b"abc"

    def test_stamp_writes_a_number_into_each_page(self, bar: RamBar) -> None:
        bar.stamp(0xFFFFFFFE)
        assert bar.pages() == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1]
        assert bar.pages(PAGE, 2 * PAGE) == [0xFFFFFFFF, 0]
        assert bar.read(4, 4) == bytes(4)

    def test_stamp_with_a_length_leaves_later_pages_alone(self, bar: RamBar) -> None:
        bar.stamp(5, 2 * PAGE)
        assert bar.pages() == [5, 6, 0, 0]
        with pytest.raises(ValueError, match="not inside a BAR"):
            bar.stamp(5, 5 * PAGE)

    def test_fill_writes_every_byte_of_a_range(self, bar: RamBar) -> None:
        bar.fill(0xA5, PAGE, 4)
        assert bar.word(PAGE) == 0xA5A5A5A5
        assert bar.word(PAGE + 4) == 0
        bar.fill(1)
        assert bar.read(0, bar.size) == b"\x01" * bar.size

    def test_clear_sets_all_bytes_of_the_file_to_0(self, tmp_path: Path) -> None:
        for folder in (tmp_path, Path("/dev/shm")):
            with tempfile.NamedTemporaryFile(dir=folder) as file, RamBar(grown(file.name)) as bar:
                bar.fill(0xA5)
                bar.clear()
                assert bar.read(0, bar.size) == bytes(bar.size) == Path(file.name).read_bytes()

    @pytest.mark.parametrize(("offset", "length"), [(-1, 4), (0, -1), (4 * PAGE - 3, 4), (5 * PAGE, 0)])
    def test_read_outside_the_bar_is_refused(self, bar: RamBar, offset: int, length: int) -> None:
        with pytest.raises(ValueError, match="not inside"):
            bar.read(offset, length)

    def test_write_past_the_end_is_refused(self, bar: RamBar) -> None:
        with pytest.raises(ValueError, match="not inside"):
            bar.write(4 * PAGE - 2, struct.pack("<I", 1))
