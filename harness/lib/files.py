"""Digests of content, and files that are replaced in one step."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from harness.lib.errors import HarnessError


def digest(*parts: bytes | str) -> str:
    """SHA-256 over ``parts``, each framed by its length, as 64 hex digits."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(f"{len(data)}:".encode())
        sha.update(data)
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` with ``content`` in one step, so a reader never sees half of it."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def require_room(
    folder: Path,
    size: int,
    what: str = "temporary files",
    advice: str = "Make room, or name another folder by TMPDIR or PATCHPROOF_CACHE.",
) -> None:
    """Raise HarnessError unless ``size`` bytes can be written to a file in ``folder``.

    They are written, as only that shows a quota.  git mailsplit and git mailinfo need
    this: on a full disk they cut their output off and succeed.
    """
    path = folder / ".room.tmp"
    try:
        path.write_bytes(bytes(size))
    except OSError as error:
        raise HarnessError(
            f"{folder} has no room for {size >> 10} KiB of {what} ({error.strerror}). {advice}"
        ) from error
    finally:
        path.unlink(missing_ok=True)
