"""Hostile inputs: recorded ones that hypothesis has cut, doubled, spliced and strewn with tokens.

The ordinary tests try some dozens of each, always the same.  ``PATCHPROOF_FUZZ=20000`` tries that many, and
``PATCHPROOF_FUZZ_SEED`` chooses others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
from hypothesis import strategies

T = TypeVar("T")
DATA = Path(__file__).parent / "data"
LONGEST = 1 << 16  # bytes of an input
#: What is hostile to any reader: escapes, NULs, what is no UTF-8, overlong numbers and lines, deep nesting.
TOKENS = (
    b"",
    b"\x00",
    b"\x1b[2J",
    b"\x1b[",
    b"\x1b]0;x\x07",
    b"\xff\xfe",
    b"\xc2\x9b31m",
    b"\xe2\x80\xae",
    b"\xed\xb2\x80",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\x0b",
    b"\x0c",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\t",
    b" " * 300,
    b"9" * 5000,
    b"-1",
    b"0x" + b"f" * 40,
    b"a" * 3000,
    b"(" * 2000,
    b"[" * 2000,
    b"{" * 2000,
    b'"',
    b"'",
    b"\\",
    b"%s%n",
    b"$(",
    b"../",
    b"conforms",
    b"verdict: conforms",
    b"ok",
    b"> ",
    b"! ",
    b"= ",
    b"# ",
)

_TIMES = strategies.sampled_from((1, 1, 1, 2, 3, 20, 400))
_PLACE = strategies.integers(0, LONGEST)


def examples(ordinary: int) -> Callable[[Any], Any]:
    """Return the settings of a test that tries ``ordinary`` inputs, or as many as the environment says."""
    made = hypothesis.settings(
        max_examples=int(os.environ.get("PATCHPROOF_FUZZ", ordinary)),
        derandomize="PATCHPROOF_FUZZ_SEED" not in os.environ,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    if seed := os.environ.get("PATCHPROOF_FUZZ_SEED"):
        return lambda test: hypothesis.seed(int(seed))(made(test))
    return made


def attempt(read: Callable[[], T], *documented: type[Exception]) -> tuple[T | None, str]:
    """Return what ``read`` returns, or else the text of the ``documented`` error that it raises."""
    try:
        return read(), ""
    except documented as error:
        return None, str(error) or type(error).__name__


def corpus(pattern: str) -> list[bytes]:
    """Return the recorded files below tests/data whose names match ``pattern``, the start of each."""
    found = [path.read_bytes()[:LONGEST] for path in sorted(DATA.glob(pattern)) if path.is_file()]
    assert found, pattern
    return found


@strategies.composite
def hostile(
    draw: strategies.DrawFn, recorded: Sequence[bytes], tokens: Sequence[bytes] = (), changes: int = 8
) -> bytes:
    """Draw one of the ``recorded`` inputs with up to ``changes`` changes; ``tokens`` are of its language."""
    content = draw(strategies.sampled_from(recorded))
    token = strategies.sampled_from((*TOKENS, *tokens, *tokens))
    for _ in range(draw(strategies.integers(0, changes))):
        first, second = sorted((draw(_PLACE) % (len(content) + 1), draw(_PLACE) % (len(content) + 1)))
        match draw(strategies.integers(0, 6)):
            case 0:
                content = content[:first] + content[second:]
            case 1:
                content = content[:first] + content[first:second] * draw(_TIMES) + content[second:]
            case 2 | 3:
                content = content[:first] + draw(token) * draw(_TIMES) + content[first:]
            case 4:
                content = content[:first] + draw(strategies.sampled_from(recorded))[second:]
            case 5:
                content = content[:first] + draw(strategies.binary(max_size=20)) + content[first:]
            case 6:
                line = content.rfind(b"\n", 0, first) + 1
                content = content[:line] + draw(token) * draw(_TIMES) + b"\n" + content[line:]
        content = content[:LONGEST]
    return content
