"""A file of events: one JSON object per line, each on the disk before its writer goes on."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from harness.lib.errors import HarnessError


def append(path: Path, event: str, **members: object) -> None:
    """Add an event with the time and ``members``, all of it on the disk when this returns, or nothing of it.

    Raises HarnessError if it cannot be written.
    """
    line = json.dumps({"time": datetime.now(UTC).isoformat(), "event": event, **members}) + "\n"
    try:
        _append(path, line.encode("ascii"))
    except OSError as error:
        raise HarnessError(
            f"The event {event!r} could not be written to {path} ({error.strerror or error}). "
            "Make room on the disk; what was written before is whole."
        ) from error


def whole_lines(path: Path) -> list[bytes]:
    """The lines of the file, none if there is no file; what follows the last newline was never finished."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def cut_torn_line(path: Path) -> None:
    """Take away what follows the last newline: a killed writer never finished it, and more is to come."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
            os.fsync(stream.fileno())


def _append(path: Path, data: bytes) -> None:
    """Half a line in the middle of the file would spoil all that follows it."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        before = os.fstat(handle).st_size
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
