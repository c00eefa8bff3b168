"""Page tables, the memory behind a RAM BAR, and the state of the kernel."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.witness import PAGE, KernelHealth, PageTable, RamBar, Slabs, Span

MIB = 1 << 20


class TestPageTable:
    def test_page_table_without_entries_is_empty(self) -> None:
        table = PageTable.parse("")
        assert table.is_empty()
        assert table.mapped() == 0
        assert table.huge() == ()

    def test_page_table_sums_pages_and_huge_pages(self) -> None:
        table = PageTable.parse("0x0-0x200000:pmd:USR,RW,PCD,PSE,NX 0x200000-0x203000:pte:USR,RW,PCD,NX")
        assert table.spans[1] == Span(
            2 * MIB, 2 * MIB + 3 * PAGE, "pte", frozenset({"USR", "RW", "PCD", "NX"})
        )
        assert not table.is_empty()
        assert [span.level for span in table.huge()] == ["pmd"]
        assert table.mapped() == 2 * MIB + 3 * PAGE
        assert table.mapped("pte") == 3 * PAGE
        assert table.mapped("pud") == 0
        assert table.caching() == {"uncached-minus"}

    def test_page_table_joins_adjacent_spans(self) -> None:
        """The dump splits a run of pages where the accessed bit differs, and does not print that bit."""
        table = PageTable.parse(
            "0x0-0x1000:pte:RW 0x1000-0x3000:pte:RW 0x4000-0x5000:pte:RW 0x200000-0x600000:pmd:RW,PSE"
        )
        assert table.where("pte") == ((0, 3 * PAGE), (4 * PAGE, 5 * PAGE))
        assert table.where("pmd") == ((2 * MIB, 6 * MIB),)
        assert table.where("pud") == ()

    @pytest.mark.parametrize(
        ("flags", "caching"),
        [
            ("RW,NX", "write-back"),
            ("RW,PWT,NX", "write-combining"),
            ("ro,PCD,x", "uncached-minus"),
            ("RW,PWT,PCD,NX", "uncached"),
        ],
    )
    def test_page_table_flags_give_the_caching(self, flags: str, caching: str) -> None:
        assert PageTable.parse(f"0x0-0x1000:pte:{flags}").caching() == {caching}

    @given(st.text())
    def test_page_table_of_other_text_is_an_error(self, words: str) -> None:
        with contextlib.suppress(ValueError):
            PageTable.parse(words)


@pytest.fixture
def bar(tmp_path: Path) -> RamBar:
    path = tmp_path / "bar"
    path.write_bytes(bytes(4 * PAGE))
    return RamBar(path)


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

    def test_fill_writes_every_byte_of_a_range(self, bar: RamBar) -> None:
        bar.fill(0xA5, PAGE, 4)
        assert bar.word(PAGE) == 0xA5A5A5A5
        assert bar.word(PAGE + 4) == 0
        bar.fill(1)
        assert bar.read(0, bar.size) == b"\x01" * bar.size

    @pytest.mark.parametrize(("offset", "length"), [(-1, 4), (0, -1), (4 * PAGE - 3, 4), (5 * PAGE, 0)])
    def test_read_outside_the_bar_is_refused(self, bar: RamBar, offset: int, length: int) -> None:
        with pytest.raises(ValueError, match="not inside"):
            bar.read(offset, length)

    def test_write_past_the_end_is_refused(self, bar: RamBar) -> None:
        with pytest.raises(ValueError, match="not inside"):
            bar.write(4 * PAGE - 2, struct.pack("<I", 1))


class TestKernelHealth:
    def test_health_is_parsed(self) -> None:
        assert KernelHealth.parse("0\n-\n-\n-\n0\n") == KernelHealth(0, None, None, None, 0)
        assert KernelHealth.parse("512\n1\n2\n0\n3\n") == KernelHealth(512, True, 2, 0, 3)
        assert KernelHealth.parse("0\n0\n0\n1\n0\n") == KernelHealth(0, False, 0, 1, 0)

    @pytest.mark.parametrize(
        "text",
        ["", "0\n-\n-\n-\n", "0\n-\n-\n-\n\n", "x\n-\n-\n-\n0\n", "0\n-\n-\n-\n0", "-1\n-\n-\n-\n0\n"],
    )
    def test_health_of_other_text_is_an_error(self, text: str) -> None:
        with pytest.raises(ValueError, match="no kernel state"):
            KernelHealth.parse(text)

    def test_worse_than_names_each_change(self) -> None:
        before = KernelHealth(1 << 12, True, 1, 0, 1)
        assert before.worse_than(before) == []
        assert KernelHealth(0, True, 1, 0, 0).worse_than(before) == []
        worse = KernelHealth(1 << 12 | 1 << 9 | 1 << 40, False, 3, 1, 3).worse_than(before)
        assert worse == [
            "new taint bit 9 (WARN)",
            "new taint bit 40 (see tainted-kernels.rst)",
            "warn_count has gone up by 2",
            "oops_count has gone up by 1",
            "lockdep has turned itself off",
            "2 DMABUFs are left over",
        ]

    def test_worse_than_sees_a_warning_of_a_tainted_kernel(self) -> None:
        before = KernelHealth(1 << 9, None, 1, 0, 0)
        after = KernelHealth(1 << 9, None, 2, 0, 0)
        assert after.worse_than(before) == ["warn_count has gone up by 1"]

    def test_worse_than_ignores_an_absent_detector(self) -> None:
        off, without = KernelHealth(0, False, 0, 0, 0), KernelHealth(0, None, None, None, 0)
        assert off.worse_than(off) == []
        assert without.worse_than(without) == []


SLABS = """slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
vfio_things          {vfio}    150     64   64    1 : tunables    0    0    0 : slabdata      2      2      0
dentry             {dentry}   8000    192   21    1 : tunables    0    0    0 : slabdata    380    380      0
"""


class TestSlabs:
    def slabs(self, vfio: int, dentry: int) -> Slabs:
        return Slabs.parse(SLABS.format(vfio=vfio, dentry=dentry))

    def test_grown_names_caches_above_the_bound(self) -> None:
        before = self.slabs(100, 7900)
        assert before.grown(self.slabs(2600, 8400), 500) == {"vfio_things": 2500}
        assert before.grown(self.slabs(600, 8400), 500) == {}
        assert before.grown(self.slabs(0, 7901), 0) == {"dentry": 1}

    def test_grown_counts_a_new_cache_from_zero(self) -> None:
        assert Slabs({}).grown(self.slabs(0, 8000), 500) == {"dentry": 8000}

    @pytest.mark.parametrize("text", ["", "slabinfo - version: 3.0\n# name\nx 1\n", "cat: no such file"])
    def test_slabs_of_an_unknown_format_are_refused(self, text: str) -> None:
        with pytest.raises(HarnessError, match="is not known here"):
            Slabs.parse(text)
