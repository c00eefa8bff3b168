"""A scenario's access to the memory behind a RAM BAR, with a record of each step."""

from __future__ import annotations

from pathlib import Path

from harness.vm.ram_bar import RamBar
from harness.vm.recorder import Recorder
from harness.vm.word_runs import told_bytes, told_words


class RecordedRam(RamBar):
    """The memory behind the RAM BAR of the device ``role``; every access is recorded as ``host ...``."""

    def __init__(self, path: Path, role: str, recorder: Recorder) -> None:
        super().__init__(path)
        self._role = role
        self._recorder = recorder

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``."""
        self._step("read", offset, length)
        content = super().read(offset, length)
        self._recorder.reply(f"ok {told_bytes(content)}".rstrip())
        return content

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``."""
        self._recorder.step(f"host write {self._role} {offset:#x} {data.hex()}")
        super().write(offset, data)

    def word(self, offset: int) -> int:
        """Return the 32-bit word at ``offset``, little-endian."""
        self._step("word", offset)
        word = super().word(offset)
        self._recorder.reply(f"ok {word:#010x}")
        return word

    def words(self, offset: int = 0, length: int | None = None, stride: int = 4) -> list[int]:
        """Return the 32-bit words of a part of the BAR, one every ``stride`` bytes (a multiple of 4)."""
        self._step("words", offset, self.size - offset if length is None else length, stride)
        words = super().words(offset, length, stride)
        self._recorder.reply(f"ok {told_words(words)}".rstrip())
        return words

    def stamp(self, seed: int = 0, length: int | None = None) -> None:
        """Write page number + ``seed`` in the first word of every page of the first ``length`` bytes."""
        self._step("stamp", seed, *([] if length is None else [length]))
        super().stamp(seed, length)

    def fill(self, byte: int, offset: int = 0, length: int | None = None) -> None:
        """Set every byte of a part to ``byte``."""
        self._step("fill", byte, offset, self.size - offset if length is None else length)
        super().fill(byte, offset, length)

    def _step(self, what: str, *numbers: int) -> None:
        self._recorder.step(" ".join([f"host {what} {self._role}", *(f"{one:#x}" for one in numbers)]))
