"""Page tables, as the page table dump of the C actor describes them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.lib.page_table import PageSpan, PageTable
from harness.vm.hardware import PAGE

MIB = 1 << 20


class TestPageTable:
    def test_page_table_without_entries_is_empty(self) -> None:
        table = PageTable.parse("")
        assert table.is_empty()
        assert table.mapped() == 0
        assert table.huge() == ()

    def test_page_table_sums_pages_and_huge_pages(self) -> None:
        table = PageTable.parse("0x0-0x200000:pmd:USR,RW,PCD,PSE,NX 0x200000-0x203000:pte:USR,RW,PCD,NX")
        assert table.spans[1] == PageSpan(
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
