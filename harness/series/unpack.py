"""Decompress an mbox file, up to a limit; the first bytes, not its name, tell how it is compressed."""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

_GZIP, _XZ, _BZIP2, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"
_BLOCK = 1 << 20  # bytes that are decompressed at once
_FED = 1 << 14  # bytes that are given to a decompressor at once
#: Compressed files one after the other in one file.  Some programs make one of each 64 KiB.
MAX_MEMBERS = 10_000


class UnpackError(Exception):
    """The reason why a compressed file cannot be read; a part of a sentence about the file."""


class _Decompressor(Protocol):
    """The part that the decompressors of bz2, lzma and compression.zstd have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Gzip:
    """A member of a gzip file, as the other decompressors: zlib wants its rest to be given again."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def unpack(content: bytes, limit: int) -> bytes:
    """Return ``content`` decompressed if it is a gzip, xz, bzip2 or zstd file, else unchanged.

    Raises UnpackError for a file that is damaged, that is larger than ``limit`` bytes
    when decompressed, or that this Python cannot decompress.
    """
    kinds: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
        _GZIP: ("gzip", _Gzip),
        _XZ: ("xz", lambda: lzma.LZMADecompressor(memlimit=256 << 20)),
        _BZIP2: ("bzip2", bz2.BZ2Decompressor),
        _ZSTD: ("zstd", _zstd),
    }
    for magic, (name, make) in kinds.items():
        if content.startswith(magic):
            return _unpack(content, limit, name, make)
    return content


def _unpack(content: bytes, limit: int, name: str, make: Callable[[], _Decompressor]) -> bytes:
    """Decompress the members of a file one after the other; what follows the last one is ignored."""
    parts: list[bytes] = []
    left, place, members = limit, 0, 0
    magic = content[:2]
    while content.startswith(magic, place):
        members += 1
        if members > MAX_MEMBERS:
            raise UnpackError(f"it is a {name} file of more than {MAX_MEMBERS} parts, which is the limit")
        member = make()
        while not member.eof:
            given = content[place : place + _FED] if member.needs_input else b""
            place += len(given)
            if member.needs_input and not given:
                raise UnpackError(f"it is a {name} file that breaks off")
            try:
                part = member.decompress(given, _BLOCK)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise UnpackError(f"it is a damaged {name} file ({error})") from None
            left -= len(part)
            if left < 0:
                raise UnpackError(
                    f"it is a {name} file with more than {limit >> 20} MiB of mails, which is the limit"
                )
            parts.append(part)
        place -= len(member.unused_data)
    return b"".join(parts)


def _zstd() -> _Decompressor:
    """Return a decompressor of the standard library, which has one since Python 3.14."""
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError:
        raise UnpackError(
            "it is a zstd file, which this Python cannot decompress (3.14 can). Run `zstd -d` on it"
        ) from None
    made: _Decompressor = module.ZstdDecompressor()
    return made
