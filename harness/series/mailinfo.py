"""Decode a patch mail with git itself: the author and the diff that git am would commit."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.lib import files, git
from harness.lib.command import CommandError
from harness.lib.errors import ApplyError
from harness.lib.text import printable

# git's complaints about a mail; any other failure of git is one of the host.
_ABOUT_THE_MAIL = re.compile(
    r"^(?:error: |fatal: )?(?:cannot convert from |corrupt mailbox|empty mbox|Too many boundaries|"
    r"Detected mismatched boundaries)",
    re.MULTILINE,
)
_ROOM = 1 << 16  # bytes, for git's files beside the mail
_KEPT = 10_000  # decoded mails, as many as a series may have
_DIFF_LINE = re.compile(rb"^(?:diff --git |--- |\+\+\+ |@@ -).*$", re.MULTILINE)


@dataclass(frozen=True)
class Mailinfo:
    """A decoded mail.

    ``author``, ``email`` and ``date`` are as git mailinfo reads them, empty if the mail
    has none.  ``patch`` is the text after the message, with the diff.  ``options`` are
    those that git am needs for the same ``patch``.
    """

    author: str
    email: str
    date: str
    patch: bytes
    options: tuple[str, ...]


_kept: dict[bytes, Mailinfo] = {}
_lock = threading.Lock()


def decode(name: str, mail: bytes) -> Mailinfo:
    """Decode ``mail``, the patch ``name``, without scissors and without any configuration.

    Raises ApplyError if git finds no mail, or several, or cannot decode it.  Raises
    HarnessError if git fails otherwise.
    """
    if (known := _kept.get(mail)) is not None:
        return known
    with _folder([mail]) as folder:
        try:
            count = _split(folder, [mail])
            if count != 1:
                raise ApplyError(
                    f"The patch {printable(name)} is refused: git reads {count} mails in it instead of one."
                )
            return _keep(mail, _read(folder, 1, mail))
        except CommandError as error:
            if error.returncode < 0 or not _ABOUT_THE_MAIL.search(error.tail):
                raise
            raise ApplyError(
                f"The patch {printable(name)} is refused: git cannot read it as a mail.",
                tail=printable(error.tail),
            ) from error


def decode_ahead(mails: Iterable[bytes]) -> None:
    """Decode many mails together, so that decode() has them at hand.

    One git mailsplit reads them all, and as many git mailinfo run at once as there are
    processors.  A mail that git cannot read is left to decode(), which says so.
    """
    left = [mail for mail in dict.fromkeys(mails) if mail not in _kept]
    for keeps_cr in (False, True):
        alike = [mail for mail in left if _has_files_with_cr(mail) is keeps_cr]
        if len(alike) < 2:
            continue
        with _folder(alike) as folder, contextlib.suppress(CommandError):
            # git finds at least one mail in each file, so with another count it finds several in one.
            if _split(folder, alike) == len(alike):
                _read_all(folder, alike)


def forget() -> None:
    """Forget all decoded mails, so that git decodes them again."""
    with _lock:
        _kept.clear()


def _read_all(folder: Path, mails: Sequence[bytes]) -> None:
    """Keep what git mailinfo reads in ``mails``, which git mailsplit has written to ``folder``.

    Raises CommandError if it cannot read one of them.
    """

    def read(number: int, mail: bytes) -> None:
        _keep(mail, _read(folder, number, mail))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # All of them run, also after one that fails.
        for done in [pool.submit(read, number, mail) for number, mail in enumerate(mails, 1)]:
            done.result()


def _keep(mail: bytes, decoded: Mailinfo) -> Mailinfo:
    """Keep ``decoded`` for the next call, and forget the oldest ones beyond the limit."""
    with _lock:
        _kept[mail] = decoded
        while len(_kept) > _KEPT:
            del _kept[next(iter(_kept))]
    return decoded


@contextlib.contextmanager
def _folder(mails: Sequence[bytes]) -> Iterator[Path]:
    """Make a temporary folder with room for what git writes of ``mails``."""
    # A thread that builds ahead may still write here when the program ends.
    with tempfile.TemporaryDirectory(prefix="patchproof-mail-", ignore_cleanup_errors=True) as temporary:
        files.require_room(Path(temporary), 4 * sum(map(len, mails)) + _ROOM)
        yield Path(temporary)


def _split(folder: Path, mails: Sequence[bytes]) -> int:
    """Let git mailsplit write ``mails``, all with or all without CR in their files, as 0001, 0002, ...

    Returns the number of mails that git finds in them.
    """
    names = [f"mail-{number}" for number in range(1, len(mails) + 1)]
    for name, mail in zip(names, mails, strict=True):
        (folder / name).write_bytes(mail)
    count = git.query(
        ["mailsplit", "-b", *_cr_options(mails[0]), f"-o{folder}", "--", *names],
        env=git.environment(git.NO_REPOSITORY),
        cwd=folder,
    )
    return int(count)


def _read(folder: Path, number: int, mail: bytes) -> Mailinfo:
    """Return what git mailinfo reads in the mail ``number`` of git mailsplit, which was ``mail``."""
    options = _cr_options(mail)
    split = (folder / f"{number:04}").read_bytes()
    headers, patch = _mailinfo(folder, number, split)
    if _has_transport_cr(patch):
        options = ("--quoted-cr=strip",)
        headers, patch = _mailinfo(folder, number, split, *options)
    author, email, date = (headers.get(name, "") for name in ("Author", "Email", "Date"))
    return Mailinfo(author, email, date, patch, options)


def _mailinfo(folder: Path, number: int, mail: bytes, *options: str) -> tuple[dict[str, str], bytes]:
    """Return the headers that git mailinfo prints for ``mail``, and its patch."""
    output = git.query(
        ["mailinfo", "--no-scissors", *options, f"message-{number}", f"patch-{number}"],
        env=git.environment(git.NO_REPOSITORY),
        cwd=folder,
        stdin=mail,
    )
    lines = (line.partition(": ") for line in output.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}, (folder / f"patch-{number}").read_bytes()


def _cr_options(mail: bytes) -> tuple[str, ...]:
    return ("--keep-cr",) if _has_files_with_cr(mail) else ()


def _has_transport_cr(patch: bytes) -> bool:
    """Return whether a mail server has put CR LF at the end of each line of a base64 mail.

    git ends the headers of files and hunks with LF, whatever the files have.  A CR there
    is from a server, which has then put one after the lines of the files as well.
    """
    lines = _DIFF_LINE.findall(patch)
    return bool(lines) and all(line.endswith(b"\r") for line in lines)


def _has_files_with_cr(mail: bytes) -> bool:
    """Return whether the diff in ``mail`` is of files whose lines end with CR LF.

    git removes each CR at the end of a line, unless it is told to keep them.  But it
    writes the headers in such a diff with LF.
    """
    first = _DIFF_LINE.search(mail)
    if first is None or b"\r\n" not in mail[first.start() :]:
        return False
    return not any(line.endswith(b"\r") for line in _DIFF_LINE.findall(mail))
