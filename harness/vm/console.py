"""The serial console: every byte logged as it comes, every line looked at."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pexpect
from pexpect.fdpexpect import fdspawn

from harness.klog import splat
from harness.klog.splat import LINE_LIMIT, Splat
from harness.lib.errors import HarnessError

_CHUNK = 65536
_PIPE_SIZE = 1 << 20  # bytes; what Linux lets every user have
# How often the reader looks whether it should stop although the far end is open.
_POLL_SECONDS = 1.0


def pipe() -> tuple[int, int]:
    """A pipe for a console: the end to read, the end to write.

    It holds a whole boot, so that the guest never waits for us.
    """
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return reading, writing


class Console:
    """Reads the guest's console from the pipe ``fd``, which it takes over, until the far end closes it.

    ``log`` gets every byte, unchanged.  ``line`` is called, in the console's
    thread, with each line as soon as it is whole, cleaned as splat.clean() does;
    ``blind`` when the log cannot be written, after which nothing is read.
    """

    def __init__(
        self,
        fd: int,
        log: Path,
        line: Callable[[str], None] | None = None,
        blind: Callable[[], None] | None = None,
    ) -> None:
        self.log = log
        self._line = line
        self._blind = blind
        self._spawn: fdspawn[bytes] = fdspawn(fd, timeout=_POLL_SECONDS, use_poll=True)
        self._size = 0
        self._changed = threading.Condition()
        self._ended = False
        self._failed: OSError | None = None
        self._closing = threading.Event()
        self._stream = log.open("wb", buffering=0)
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def mark(self) -> int:
        """This moment, to be given to since(), splats() or wait_for().

        Like these it raises HarnessError if the log could not be written: what is
        not on the disk was not seen.
        """
        with self._changed:
            if self._failed is not None:
                raise HarnessError(
                    f"The console's log {self.log} cannot be written ({self._failed.strerror}), so nobody "
                    "would see the kernel complain. Make room on that disk."
                )
            return self._size

    def since(self, mark: int = 0) -> str:
        """What the console has said since ``mark``, cleaned."""
        return splat.clean(self._raw(mark))

    def splats(self, mark: int = 0) -> list[Splat]:
        """The splats since ``mark``, oldest first; those that are only informational too.

        A line that was not whole at ``mark`` counts as said since.
        """
        with self.log.open("rb") as stream:
            start = splat.line_start(stream, mark)
        return splat.extract(self.since(start), up=mark > 0)

    def wait_for(self, pattern: str, timeout: float, mark: int = 0) -> re.Match[str] | None:
        """Wait until ``pattern`` is found in what was said since ``mark``; None after ``timeout`` seconds.

        Also None, without waiting, once the console has ended without it.
        """
        expression = re.compile(pattern, re.MULTILINE)
        found: re.Match[str] | None = None

        def settled() -> bool:
            nonlocal found
            found = expression.search(self.since(mark))
            return found is not None or self._ended

        with self._changed:
            self._changed.wait_for(settled, timeout)
        return found

    def close(self, timeout: float = 5.0) -> None:
        """Read what is left and close.  Call it when QEMU has ended.

        If someone else holds the far end open, reading stops after ``timeout`` seconds.
        """
        self._thread.join(timeout)
        self._closing.set()
        self._thread.join()
        self._spawn.close()

    def _raw(self, mark: int) -> bytes:
        # Never more than mark() would count: what was seen once must lie before the next mark.
        size = self.mark()
        with self.log.open("rb") as stream:
            stream.seek(mark)
            return stream.read(max(size - mark, 0))

    def _read(self) -> None:
        rest = b""
        try:
            while not self._closing.is_set():
                try:
                    data = self._spawn.read_nonblocking(_CHUNK)
                except pexpect.TIMEOUT:
                    continue
                except pexpect.EOF:
                    return
                try:
                    left = memoryview(data)
                    while left:
                        left = left[self._stream.write(left) :]
                except OSError as error:
                    self._failed = error
                    if self._blind is not None:
                        self._blind()
                    return
                with self._changed:
                    self._size += len(data)
                    self._changed.notify_all()
                *whole, rest = (rest + data).split(b"\n")
                if len(rest) > LINE_LIMIT:
                    whole, rest = [*whole, rest], b""
                if self._line is not None:
                    for raw in whole:
                        for line in splat.clean(raw).splitlines():
                            self._line(line)
        finally:
            self._stream.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
