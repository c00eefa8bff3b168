"""The serial console: log every byte as it arrives, and pass on every line."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pexpect
from pexpect.fdpexpect import fdspawn

from harness.klog import lines, splat
from harness.klog.lines import LINE_LIMIT
from harness.klog.splat import Splat
from harness.lib.errors import HarnessError

_CHUNK = 65536
_PIPE_SIZE = 1 << 20  # bytes; the default of /proc/sys/fs/pipe-max-size, allowed to every user
# Interval at which the reader checks for close() while the write end is still open.
_POLL_SECONDS = 1.0


def pipe() -> tuple[int, int]:
    """Make a pipe for a console; return the descriptors of its read end and its write end.

    The pipe holds the output of a whole boot, so that the guest never waits for the reader.
    """
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return reading, writing


class Console:
    """The console of one machine, read from the pipe ``fd`` until its write end is closed.

    The console owns ``fd``.  Every byte goes to the file ``log``, unchanged.  The
    console's thread calls ``line`` with each complete line, cleaned by splat.clean().
    It calls ``blind`` if the log cannot be written, and then stops reading.
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
        """Return the number of bytes logged so far, as a mark for since(), splats() or wait_for().

        Raises HarnessError, as these do, if the log could not be written: a splat
        that is not in the log would go unseen.
        """
        with self._changed:
            if self._failed is not None:
                raise HarnessError(
                    f"The console's log {self.log} cannot be written ({self._failed.strerror}), so splats "
                    "would go unseen. Make room on that disk."
                )
            return self._size

    def since(self, mark: int = 0) -> str:
        """Return the console's output since ``mark``, cleaned by splat.clean()."""
        return lines.clean(self._raw(mark))

    def splats(self, mark: int = 0) -> list[Splat]:
        """Return the splats since ``mark``, oldest first, informational ones too.

        A line that was incomplete at ``mark`` belongs to the output since then.
        """
        with self.log.open("rb") as stream:
            start = lines.line_start(stream, mark)
        return splat.extract(self.since(start), up=mark > 0)

    def wait_for(self, pattern: str, timeout: float, mark: int = 0) -> re.Match[str] | None:
        """Wait until the output since ``mark`` matches ``pattern``; return the first match.

        ``^`` and ``$`` match at lines.  Returns None after ``timeout`` seconds, or as
        soon as the console has ended without a match.
        """
        expression = re.compile(pattern, re.MULTILINE)
        found: re.Match[str] | None = None

        def found_or_ended() -> bool:
            nonlocal found
            found = expression.search(self.since(mark))
            return found is not None or self._ended

        with self._changed:
            self._changed.wait_for(found_or_ended, timeout)
        return found

    def close(self, timeout: float = 5.0) -> None:
        """Read the remaining output and close the log.  Call it when QEMU has ended.

        If another process holds the write end open, reading stops after ``timeout`` seconds.
        """
        self._thread.join(timeout)
        self._closing.set()
        self._thread.join()
        self._spawn.close()

    def _raw(self, mark: int) -> bytes:
        # No more than mark() counts: output that was returned once must lie before the next mark.
        size = self.mark()
        with self.log.open("rb") as stream:
            stream.seek(mark)
            return stream.read(max(size - mark, 0))

    def _read(self) -> None:
        incomplete = b""  # the last line, as long as its newline has not arrived
        try:
            while not self._closing.is_set():
                try:
                    data = self._spawn.read_nonblocking(_CHUNK)
                except pexpect.TIMEOUT:
                    continue
                except pexpect.EOF:
                    return
                try:
                    unwritten = memoryview(data)
                    while unwritten:
                        unwritten = unwritten[self._stream.write(unwritten) :]
                except OSError as error:
                    self._failed = error
                    if self._blind is not None:
                        self._blind()
                    return
                with self._changed:
                    self._size += len(data)
                    self._changed.notify_all()
                *complete, incomplete = (incomplete + data).split(b"\n")
                if len(incomplete) > LINE_LIMIT:
                    complete, incomplete = [*complete, incomplete], b""
                if self._line is not None:
                    for raw in complete:
                        for line in lines.clean(raw).splitlines():
                            self._line(line)
        finally:
            self._stream.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
