"""Run a host program to its end: log its output, report its progress, or return what it wrote."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from harness.lib import interruption
from harness.lib.errors import HarnessError
from harness.lib.process import end_group, exchange, has_ended, started
from harness.lib.text import without_credentials

#: Lines of output that an error shows.
TAIL_LINES = 20
#: The value of PATH for what a tree under test makes the host run.  A program of the user's own would
#: change the configuration: Kconfig looks for rustc, and stores its version.
SYSTEM_PATH = "/usr/bin:/bin"
#: Bytes of one program's output.  A cold build of a kernel prints less than one MiB.
OUTPUT_LIMIT = 256 << 20
_LINE_BYTES = 1 << 20  # of the longest line; a longer one is passed on in parts


class Watch(Protocol):
    """Limits of a program, which end it by an exception: harness/lib/build_limits.py has those of a build."""

    #: The longest time between two calls of look(), in seconds.
    interval: float

    def heard(self, count: int) -> None:
        """Count ``count`` bytes of output."""

    def look(self, pid: int) -> None:
        """Look at the program with this process id."""


class CommandError(HarnessError):
    """A program failed.

    ``returncode`` is its exit status, or minus the number of the signal that killed
    it.  ``tail`` holds its last TAIL_LINES lines of output.
    """

    def __init__(self, argv: Sequence[str], returncode: int, log: Path | None, tail: str) -> None:
        end = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with {returncode}"
        super().__init__(f"The command `{_named(argv)}` {end}.", log=log, tail=tail)
        self.argv = tuple(argv)
        self.returncode = returncode

    @property
    def signal(self) -> int:
        """The signal that killed the program, or the program that a shell or wrapper ran; 0 if none did.

        129 is no SIGHUP: git exits with it after a wrong option.
        """
        if self.returncode < 0:
            return -self.returncode
        return self.returncode - 128 if 129 < self.returncode <= 128 + signal.SIGRTMAX else 0


def run(
    argv: Sequence[str],
    *,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
    line: Callable[[str], None] | None = None,
    watch: Watch | None = None,
    shown: Sequence[str] | None = None,
) -> str:
    """Run ``argv`` to its end and return its standard output and error, mixed.

    All output is appended to ``log`` as it comes, and ``line`` is called with each
    line.  ``env`` is added to the environment; None removes a variable.  The program
    runs in a process group of its own.  If an exception leaves this call (an interruption
    included), the whole group is ended, so that no make or gcc keeps running.
    ``watch`` bounds the program by such exceptions.  ``shown`` is the part of
    ``argv`` that an error names and the log begins with.

    Raises CommandError if the program fails, and HarnessError if it is not installed, if it
    prints more than OUTPUT_LIMIT, or if the log cannot be written.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    output = bytearray()
    with _log(log) as write:
        write(f"$ {_named(shown or argv)}\n".encode())
        if shown is not None:
            write(f"# run as: {_named(argv)}\n".encode())
        with started(argv, cwd, env, stdin, subprocess.STDOUT) as process:
            for raw in _lines(_output(process, stdin, watch)):
                if len(output) + len(raw) > OUTPUT_LIMIT:
                    raise HarnessError(
                        f"The command `{_named(shown or argv)}` was ended, because it printed more than "
                        f"{OUTPUT_LIMIT >> 20} MiB. This proves nothing about the series.",
                        log=log,
                        tail="\n".join(tail),
                    )
                write(raw)
                output += raw
                text = raw.decode(errors="replace").rstrip("\n")
                tail.append(without_credentials(text))
                if line is not None:
                    line(text)
            interruption.until(partial(has_ended, process))
    if process.returncode != 0:
        raise CommandError(shown or argv, process.returncode, log, "\n".join(tail))
    return output.decode(errors="replace").removesuffix("\n")


def _output(process: subprocess.Popen[bytes], stdin: bytes | None, watch: Watch | None) -> Iterator[bytes]:
    """Yield what a program prints as it comes, under ``watch``."""
    if watch is None:
        yield from (data for _, data in exchange(process, stdin))
        return
    for _, data in exchange(process, stdin, look=partial(watch.look, process.pid), interval=watch.interval):
        watch.heard(len(data))
        yield data


@dataclass(frozen=True)
class Captured:
    """A program that has ended: its exit ``status``, minus the number of a signal that killed it.

    ``late`` is true if it was killed here, because its time was over.
    """

    status: int
    stdout: bytes
    stderr: bytes
    late: bool = False


def capture(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
) -> Captured:
    """Run ``argv`` to its end, at most for ``timeout`` seconds, and return what it wrote, apart.

    For a short program.  ``env`` and the process group are as for run().  Raises HarnessError if the
    program is not installed.
    """
    output: tuple[list[bytes], list[bytes]] = ([], [])
    with started(argv, cwd, env, stdin, subprocess.PIPE) as process:
        deadline = None if timeout is None else time.monotonic() + timeout
        for is_error, data in exchange(process, stdin, deadline):
            output[is_error].append(data)
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        late = not interruption.until(partial(has_ended, process), left)
        if late:
            end_group(process, grace=0.0)
    return Captured(process.returncode, b"".join(output[0]), b"".join(output[1]), late)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of ``chunks`` as they come, each with its newline."""
    rest = b""
    for data in chunks:
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > _LINE_BYTES:
            whole, rest = [*whole, rest], b""
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


def run_harness(argv: Sequence[str], output: IO[bytes] | None = None) -> int:
    """Run another instance of this program to its end and return its exit status.

    Its standard output and error go to ``output``, by default to the user's terminal.
    If an exception leaves this call, or this process dies, the program gets SIGTERM and
    so can end in order.
    """
    stdin = None if output is None else subprocess.DEVNULL
    stderr = None if output is None else subprocess.STDOUT
    # A session of its own: Ctrl-C goes to this process only, which then ends the other one.
    program = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *argv],
        stdin=stdin,
        stdout=output,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        interruption.until(partial(has_ended, program))
        return program.returncode
    finally:
        program.terminate()
        program.wait()


def _named(argv: Sequence[str]) -> str:
    """Return a command as a shell takes it, for a message or a log."""
    return without_credentials(shlex.join(argv))


@contextlib.contextmanager
def _log(path: Path | None) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that appends to the log ``path``; without a path it does nothing."""
    if path is None:
        yield lambda _data: None
        return

    with _as_harness_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab", buffering=0)

    def write(data: bytes) -> None:
        if b"@" in data:
            text = without_credentials(data.decode(errors="surrogateescape"))
            data = text.encode(errors="surrogateescape")
        with _as_harness_error(path):
            stream.write(data)

    with stream:
        yield write


@contextlib.contextmanager
def _as_harness_error(path: Path) -> Iterator[None]:
    """Raise HarnessError for an OSError of the body, which writes the log ``path``."""
    try:
        yield
    except OSError as error:
        raise HarnessError(
            f"The log {path} cannot be written: {error.strerror or error}. Make room on that disk."
        ) from error
