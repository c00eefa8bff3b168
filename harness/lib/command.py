"""Run a host program: its output in a log, its progress to the user, its end certain."""

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
from typing import IO

from harness.lib.errors import HarnessError

TAIL_LINES = 20
WAKE_SECONDS = 1.0
_CHUNK = 65536  # bytes


class CommandError(HarnessError):
    """A program exited with an error; ``returncode`` and ``tail`` tell how."""

    def __init__(self, argv: Sequence[str], returncode: int, log: Path | None, tail: str) -> None:
        ended = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with {returncode}"
        super().__init__(f"The command `{shlex.join(argv)}` {ended}.", log=log, tail=tail)
        self.argv = tuple(argv)
        self.returncode = returncode


def run(
    argv: Sequence[str],
    *,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
    line: Callable[[str], None] | None = None,
) -> str:
    """Run ``argv`` to its end and return its standard output and error, mixed.

    ``log`` gets all output as it comes (appended); ``line`` is called with each
    line.  ``env`` is added to the environment; None takes a variable out.  The
    program runs in a process group of its own, which is ended as a whole when
    this call is left by an exception (Ctrl-C included): no make or gcc goes on
    behind the user's back.

    Raises CommandError when the program fails, HarnessError when it is not there
    or the log cannot be written.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    output: list[str] = []
    with _log(log) as write:
        write(f"$ {shlex.join(argv)}\n".encode())
        whole = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=whole,
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
                    pass  # the program has ended; its exit status says why
            assert process.stdout is not None
            for raw in _lines(process.stdout):
                write(raw)
                text = raw.decode(errors="replace").rstrip("\n")
                tail.append(text)
                output.append(text)
                if line is not None:
                    line(text)
            returncode = process.wait()
        except BaseException:
            end_group(process)
            raise
    if returncode != 0:
        raise CommandError(argv, returncode, log, "\n".join(tail))
    return "\n".join(output)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Its lines, as they come.

    A signal that comes in the moment before a read does not interrupt it, and its
    handler waits until that returns.  So none waits for long.
    """
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    rest = b""
    while True:
        if not poll.poll(WAKE_SECONDS * 1000):
            continue
        data = os.read(stream.fileno(), _CHUNK)
        if not data:
            break
        *whole, rest = (rest + data).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


def wait_for(argv: Sequence[str], output: IO[bytes] | None = None) -> int:
    """Run a program of ours to its end, which it comes to in order when this call is left by an exception.

    Returns its exit status; ``output`` takes all that it says, by default the user's terminal.
    """
    mortal = ["setpriv", "--pdeathsig", "TERM", *argv]
    said = None if output is None else subprocess.STDOUT
    quiet = None if output is None else subprocess.DEVNULL
    # Ctrl-C is for us alone.
    program = subprocess.Popen(mortal, stdin=quiet, stdout=output, stderr=said, start_new_session=True)
    try:
        while True:  # as in _lines()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return program.wait(WAKE_SECONDS)
    finally:
        program.terminate()
        program.wait()


@contextlib.contextmanager
def _log(path: Path | None) -> Iterator[Callable[[bytes], None]]:
    """What appends to the log, or nothing where there is to be none."""
    if path is None:
        yield lambda _data: None
        return

    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab", buffering=0)

    def write(data: bytes) -> None:
        with _told(path):
            stream.write(data)

    with stream:
        yield write


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HarnessError(
            f"The log {path} cannot be written: {error.strerror or error}. Make room on that disk."
        ) from error


def end_group(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a process started in its own group, children included; SIGKILL after ``grace`` seconds."""
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
