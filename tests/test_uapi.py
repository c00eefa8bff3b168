"""Names and numbers in the text of C headers, hostile ones included."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.kernel.uapi import Definitions, code_of, identifiers

HEADER = r"""
/* #define IN_A_COMMENT 1 */
// #define IN_A_LINE 2
#define TYPE (';')
#define BASE 100
#define PLAIN 13
#define HEX 0x1fU
#define OCTAL 017
#define WITH_COMMENT 14 /* of two
lines */
#  define	SPACED	( 15 )
#define CONTINUED \
	16
#define SHIFTED (1UL << 28)
#define MASK (0xfU << SHIFT)
#define SHIFT 28
#define CALL _IO(TYPE, BASE + 22)
#define SUM ((3 * 4) - 2 | 0x40)
#define BITS _BITUL(5)
#define ALIAS PLAIN
#define MACRO(x) 17
#define TEXT "#define IN_A_STRING 3"
#define SIZED _IOWR(TYPE, 1, struct argument)
#if 0
#define LEFT_OUT 18
#else
#define TAKEN 19
#endif
#define UNDONE 20
#undef UNDONE
enum kind {
	FIRST,
	SECOND = 7, /* and */ THIRD,
	FOURTH = _IO(TYPE, 1),
	FIFTH,
};
"""
NUMBERS = {
    "PLAIN": 13,
    "HEX": 31,
    "OCTAL": 15,
    "WITH_COMMENT": 14,
    "SPACED": 15,
    "CONTINUED": 16,
    "SHIFTED": 1 << 28,
    "MASK": 0xF << 28,
    "CALL": 0x3B7A,
    "SUM": 74,
    "BITS": 32,
    "ALIAS": 13,
    "TAKEN": 19,
    "FIRST": 0,
    "SECOND": 7,
    "THIRD": 8,
    "FOURTH": 0x3B01,
    "FIFTH": 0x3B02,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_number_of_a_definition_is_its_value(name: str) -> None:
    assert Definitions(HEADER).number(name) == NUMBERS[name]


@pytest.mark.parametrize(
    "name", ["IN_A_COMMENT", "IN_A_LINE", "IN_A_STRING", "MACRO", "LEFT_OUT", "UNDONE", "kind"]
)
def test_text_that_defines_nothing_has_no_name(name: str) -> None:
    assert name not in Definitions(HEADER).names


def test_numbers_are_those_of_the_compiler(tmp_path: Path) -> None:
    lines = [f'printf("%llu\\n", (unsigned long long)({name}));' for name in NUMBERS]
    source = tmp_path / "numbers.c"
    source.write_text(
        "#include <stdio.h>\n#include <linux/ioctl.h>\n#define _BITUL(n) (1UL << (n))\n"
        f"{HEADER}\nint main(void) {{ {''.join(lines)} }}\n"
    )
    subprocess.run(["gcc", "-o", str(tmp_path / "numbers"), str(source)], check=True)
    printed = subprocess.run([str(tmp_path / "numbers")], check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in printed.split()] == list(NUMBERS.values())


@pytest.mark.parametrize(
    "body",
    [
        "",
        "A",
        "B + 1",
        "1 << 64",
        "1 << (1 << 30)",
        "-1",
        "9" * 300,
        "(" * 200,
        "1 +",
        "sizeof(int)",
        "(__u32)1",
        "__import__('os').getpid()",
        "[].append",
        "1 if 2 else 3",
        "lambda: 1",
        "1 ** 9",
        "''",
        "\\x00",
    ],
)
def test_number_of_no_number_is_none(body: str) -> None:
    assert Definitions(f"#define A {body}\n#define B A\n").number("A") is None


def test_number_of_many_doubled_definitions_is_found() -> None:
    """Each definition names the next one a hundred times: without a memory that is never computed."""
    chain = [f"#define N{n} {'|'.join([f'N{n + 1}'] * 50)}\n" for n in range(12)]
    assert Definitions("".join([*chain, "#define N12 5\n"])).number("N0") == 5
    circle = f"#define A {'|'.join('B' * 50)}\n#define B {'|'.join('A' * 50)}\n"
    assert Definitions(circle).number("A") is None


@pytest.mark.parametrize(
    "text",
    ["/*" * 200_000, '"' * 400_001, "enum " * 100_000, "enum {" * 100_000, "enum { " + "A," * 200_000 + "}",
     "#define A \\\n" * 100_000, "#if 0\n" * 100_000, "(" * 400_000],
    ids=lambda text: text[:6].strip(),
)  # fmt: skip
def test_definitions_of_hostile_text_are_read(text: str) -> None:
    assert "A" not in Definitions(text).macros or Definitions(text).number("A") is None


def test_code_has_no_comments_and_no_strings() -> None:
    text = 'a /* revoke */ b // revoke\nc "revoke // \\" revoke" d \';\' /* open'
    assert code_of(text).split() == ["a", "b", "c", '""', "d", "';'"]
    assert identifiers(text) == {"a", "b", "c", "d"}
