"""The functions of a kernel, from /proc/kallsyms."""

from __future__ import annotations

import pytest

from harness.guest.symbols import Symbols
from harness.lib.errors import HarnessError

TEXT = """\
ffffffff81000000 T _stext
ffffffff81000100 t first
ffffffff81000200 t first.cold
ffffffff81000300 T second.isra.0
ffffffff81000400 t twice
ffffffff81000500 t twice
ffffffff81000600 D a_variable
ffffffff81000700 t in_a_module\t[vfio]
"""


def test_functions_have_their_addresses() -> None:
    symbols = Symbols.parse(TEXT)
    assert symbols.address("first") == 0xFFFFFFFF81000100
    assert symbols.address("absent", "second", "first") == 0xFFFFFFFF81000300
    assert symbols.address("in_a_module") == 0xFFFFFFFF81000700
    assert (symbols.has("second"), symbols.has("a_variable")) == (True, False)


def test_address_belongs_to_the_function_before_it() -> None:
    symbols = Symbols.parse(TEXT)
    assert symbols.function_at(0xFFFFFFFF81000100) == "first"
    assert symbols.function_at(0xFFFFFFFF810001FF) == "first"
    assert symbols.function_at(0xFFFFFFFF81000301) == "second.isra.0"
    assert symbols.function_at(0x401000) == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [(("absent", "gone"), "no function absent or gone"), (("twice",), "has 2 functions with the name twice")],
)
def test_absent_or_ambiguous_function_is_an_error(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        Symbols.parse(TEXT).address(*names)


@pytest.mark.parametrize("text", ["", "0000000000000000 T hidden\n", "garbage\n"])
def test_list_without_addresses_is_an_error(text: str) -> None:
    with pytest.raises(HarnessError, match="needs CONFIG_KALLSYMS"):
        Symbols.parse(text)
