"""Standard input as the user gave it, also below tox, which passes on nothing but a terminal."""

from __future__ import annotations

import os
import selectors
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from harness.lib import interruption
from harness.lib.errors import UsageError

_BLOCK = 1 << 16  # bytes


def stream() -> BinaryIO:
    """Return the standard input of this program, or that of tox if tox runs it.

    Of ``command | tox -e vm``, tox gives its commands /dev/null instead of the pipe, and
    does not read the pipe itself.  Raises UsageError if that of tox cannot be opened.
    """
    try:
        redirected = not _is_null(sys.stdin.fileno())
    except (OSError, ValueError):
        redirected = True  # no file of the system's, as in a test
    if not redirected and "TOX_ENV_NAME" in os.environ:
        for pid in _processes_of_tox():
            path = Path(f"/proc/{pid}/fd/0")
            try:
                if not _is_null(path):
                    return path.open("rb")
            except FileNotFoundError:
                break  # closed
            except OSError as error:
                raise UsageError(
                    f"The standard input of tox cannot be read ({error.strerror}: {path}). Write the mails "
                    "to a file, and name that."
                ) from error
    return sys.stdin.buffer


def read(source: BinaryIO, limit: int) -> bytes:
    """Read ``source`` to its end, at most ``limit`` bytes.  Raises Interruption while it waits for them."""
    try:
        descriptor = source.fileno()
    except OSError:
        return source.read(limit)  # no file of the system's, as in a test
    content = bytearray()
    with selectors.PollSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(content) < limit:
            interruption.until(selector.select)
            if not (block := os.read(descriptor, min(_BLOCK, limit - len(content)))):
                break
            content += block
    return bytes(content)


def _is_null(file: int | Path) -> bool:
    """Return whether ``file`` is /dev/null."""
    return os.stat(file).st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116 - a descriptor or a path


def _processes_of_tox() -> Iterator[int]:
    """Yield the nearest ancestors of this process that are tox; it starts itself anew for another version."""
    pid = os.getppid()
    while True:
        folder = Path(f"/proc/{pid}")
        arguments = (folder / "cmdline").read_bytes().split(b"\0")[:5]
        if not any(Path(os.fsdecode(argument)).name == "tox" for argument in arguments):
            return
        yield pid
        # "PID (NAME) STATE PPID ...", where NAME may hold anything.
        pid = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
