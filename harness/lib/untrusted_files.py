"""Read, copy and remove the files that a tree under test left in a folder, without following its links.

A makefile may leave anything below its build folder: a link to a file of the user in place of the
image, a pipe that never ends, a file of a terabyte, folders without permission or a thousand deep.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO

from harness.lib import command
from harness.lib.command import CommandError
from harness.lib.errors import BuildError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: The limits of copy_folder(): entries of a folder and its subfolders, and how deep these may be.
MAX_ENTRIES = 20_000
MAX_DEPTH = 16
_MEASURE_SECONDS = 120.0


def read_file(folder: Path, name: PurePath | str, limit: int) -> bytes:
    """Return the content of the file ``name`` below ``folder``; the errors are those of copy_file()."""
    with _opened(folder, name, limit) as stream:
        return stream.read(limit)


def copy_file(folder: Path, name: PurePath | str, target: Path, limit: int) -> None:
    """Copy the file ``name`` below ``folder`` to ``target``.

    No part of ``name`` may be a symbolic link.  Raises BuildError if there is no such file, or it is no
    regular file, or has more than ``limit`` bytes.
    """
    with _opened(folder, name, limit) as stream, target.open("wb") as copy:
        shutil.copyfileobj(stream, copy)


def copy_folder(folder: Path, name: str, target: Path, limit: int) -> None:
    """Copy all files below the folder ``name`` of ``folder`` into the new folder ``target``.

    Raises BuildError if ``name`` is no folder or a link, for anything but regular files and folders in
    it, for a file of more than ``limit`` bytes, and for more than MAX_ENTRIES entries or MAX_DEPTH
    folders in one another.
    """
    target.mkdir()
    pending = [PurePath()]
    entries = 0
    while pending:
        inside = pending.pop()
        if len(inside.parts) > MAX_DEPTH:
            raise BuildError(f"The build left folders that are more than {MAX_DEPTH} deep below {name}.")
        for entry, is_folder in _listed(folder, name / inside):
            entries += 1
            if entries > MAX_ENTRIES:
                raise BuildError(f"The build left more than {MAX_ENTRIES} files below {name}.")
            if is_folder:
                (target / inside / entry).mkdir()
                pending.append(inside / entry)
            else:
                copy_file(folder, name / inside / entry, target / inside / entry, limit)


def remove_folder(folder: Path) -> None:
    """Remove a folder and everything in it, however deep it is and whatever its permissions are."""
    if not os.path.lexists(folder):
        return
    if not folder.is_symlink():
        # chmod follows no link that it meets on its way down.
        with contextlib.suppress(CommandError):  # it has changed what it could
            command.run(["chmod", "--recursive", "--silent", "--", "u+rwX", str(folder)])
    command.run(["rm", "--recursive", "--force", "--one-file-system", "--", str(folder)])


def usage(folder: Path, unit: str = "--block-size=1") -> int:
    """Return what ``folder`` takes, in bytes or by another option ``unit`` of du; 0 if that is unknown."""
    argv = ["du", "--summarize", "--one-file-system", unit, "--", str(folder)]
    # du complains of a file that is gone meanwhile, and prints the sum nevertheless.
    answer = command.capture(argv, timeout=_MEASURE_SECONDS)
    first = answer.stdout.split(maxsplit=1)
    return int(first[0]) if first and first[0].isdigit() else 0


def _listed(folder: Path, inside: PurePath) -> list[tuple[str, bool]]:
    """Return the names below ``folder``/``inside``, each with whether it is a folder."""
    descriptor = _descend(folder, inside)
    try:
        with os.scandir(descriptor) as found:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(folder: Path, name: PurePath | str, limit: int) -> Iterator[IO[bytes]]:
    path = PurePath(name)
    parent = _descend(folder, path.parent)
    try:
        descriptor = os.open(path.name, _FILE, dir_fd=parent)
    except OSError as error:
        raise BuildError(f"The build left no file {path} that can be read ({error.strerror}).") from error
    finally:
        os.close(parent)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BuildError(f"The build left something else than a file as {path}.")
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size > limit:
            raise BuildError(
                f"The build left {path} with {status.st_size} bytes, and at most {limit} are taken from it."
            )
        yield stream


def _descend(folder: Path, inside: PurePath) -> int:
    """Return a descriptor of ``folder``/``inside``; only ``folder`` itself may be reached through links."""
    descriptor = os.open(folder, _FOLDER & ~os.O_NOFOLLOW)
    for part in inside.parts:
        try:
            following = os.open(part, _FOLDER, dir_fd=descriptor)
        except OSError as error:
            raise BuildError(
                f"The build left no folder {inside} that can be read ({error.strerror}). No link is followed."
            ) from error
        finally:
            os.close(descriptor)
        descriptor = following
    return descriptor
