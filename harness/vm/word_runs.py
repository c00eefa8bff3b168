"""Lists of 32-bit words and bytes in the transcript's notation, where equal neighbours take one word."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import groupby

MOST = 64  # runs that are written out; what has more is told by its checksum
_WORDS = 1 << 32


def told_words(words: Sequence[int]) -> str:
    """Return 32-bit words as runs: ``0x00000007``, ``0x00000007*3`` if equal, ``0x00000007+3`` if rising.

    More than MOST runs are told as ``crc32=0x...`` of the little-endian bytes.
    """
    runs: list[tuple[int, int, int]] = []  # first word, step, count
    for word in words:
        if runs:
            first, step, count = runs[-1]
            if count == 1 and word in (first, (first + 1) % _WORDS):
                runs[-1] = first, (word - first) % _WORDS, 2
                continue
            if count > 1 and word == (first + step * count) % _WORDS:
                runs[-1] = first, step, count + 1
                continue
            if len(runs) == MOST:
                return _checksum(b"".join(one.to_bytes(4, "little") for one in words))
        runs.append((word, 0, 1))
    return " ".join(f"{first:#010x}" + _repeated(step, count) for first, step, count in runs)


def told_bytes(content: bytes) -> str:
    """Return bytes as hexadecimal digits, or as runs of equal bytes (``5a*4096 00*2``) if that is shorter.

    More than MOST runs are told as ``crc32=0x...``.
    """
    if len(content) <= MOST:
        return content.hex()
    runs: list[str] = []
    for byte, equal in groupby(content):
        if len(runs) == MOST:
            return _checksum(content)
        runs.append(f"{byte:02x}*{len(list(equal))}")
    return " ".join(runs)


def _repeated(step: int, count: int) -> str:
    return "" if count == 1 else f"{'+' if step else '*'}{count}"


def _checksum(content: bytes) -> str:
    return f"crc32={zlib.crc32(content):#010x}"
