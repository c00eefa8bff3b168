"""The host's access to the memory behind a RAM BAR."""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from pathlib import Path
from types import TracebackType

from harness.vm.hardware import PAGE


class RamBar:
    """The memory behind a RAM BAR, mapped in the host, independent of the guest's kernel.

    ``path`` is the file behind the BAR.  Offsets and lengths are bytes of the BAR.
    An offset beyond its end raises ValueError, as a slice of Python would be cut short.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.size = os.fstat(descriptor).st_size
            self._memory = mmap.mmap(descriptor, self.size)
        finally:
            os.close(descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``."""
        return self._get(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``."""
        self._put(offset, data)

    def word(self, offset: int) -> int:
        """Return the 32-bit word at ``offset``, little-endian."""
        return int(struct.unpack("<I", self._get(offset, 4))[0])

    def words(self, offset: int = 0, length: int | None = None, stride: int = 4) -> list[int]:
        """Return the 32-bit words of a part of the BAR, one every ``stride`` bytes (a multiple of 4)."""
        size = self.size - offset if length is None else length
        return memoryview(self._get(offset, size)).cast("I")[:: stride // 4].tolist()

    def pages(self, offset: int = 0, length: int | None = None) -> list[int]:
        """Return the first 32-bit word of every page of a part, as ``Mapping.pages()`` does."""
        return self.words(offset, length, PAGE)

    def stamp(self, seed: int = 0, length: int | None = None) -> None:
        """Write page number + ``seed`` in the first 32-bit word of every page of the first ``length`` bytes.

        Without a length these are all bytes.  The host allocates each page that it stamps.
        """
        end = self.size if length is None else length
        self._check(0, end)
        numbers = array("I", ((page + seed) & 0xFFFFFFFF for page in range(end // PAGE)))
        with memoryview(self._memory) as memory, memory.cast("I") as words:
            words[: end // 4 : PAGE // 4] = memoryview(numbers)

    def fill(self, byte: int, offset: int = 0, length: int | None = None) -> None:
        """Set every byte of a part to ``byte``."""
        size = self.size - offset if length is None else length
        self._put(offset, bytes([byte]) * size)

    def clear(self) -> None:
        """Set every byte to 0, and give the memory back to the host."""
        try:
            self._memory.madvise(mmap.MADV_REMOVE)
        except OSError:  # a file system without holes
            self.fill(0)

    def close(self) -> None:
        """Unmap the memory; the file stays."""
        self._memory.close()

    def __enter__(self) -> RamBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return self._memory[offset : offset + length]

    def _put(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        self._memory[offset : offset + len(data)] = data

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length:#x} bytes at {offset:#x} are not inside a BAR of {self.size:#x} bytes")
