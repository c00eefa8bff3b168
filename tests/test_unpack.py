"""Compressed mbox files, whole, damaged and hostile."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
from collections.abc import Callable

import pytest

from harness.series.unpack import UnpackError, unpack

TEXT = b"From a Mon Sep 17 00:00:00 2001\nSubject: x\n\n" + b"text\n" * 1000
LIMIT = 1 << 20
PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, lzma.compress, bz2.compress]


@pytest.mark.parametrize("pack", PACKERS)
def test_unpack_returns_the_content(pack: Callable[[bytes], bytes]) -> None:
    assert unpack(pack(TEXT), LIMIT) == TEXT
    assert unpack(pack(TEXT) + pack(b"second\n"), LIMIT) == TEXT + b"second\n"
    assert unpack(pack(TEXT) + b"\0" * 512, LIMIT) == TEXT
    assert unpack(pack(b""), LIMIT) == b""
    big = os.urandom(3 << 20)
    assert unpack(pack(big), 3 << 20) == big


@pytest.mark.parametrize("plain", [TEXT, b"", b"From", b"BZ", b"\x1f", b"Subject: BZh\n"])
def test_unpack_leaves_other_content(plain: bytes) -> None:
    assert unpack(plain, LIMIT) is plain


@pytest.mark.parametrize("pack", PACKERS)
def test_unpack_of_a_bomb_ends_at_the_limit(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(LIMIT + 1))
    with pytest.raises(UnpackError, match="more than 1 MiB of mails, which is the limit"):
        unpack(bomb, LIMIT)
    with pytest.raises(UnpackError, match="more than 1 MiB"):
        unpack(pack(bytes(LIMIT)) + pack(b"x"), LIMIT)
    assert len(unpack(pack(bytes(LIMIT)), LIMIT)) == LIMIT


@pytest.mark.parametrize("pack", PACKERS)
def test_unpack_of_a_damaged_file_is_refused(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(os.urandom(4000))
    with pytest.raises(UnpackError, match="breaks off"):
        unpack(packed[:-20], LIMIT)
    damaged = packed[:2000] + bytes(byte ^ 255 for byte in packed[2000:2100]) + packed[2100:]
    with pytest.raises(UnpackError, match=r"damaged|breaks off"):
        unpack(damaged, LIMIT)


def test_unpack_of_a_zstd_file_says_what_to_do() -> None:
    # An empty frame with the checksum of nothing.
    frame = bytes.fromhex("28b52ffd 2400 010000 99e9d851")
    if sys.version_info >= (3, 14):
        assert unpack(frame, LIMIT) == b""
    else:
        with pytest.raises(UnpackError, match="zstd file, which this Python cannot decompress"):
            unpack(frame, LIMIT)
