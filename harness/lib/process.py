"""A program that runs: started in a group of its own, fed, read, and ended with the whole group."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from harness.lib import interruption
from harness.lib.errors import HarnessError

_CHUNK = 65536  # bytes
_groups: set[int] = set()  # process groups that run now


@contextlib.contextmanager
def started(
    argv: Sequence[str],
    cwd: Path | None,
    env: Mapping[str, str | None] | None,
    stdin: bytes | None,
    stderr: int,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in a session of its own, whose group an exception of the body ends."""
    merged = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=merged,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise
        raise HarnessError(
            f"The program {argv[0]} is not installed. `python -m harness doctor` lists "
            "what is missing and how to install it."
        ) from error
    _groups.add(process.pid)
    try:
        yield process
    except BaseException:
        end_group(process)
        raise
    finally:
        _groups.discard(process.pid)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def exchange(
    process: subprocess.Popen[bytes],
    stdin: bytes | None,
    deadline: float | None = None,
    look: Callable[[], None] = lambda: None,
    interval: float = interruption.SLICE,
) -> Iterator[tuple[bool, bytes]]:
    """Give a program its ``stdin``, and yield what it writes as it comes; True for its standard error.

    Ends early at the ``deadline``.  ``look`` is called at least every ``interval`` seconds.  Raises
    Interruption, and what ``look`` raises.
    """
    rest = memoryview(stdin or b"")
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map() and (deadline is None or time.monotonic() < deadline):
            interruption.check()
            look()
            for key, _ in selector.select(min(interval, interruption.SLICE)):
                if key.fileobj is process.stdin:
                    rest = _feed(process.stdin, rest)
                    if not rest:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                elif data := os.read(key.fd, _CHUNK):
                    yield key.fileobj is process.stderr, data
                else:
                    selector.unregister(key.fileobj)


def _feed(pipe: IO[bytes], data: memoryview) -> memoryview:
    """Write to a pipe what it takes; return the rest, none if the program has closed its end."""
    try:
        return data[os.write(pipe.fileno(), data[:_CHUNK]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]  # the program has ended; its exit status reports the cause


def has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait at most ``seconds`` for the end of a program; return whether it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


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


def _kill_groups() -> None:
    """Kill every program that still runs: nobody waits for it any more."""
    for group in list(_groups):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


interruption.at_end(_kill_groups)
