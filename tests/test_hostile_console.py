"""A console that floods, lies and imitates: bounded in bytes, in time, and in what it can excuse."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.klog import heads, lines, splat
from harness.vm import console
from harness.vm.console import Console, pipe

STAMP = "[    1.000000] "
FAULT = f"{STAMP}BUG: KASAN: use-after-free in f+0x1/0x2\n"


def splats_of(text: str) -> list[splat.Splat]:
    return splat.extract(lines.clean(text.encode()), up=True)


class TestFlood:
    def flooded(self, folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> tuple[Console, int]:
        monkeypatch.setattr(console, "LIMIT", 10_000)
        reading, writing = pipe()
        calls = []
        watched = Console(reading, folder / "console.log", full=lambda: calls.append(1))
        threading.Thread(target=write_all, args=(writing, data)).start()
        watched.close(timeout=20)
        return watched, len(calls)

    def test_flood_is_cut_off_with_a_note(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        flooded, calls = self.flooded(tmp_path, monkeypatch, b"x\n" * (4 << 20))
        kept = flooded.log.read_bytes()
        assert kept.startswith(b"x\n" * 5000)
        assert b"cut off here" in kept[10_000:]
        assert len(kept) < 11_000
        assert calls == 1

    def test_splat_before_the_cut_is_still_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flooded, _ = self.flooded(tmp_path, monkeypatch, FAULT.encode() + b"x\n" * (1 << 20))
        assert [one.kind for one in flooded.splats()] == ["kasan"]

    def test_flood_after_exactly_the_limit_is_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console, "LIMIT", 10_000)
        reading, writing = pipe()
        full = threading.Event()
        watched = Console(reading, tmp_path / "console.log", full=full.set)
        os.write(writing, b"x\n" * 5000)
        while watched.mark() < 10_000:
            pass
        assert not full.is_set()
        os.write(writing, b"y")
        assert full.wait(20)
        os.close(writing)
        watched.close()
        assert watched.log.read_bytes()[9_998:].startswith(b"x\n\n(The console is cut off here")

    def test_console_of_exactly_the_limit_is_no_flood(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flooded, calls = self.flooded(tmp_path, monkeypatch, b"x\n" * 5000)
        assert flooded.log.read_bytes() == b"x\n" * 5000
        assert calls == 0

    def test_wait_reads_each_line_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[int] = []
        raw = Console._raw

        def recorded(self: Console, mark: int) -> bytes:
            read.append(mark)
            return raw(self, mark)

        monkeypatch.setattr(Console, "_raw", recorded)
        reading, writing = pipe()
        watched = Console(reading, tmp_path / "console.log")
        waiting = threading.Thread(target=watched.wait_for, args=("never", 20))
        waiting.start()
        for number in range(50):
            os.write(writing, b"line %d\n" % number)
            while watched.mark() < sum(len(b"line %d\n" % one) for one in range(number + 1)):
                pass
        os.close(writing)
        watched.close()
        waiting.join()
        assert sorted(read) == read
        assert read[-1] > 0


def write_all(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        left = memoryview(data)
        while left:
            left = left[stream.write(left) :]


class TestSplats:
    @pytest.mark.parametrize(
        "harmless",
        [
            f"{STAMP}DMAR: [DMA Write] Request device [01:00.0]\n",
            "** 12 printk messages dropped **\n",
        ],
    )
    def test_flood_of_other_splats_hides_no_fault(self, harmless: str) -> None:
        found = splats_of(harmless * (2 * splat.MAX_SPLATS) + FAULT)
        assert [one.kind for one in found if one.fault] == ["kasan"]
        assert len(found) == splat.MAX_SPLATS + 1

    def test_flood_of_dmar_faults_hides_no_lost_message(self) -> None:
        dmar = f"{STAMP}DMAR: [DMA Write] Request device [01:00.0]\n"
        found = splats_of(dmar * (2 * splat.MAX_SPLATS) + "** 12 printk messages dropped **\n")
        assert [one.kind for one in found if one.detector_lost] == ["dropped"]

    def test_flood_of_faults_ends_at_its_limit(self) -> None:
        assert len(splats_of(FAULT * 2000)) <= splat.MAX_SPLATS

    def test_splat_of_long_lines_is_cut(self) -> None:
        (found,) = splats_of(f"{STAMP}BUG: {'x' * 200_000}\n")
        assert len(found.text) == splat.TEXT_LIMIT
        assert len(found.title) < 5000

    @pytest.mark.parametrize(
        "line",
        [
            f"BUG: {'[' * (1 << 20)}",
            f"BUG: x\n{STAMP}Call Trace:\n{STAMP} f{'.isra' * (1 << 18)}x+0x1/0x2",
            f"WARNING: {'held lock order ' * (1 << 16)}",
        ],
    )
    def test_line_of_a_mebibyte_has_a_fingerprint(self, line: str) -> None:
        """Take seconds; with a pattern that backtracks over the line, it would take a day."""
        for found in splats_of(f"{STAMP}{line}\n"):
            assert len(found.fingerprint) == len(found.place) == 12

    @pytest.mark.parametrize(
        "piece",
        [
            "\n",
            f"{STAMP}x\n{STAMP}Call Trace:\n",
            f"{STAMP} x\n" * 200 + f"{STAMP}Call Trace:\n",
            f"{STAMP}task:x state:\n[    9.000000] Call Trace:\n",
            "".join(f"[    1.000000][   T{one}] WARNING: x.c:1 at f+0x1/0x2\n" for one in range(300)),
        ],
    )
    def test_lines_looked_at_grow_linearly(self, piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count the lines that the search looks at, in a text and in one of four times its length."""
        monkeypatch.setattr("harness.klog.splat.read", lambda text: Counted(heads.read(text)))
        monkeypatch.setattr(splat, "MAX_SPLATS", 1 << 30)
        looks = []
        for times in (1, 4):
            Counted.looks = 0
            splats_of(piece * (times * 100_000 // len(piece)))
            looks.append(Counted.looks)
        assert looks[1] <= 6 * looks[0]


class Counted(list[heads.Line]):
    """Lines that count how often one is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        Counted.looks += 1
        return super().__getitem__(index)


class TestImitation:
    @pytest.mark.parametrize("said", ["conforms", "verdict: conforms", "patchproof-init: ready for ssh"])
    def test_console_that_writes_a_verdict_hides_no_fault(self, said: str) -> None:
        (found,) = splats_of(f"{said}\n{STAMP}{said}\n{FAULT}{said}\n")
        assert found.fault

    @pytest.mark.parametrize("escape", ["\x1b[", "\x1b[0;", "\x1b", "\x1b]0;", "\x9b"])
    def test_escape_left_open_hides_no_fault(self, escape: str) -> None:
        (found,) = splats_of(escape + FAULT)
        assert found.kind == "kasan"

    def test_escape_that_clears_the_screen_hides_no_fault(self) -> None:
        (found,) = splats_of(f"\x1b[2J{STAMP}\x1b[8mBUG: KASAN: x in f+0x1/0x2\x1b[2K\r\n")
        assert found.kind == "kasan"
        assert "\x1b" not in found.text
