"""Write a report to a file that the user named: refuse a bad place early, and never leave half a file."""

from __future__ import annotations

from pathlib import Path

from harness.lib.errors import HarnessError, UsageError
from harness.lib.files import write_atomically


def prepare(path: Path, option: str) -> Path:
    """Return the absolute path of a file that is to be written later, and remove an older file there.

    The folder is made.  An older file would pass for the new one if the work ended early.  ``option``
    is how the user named the file, for the message.

    Raises UsageError if it could not be written.
    """
    try:
        file = path.resolve()  # a link such as /dev/stdout is not replaced
        if file.exists() and not file.is_file():
            raise UsageError(
                f"{path} ({option}) is not an ordinary file, so it cannot be replaced. Name another file."
            )
        write_atomically(file, b"")
        file.unlink()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a circle of links
        raise UsageError(f"{path} ({option}) cannot be written: {_why(error)}. Name another file.") from error
    return file


def write(path: Path, content: str | bytes) -> None:
    """Replace the file ``path`` with ``content`` in one step.

    Raises HarnessError if that fails; an older file is left as it was.
    """
    try:
        write_atomically(path.resolve(), content)
    except (OSError, ValueError, RuntimeError) as error:
        raise HarnessError(
            f"{path} could not be written: {_why(error)}. Make room, or name another file."
        ) from error


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
