"""Run a host program: log its output, report its progress, end it with its whole process group."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from harness.lib.errors import HarnessError

#: Lines of output that an error shows.
TAIL_LINES = 20
#: The longest wait without a check for signals (see _lines()).
POLL_SECONDS = 1.0
#: The value of PATH for what a tree under test makes the host run.  A program of the user's own would
#: change the configuration: Kconfig looks for rustc, and stores its version.
SYSTEM_PATH = "/usr/bin:/bin"
#: Bytes of one program's output.  A cold build of a kernel prints less than one MiB.
OUTPUT_LIMIT = 256 << 20
_CHUNK = 65536  # bytes
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
        super().__init__(f"The command `{shlex.join(argv)}` {end}.", log=log, tail=tail)
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
    runs in a process group of its own.  If an exception leaves this call (Ctrl-C
    included), the whole group is ended, so that no make or gcc keeps running.
    ``watch`` bounds the program by such exceptions.  ``shown`` is the part of
    ``argv`` that an error names and the log begins with.

    Raises CommandError if the program fails, and HarnessError if it is not installed, if it
    prints more than OUTPUT_LIMIT, or if the log cannot be written.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    output = bytearray()
    with _log(log) as write:
        write(f"$ {shlex.join(shown or argv)}\n".encode())
        if shown is not None:
            write(f"# run as: {shlex.join(argv)}\n".encode())
        merged = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=merged,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise HarnessError(
                f"The program {argv[0]} is not installed. `python -m harness doctor` lists "
                "what is missing and how to install it."
            ) from error
        try:
            if stdin is not None and process.stdin is not None:
                try:
                    process.stdin.write(stdin)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # the program has ended; its exit status reports the cause
            for raw in _lines(process, watch):
                if len(output) + len(raw) > OUTPUT_LIMIT:
                    raise HarnessError(
                        f"The command `{shlex.join(shown or argv)}` was ended, because it printed more than "
                        f"{OUTPUT_LIMIT >> 20} MiB. This proves nothing about the series.",
                        log=log,
                        tail="\n".join(tail),
                    )
                write(raw)
                output += raw
                text = raw.decode(errors="replace").rstrip("\n")
                tail.append(text)
                if line is not None:
                    line(text)
            returncode = process.wait()
        except BaseException:
            end_group(process)
            raise
    if returncode != 0:
        raise CommandError(shown or argv, returncode, log, "\n".join(tail))
    return output.decode(errors="replace").removesuffix("\n")


def _lines(process: subprocess.Popen[bytes], watch: Watch | None) -> Iterator[bytes]:
    """Yield the lines that a program prints as they come, each with its newline.

    A signal that arrives just before a read does not interrupt that read, and its
    Python handler runs only when the read returns.  So no wait is longer than
    POLL_SECONDS.
    """
    stream = process.stdout
    assert stream is not None
    seconds = POLL_SECONDS if watch is None else min(POLL_SECONDS, watch.interval)
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    rest = b""
    while True:
        if watch is not None:
            watch.look(process.pid)
        if not poll.poll(seconds * 1000):
            continue
        data = os.read(stream.fileno(), _CHUNK)
        if not data:
            break
        if watch is not None:
            watch.heard(len(data))
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
        while True:  # in short waits, as in _lines()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return program.wait(POLL_SECONDS)
    finally:
        program.terminate()
        program.wait()


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


def end_group(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End the process group of ``process``, which leads it: SIGTERM, and after ``grace`` seconds SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
