"""Read the mails of a maildir, the folder that mail programs keep one file for each mail in."""

from __future__ import annotations

from pathlib import Path

from harness.lib.errors import UsageError
from harness.lib.text import printable

_PARTS = ("cur", "new")  # tmp/ has mails that are still being written


def is_maildir(folder: Path) -> bool:
    """Return whether ``folder`` is a maildir."""
    return all((folder / part).is_dir() for part in _PARTS)


def read(folder: Path, limit: int) -> list[bytes]:
    """Return the mails of the maildir ``folder``, ordered by the names of their files.

    Raises UsageError for a file that is a link or no plain file, and for more than
    ``limit`` bytes of mails.
    """
    paths = [path for part in _PARTS for path in (folder / part).iterdir() if not path.name.startswith(".")]
    mails, left = [], limit
    for path in sorted(paths, key=lambda path: path.name):
        if path.is_symlink() or not path.is_file():
            raise UsageError(f"{printable(str(path))} in the maildir {folder} is not a plain file.")
        with path.open("rb") as stream:
            content = stream.read(left + 1)
        left -= len(content)
        if left < 0:
            raise UsageError(f"The mails in the maildir {folder} are larger than {limit >> 20} MiB together.")
        mails.append(content)
    return mails
