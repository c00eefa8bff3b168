"""The serial console: log every byte as it arrives, and pass on every line."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pexpect
from pexpect.fdpexpect import fdspawn

from harness.klog import lines, splat
from harness.klog.lines import LINE_LIMIT
from harness.klog.splat import Splat
from harness.lib import interruption
from harness.lib.errors import HarnessError

#: Bytes of one machine's console that are logged; an ordinary machine prints less than one MiB.
LIMIT = 8 << 20
_CHUNK = 65536
_PIPE_SIZE = 1 << 20  # bytes; the default of /proc/sys/fs/pipe-max-size, allowed to every user
_CUT = b"\n(The console is cut off here: the machine printed more than %d MiB.)\n" % (LIMIT >> 20)
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

    The console owns ``fd``.  Every byte goes to the file ``log``, unchanged, up to LIMIT.  The
    console's thread calls ``line`` with each complete line, cleaned by splat.clean().
    It calls ``blind`` if the log cannot be written, and then stops reading.  It calls ``full``
    once beyond LIMIT, writes that into the log, and drops what follows.  The log begins with
    ``printed``, the whole lines that the guest of a snapshot had printed; ``line`` does not get them.
    """

    def __init__(
        self,
        fd: int,
        log: Path,
        line: Callable[[str], None] | None = None,
        blind: Callable[[], None] | None = None,
        full: Callable[[], None] | None = None,
        printed: bytes = b"",
    ) -> None:
        self.log = log
        self._full = full
        self._line = line
        self._blind = blind
        self._spawn: fdspawn[bytes] = fdspawn(fd, timeout=_POLL_SECONDS, use_poll=True)
        self._searched: tuple[int, int, tuple[Splat, ...]] = 0, 0, ()  # by splats(): mark, length, result
        self._changed = threading.Condition()
        self._ended = False
        self._failed: OSError | None = None
        self._closing = threading.Event()
        self._stream = log.open("wb", buffering=0)
        self._write(printed)
        self._size = len(printed)
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

    def raw(self) -> bytes:
        """Return all of the output so far, as the guest printed it."""
        return self._raw(0)

    def since(self, mark: int = 0) -> str:
        """Return the console's output since ``mark``, cleaned by splat.clean()."""
        return lines.clean(self._raw(mark))

    def splats(self, mark: int = 0) -> list[Splat]:
        """Return the splats since ``mark``, oldest first, informational ones too.

        A line that was incomplete at ``mark`` belongs to the output since then.
        """
        with self.log.open("rb") as stream:
            start = lines.line_start(stream, mark)
        raw = self._raw(start)
        if self._searched[:2] != (mark, len(raw)):  # the log only grows, so these two name its content
            self._searched = mark, len(raw), tuple(splat.extract(lines.clean(raw), up=mark > 0))
        return list(self._searched[2])

    def wait_for(self, pattern: str, timeout: float, mark: int = 0) -> re.Match[str] | None:
        """Wait until the output since ``mark`` matches ``pattern``; return the first match.

        ``^`` and ``$`` match at lines, and a match does not span several.  Returns None after
        ``timeout`` seconds, or as soon as the console has ended without a match.
        """
        expression = re.compile(pattern, re.MULTILINE)
        found: re.Match[str] | None = None
        start = mark  # of the line that is not yet complete

        def found_or_ended() -> bool:
            nonlocal found, start
            raw = self._raw(start)
            found = expression.search(lines.clean(raw))
            start += raw.rfind(b"\n") + 1
            return found is not None or self._ended

        with self._changed:
            interruption.until(partial(self._changed.wait_for, found_or_ended), timeout)
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

    def _write(self, data: bytes) -> None:
        unwritten = memoryview(data)
        while unwritten:
            unwritten = unwritten[self._stream.write(unwritten) :]

    def _read(self) -> None:
        over = False  # more than LIMIT has arrived
        incomplete = b""  # the last line, as long as its newline has not arrived
        try:
            while not self._closing.is_set():
                try:
                    data = self._spawn.read_nonblocking(_CHUNK)
                except pexpect.TIMEOUT:
                    continue
                except pexpect.EOF:
                    return
                if over:
                    continue
                over = self._size + len(data) > LIMIT
                data = data[: max(LIMIT - self._size, 0)]
                try:
                    self._write(data + (_CUT if over else b""))
                except OSError as error:
                    self._failed = error
                    if self._blind is not None:
                        self._blind()
                    return
                with self._changed:
                    self._size += len(data)
                    self._changed.notify_all()
                if over and self._full is not None:
                    self._full()
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
