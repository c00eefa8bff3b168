"""The reader of a console: marks, waiting, and a log that cannot be written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.klog import lines
from harness.lib.errors import HarnessError
from harness.vm.console import Console, pipe

DATA = Path(__file__).parent / "data" / "consoles"


class PipedConsole:
    """A console that reads from a pipe; the test writes into it."""

    def __init__(self, folder: Path) -> None:
        reading, self.fd = pipe()
        self.lines: list[str] = []
        self.console = Console(reading, folder / "console.log", self.lines.append)

    def end(self) -> None:
        os.close(self.fd)
        self.console.close()


@pytest.fixture
def piped(tmp_path: Path) -> PipedConsole:
    return PipedConsole(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_console_read_in_pieces_loses_nothing(piped: PipedConsole, seed: int) -> None:
    chance = random.Random(seed)
    raw = (DATA / "warning.log").read_bytes() + "Ä\N{SNOWMAN}".encode() * 100 + b"\xff\xfe\n"
    position = 0
    while position < len(raw):
        step = chance.choice([1, 2, 3, 50, 5000])
        os.write(piped.fd, raw[position : position + step])
        position += step
    piped.end()
    assert piped.console.log.read_bytes() == raw
    assert piped.lines == [line for line in lines.clean(raw).splitlines() if line]
    assert [one.kind for one in piped.console.splats()] == ["warning"]


def test_mark_hides_earlier_splats(piped: PipedConsole) -> None:
    raw = (DATA / "warning.log").read_bytes()
    raw = raw[raw.index(b"lkdtm: ") :]
    os.write(piped.fd, raw)
    assert piped.console.wait_for("end trace", 10)
    mark = piped.console.mark()
    assert piped.console.splats(mark) == []
    os.write(piped.fd, raw)
    assert piped.console.wait_for("end trace", 10, mark)
    assert len(piped.console.splats(mark)) == 1
    assert len(piped.console.splats()) == 2
    piped.end()


def test_mark_inside_a_line_keeps_the_line(piped: PipedConsole) -> None:
    os.write(piped.fd, b"[    1.000000] quiet\n[    2.000000] WARN")
    assert piped.console.wait_for("WARN$", 10)
    mark = piped.console.mark()
    os.write(piped.fd, b"ING: mm/x.c:1 at f+0x1/0x2\n")
    piped.end()
    assert [one.title for one in piped.console.splats(mark)] == ["WARNING: mm/x.c:1 at f+0x1/0x2"]
    assert piped.console.since(mark).startswith("ING")


def test_second_kernel_start_is_a_reboot(piped: PipedConsole) -> None:
    first = b"[    0.000000] Linux version 6.19.6 (x@y)\n[    1.000000] up\n"
    os.write(piped.fd, first)
    assert piped.console.wait_for("up\n", 10)
    assert piped.console.splats() == []
    mark = piped.console.mark()
    os.write(piped.fd, first)
    piped.end()
    assert [one.kind for one in piped.console.splats(mark)] == ["reboot"]
    assert [one.kind for one in piped.console.splats()] == ["reboot"]


def test_wait_for_ends_with_the_console(piped: PipedConsole) -> None:
    threading.Timer(0.1, piped.end).start()
    assert piped.console.wait_for("never", 60) is None


def test_endless_line_is_passed_on_in_pieces(piped: PipedConsole) -> None:
    os.write(piped.fd, b"x" * 100_000)
    os.write(piped.fd, b"y" * 100_000 + b"\n")
    piped.end()
    assert sum(map(len, piped.lines)) == 200_000
    assert len(piped.lines) > 1


def test_close_does_not_wait_for_another_writer(piped: PipedConsole) -> None:
    os.write(piped.fd, b"last\n")
    piped.console.close(timeout=0.1)
    assert piped.lines == ["last"]
    os.close(piped.fd)


def test_console_on_a_full_disk_is_an_error() -> None:
    reading, writing = pipe()
    told = threading.Event()
    watched = Console(reading, Path("/dev/full"), blind=told.set)
    os.write(writing, b"BUG: unable to handle page fault\n")
    os.close(writing)
    watched.close()
    assert told.is_set()
    for look in (watched.mark, watched.since, watched.splats):
        with pytest.raises(HarnessError, match=r"cannot be written \(No space left on device\)"):
            look()


SIZE_LIMIT = """
import os, resource, signal, sys
from pathlib import Path

from harness.vm.console import Console
from harness.vm.console import pipe
from harness.lib.errors import HarnessError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
reading, writing = pipe()
watched = Console(reading, Path(sys.argv[1]))
os.write(writing, b"[    1.000000] quiet\\n[    2.000000] WARNING: x.c:1 at f+0x1/0x2\\n")
os.close(writing)
watched.close()
try:
    watched.splats()
except HarnessError as error:
    print(error)
"""


def test_console_written_in_part_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    done = subprocess.run(
        [sys.executable, "-c", SIZE_LIMIT, str(log)], capture_output=True, text=True, check=True
    )
    assert log.stat().st_size == 40
    assert "cannot be written (File too large)" in done.stdout
