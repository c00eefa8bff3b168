"""Actors on the host: compile the C actor, start either probe, give it a memfd in place of a DMABUF.

A memfd maps, loads, stores and faults (beyond its end) as a DMABUF does, so the
probes can be tested without a machine.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.lib import command
from harness.vm.ssh import SshTimeoutError

ROOT = Path(__file__).resolve().parent.parent
PROBES = ROOT / "probes"
HEADERS = Path(__file__).resolve().parent / "data/headers"
PAGE = 4096
_AS_FD_3 = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder that is removed when this process ends."""
    return tempfile.TemporaryDirectory(prefix="patchproof-actor-")


@functools.cache
def actor(*defines: str) -> Path:
    """Compile the C actor with ``-D`` of each of ``defines``, once per test run."""
    folder = Path(_folder().name, *defines)
    folder.mkdir(parents=True, exist_ok=True)
    flags = " ".join(["-O1", *(f"-D{define}" for define in defines)])
    settings = [f"HEADERS={HEADERS}", f"OUT={folder / 'actor'}", f"CFLAGS={flags}", "CC=gcc"]
    command.run(["make", "-C", str(PROBES), *settings])
    return folder / "actor"


def argv(kind: str) -> list[str]:
    """Return the command of the probe of this kind, ``actor`` or ``python``."""
    return [str(actor())] if kind == "actor" else [sys.executable, "-IS", str(PROBES / "probe.py")]


class Local:
    """A program on this host with the interface of harness.vm.ssh.Stream."""

    def __init__(self, arguments: list[str], *, parcels: socket.socket | None = None) -> None:
        keep = (parcels.fileno(),) if parcels is not None else ()
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=keep,
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout
        self._buffer = b""

    def write(self, data: bytes, timeout: float = 10.0) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._in.write(data)

    def read_line(self, timeout: float = 30.0, limit: int = 1 << 24) -> bytes:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._out], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise SshTimeoutError("it has said nothing", self._buffer)
            data = self._out.read(65536)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def read_errors(self) -> bytes:
        assert self.process.stderr is not None
        return self.process.stderr.read() or b""

    def end_input(self) -> None:
        self._in.close()

    def wait(self, timeout: float) -> int:
        return self.process.wait(timeout)

    def close(self) -> None:
        self._in.close()
        self._out.close()
        self.process.wait(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def ask(self, line: str | bytes) -> str:
        """Send one line and return its reply."""
        self.write((line.encode() if isinstance(line, str) else line) + b"\n")
        return self.read_line().decode(errors="backslashreplace")


class Client(Local):
    """A probe of this kind as the child of this test, with a memfd of ``pages`` pages as its ``buf1``."""

    def __init__(self, kind: str, pages: int = 4) -> None:
        self.file = os.memfd_create("buffer")
        os.truncate(self.file, pages * PAGE)
        self.parcels, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            if kind == "actor":
                # The C actor has this socket as fd 3, always.
                arguments = [sys.executable, "-c", _AS_FD_3, str(its.fileno()), str(actor()), "--child"]
            else:
                arguments = [*argv(kind), "--child", str(its.fileno())]
            super().__init__(arguments, parcels=its)
            socket.send_fds(self.parcels, [b"b"], [self.file])
            assert self.ask("recv") == "ok buf1"

    def close(self) -> None:
        super().close()
        self.parcels.close()
        os.close(self.file)

    def shrink(self, pages: int) -> None:
        """Shorten the memfd to ``pages`` pages; access to a mapping beyond them faults."""
        os.truncate(self.file, pages * PAGE)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
