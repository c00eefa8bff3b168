"""A file of events: one JSON object per line, each synced to the disk before its writer goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from harness.lib.errors import HarnessError
from harness.lib.text import without_credentials


def append(path: Path, event: str, **members: object) -> None:
    """Append an event with the UTC time (ISO 8601) and ``members``, and sync it to the disk.

    Raises HarnessError if the event cannot be written; the file is then as before.
    """
    try:
        _append(path, event, members)
    except OSError as error:
        raise HarnessError(
            f"The event {event!r} could not be written to {path} ({error.strerror or error}). "
            "Make room on the disk; what was written before is whole."
        ) from error


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of the file that end with a newline; an empty list if there is no file.

    An unfinished last line, which a killed writer leaves, is not among them.  Raises HarnessError
    if the file cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HarnessError(f"The events in {path} cannot be read: {error.strerror}.") from error


def remove_unfinished_line(path: Path) -> None:
    """Remove the unfinished last line that a killed writer left, so that more lines can be appended."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
            os.fsync(stream.fileno())


def _append(path: Path, event: str, members: Mapping[str, object]) -> None:
    """Append an event whole, or restore the old length: half a line would make the next one unreadable.

    Processes that write at once do so in turns, so the events are in the order of their times.  What a
    killed one has left of its last line is removed.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed
        before = os.fstat(handle).st_size
        if before and os.pread(handle, 1, before - 1) != b"\n":
            remove_unfinished_line(path)
            before = os.fstat(handle).st_size
        line = json.dumps({"time": datetime.now(UTC).isoformat(), "event": event, **members}) + "\n"
        data = without_credentials(line).encode("ascii")
        try:
            written = os.write(handle, data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes could be written")
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
