"""Read the patches of a folder: as git format-patch writes it, of quilt, or listed in a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.lib.errors import UsageError
from harness.lib.text import printable
from harness.series import mbox
from harness.series.draft import Revision, revision_of
from harness.series.mail import Mail
from harness.series.mbox import NotASeriesError

QUILT = "series"  # the file in which quilt lists the patches
MAX_SHOWN = 8  # names in a note; the rest is counted
MAILS = (".patch", ".eml")
BOXES = (".mbox", ".mbx", ".gz", ".xz", ".bz2", ".zst")

# 0001-x.patch, v2-0001-x.patch, RFC-v2-0001-x.patch, 1.patch
_NAME = re.compile(r"(?:rfc-?)?(?:v(\d{1,4})(?:\.\d+)?-)?(\d{1,4})(?=[-_. ])", re.IGNORECASE)


@dataclass(frozen=True)
class Contents:
    """The mails of a folder.

    ``listed`` is true if a file lists the patches in their order; ``ordered`` if the
    order is known, by such a list or by numbers in the names of the files.
    """

    mails: tuple[Mail, ...]
    listed: bool = False
    ordered: bool = False
    notes: tuple[str, ...] = ()


def read(
    folder: Path,
    names: Sequence[str] | None,
    roots: Sequence[Path],
    limit: int,
    wanted: Revision | None = None,
) -> Contents:
    """Read the patches of ``folder``: those with ``names``, of quilt's list, or all.

    Of all, those of the revision ``wanted`` have to be in order, if one is wanted.  Only
    ordinary files below ``roots`` are read, and ``limit`` bytes of all.  Raises UsageError
    for any other file, and for a file that is no mail.
    """
    reader = _Reader(folder, roots, limit)
    if names is not None:
        mails = [Mail(reader.bytes_of(name), Path(name).name) for name in names]
        return Contents(tuple(mails), listed=True, ordered=True)
    visible = sorted(path.name for path in folder.iterdir() if not _is_leftover(path.name))
    patches = [name for name in visible if name.lower().endswith(MAILS)]
    quilt = folder / QUILT
    if quilt.is_file():
        listed = _quilt(reader.bytes_of(QUILT).decode("utf-8-sig", errors="replace"), quilt)
        mails = [mail for name in listed for mail in reader.mails_of(name)]
        said = [f"The order of the patches is that of {quilt}."]
        if rest := [name for name in patches if name not in map(os.path.normpath, listed)]:
            more = f" and {len(rest) - MAX_SHOWN} more" if len(rest) > MAX_SHOWN else ""
            shown = ", ".join(map(printable, rest[:MAX_SHOWN]))
            said.append(f"Left out: {shown}{more}, which {quilt} does not list.")
        return Contents(tuple(mails), True, True, tuple(said))
    mails = [mail for name in patches for mail in reader.mails_of(name)]
    diffs = [name for name in visible if name.lower().endswith(".diff")]
    if diffs and not mails:
        raise UsageError(
            f"The folder {folder} holds {printable(diffs[0])}, by its name a diff and no mail: nothing says "
            "who wrote it and why. `git format-patch` makes mails of commits."
        )
    notes = tuple(f"Left out: {printable(name)}, by its name a diff and no mail." for name in diffs[:5])
    mails, ordered = _by_name(folder, mails, wanted)
    return Contents(tuple(mails), ordered=ordered, notes=notes)


def advice(folder: Path) -> str:
    """Return what a user may have meant by a folder without patches; empty if nothing is at hand."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    boxes = [path.name for path in entries if path.is_file() and path.name.lower().endswith(BOXES)]
    if boxes:
        return f" It holds {printable(boxes[0])}; name that file itself."
    folders = [path.name for path in entries if path.is_dir() and any(path.glob("*.patch"))]
    if folders:
        return (
            f" There are patches in its folders {', '.join(map(printable, folders[:5]))}; name one of them."
        )
    return ""


class _Reader:
    """Reads files of one folder up to a limit of bytes of all of them."""

    def __init__(self, folder: Path, roots: Sequence[Path], limit: int) -> None:
        self._folder = folder
        self._roots = [root.resolve() for root in roots]
        self._limit = self._left = limit

    def bytes_of(self, name: str) -> bytes:
        path = self._folder / name
        try:
            inside = any(path.resolve().is_relative_to(root) for root in self._roots)
        except (OSError, RuntimeError):
            raise UsageError(f"{printable(str(path))} is a link to itself. Remove it.") from None
        if not inside:
            raise UsageError(f"The patch {printable(name)} leads out of the folder {self._folder}.")
        if not path.is_file():
            raise UsageError(f"There is no patch file {printable(str(path))}.")
        with path.open("rb") as stream:
            content = stream.read(self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise UsageError(
                f"The patches in {self._folder} are larger than {self._limit >> 20} MiB together."
            )
        return content

    def mails_of(self, name: str) -> Sequence[Mail]:
        content = self.bytes_of(name)
        try:
            return mbox.read(content, Path(name).name).mails
        except NotASeriesError as reason:
            raise UsageError(
                f"The file {printable(name)} in {self._folder} cannot be tested: {reason}."
            ) from None


def _is_leftover(name: str) -> bool:
    """Return whether a file is hidden or a backup, as editors, patch and archives leave them."""
    return name.startswith((".", "#")) or name.endswith(("~", ".orig", ".rej", ".bak", ".swp"))


def _by_name(folder: Path, mails: Iterable[Mail], wanted: Revision | None) -> tuple[list[Mail], bool]:
    """Return the mails of a folder in their order, and whether it is known.

    Patches with [PATCH n/m] are put in order later.  Those without need numbers in the
    names of their files.  Raises UsageError if these are not 1 to n.
    """
    mails = sorted(mails, key=lambda mail: (_number(mail.name), mail.name))
    meant = [mail for mail in mails if mail.has_diff and wanted in (None, revision_of(mail))]
    bare = [mail for mail in meant if mail.tag.number is None]
    files = list(dict.fromkeys(mail.name for mail in bare))
    if len(files) < 2 or len(bare) < len(meant):
        return mails, len(files) == 1
    nameless = [name for name in files if not _NAME.match(name)]
    if nameless:
        raise UsageError(
            f"The order of the patches in {folder} is not known: neither the subject nor the file name of "
            f"{printable(nameless[0])} has a number. Name the files 0001-..., or list them in a file "
            f"`{QUILT}`."
        )
    by_number: dict[int, str] = {}
    for name in files:
        if (other := by_number.setdefault(_number(name), name)) != name:
            raise UsageError(
                f"The folder {folder} holds two patches with one number, {printable(other)} and "
                f"{printable(name)}; keep one revision, or choose it with --revision."
            )
    revisions = {(_NAME.match(name) or [None, None])[1] for name in files}
    if len(revisions) > 1:
        raise UsageError(
            f"The folder {folder} holds files of several revisions, such as {printable(files[0])} and "
            f"{printable(files[-1])}; keep one revision."
        )
    missing = sorted(set(range(1, max(by_number) + 1)) - set(by_number))
    if missing:
        raise UsageError(
            f"The folder {folder} lacks patch {', '.join(map(str, missing[:20]))} of {max(by_number)} by the "
            f"names of its files. If these are all, list them in a file `{QUILT}`."
        )
    return mails, True


def _number(name: str) -> int:
    found = _NAME.match(name)
    return int(found[2]) if found else 0


def _quilt(content: str, path: Path) -> list[str]:
    """Return the names in a ``series`` file of quilt.  Raises UsageError for what git am cannot do."""
    names: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        words = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split()
        if not words:
            continue
        name, options = words[0], " ".join(words[1:])
        if name.startswith(("+", "-")):
            why = (
                f"guards ({printable(name)}) choose some of the patches. Make a list of those that are meant"
            )
        elif re.fullmatch(r"(?:-p ?1)?", options) is None:
            why = (
                f"the option {printable(options)!r} is not known: a patch is applied with -p1, as git am does"
            )
        elif name in names:
            why = f"{printable(name)} is listed twice"
        else:
            names.append(name)
            continue
        raise UsageError(f"{path}, line {number}, cannot be followed: {why}.")
    if not names:
        raise UsageError(f"{path} lists no patch.")
    return names
