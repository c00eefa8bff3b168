"""Decode a patch mail with git itself: the author and the diff that git am would commit."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from functools import lru_cache
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


@lru_cache(maxsize=2048)
def decode(name: str, mail: bytes) -> Mailinfo:
    """Decode ``mail``, the patch ``name``, without scissors and without any configuration.

    Raises ApplyError if git finds no mail, or several, or cannot decode it.  Raises
    HarnessError if git fails otherwise.
    """
    # A thread that builds ahead may still write here when the program ends.
    with tempfile.TemporaryDirectory(prefix="patchproof-mail-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        files.require_room(folder, 4 * len(mail) + _ROOM)
        whole = folder / "mail"
        whole.write_bytes(mail)
        try:
            options = ("--keep-cr",) if _has_files_with_cr(mail) else ()
            count = git.query(
                ["mailsplit", "-b", *options, f"-o{temporary}", "--", str(whole)],
                env=git.environment(git.NO_REPOSITORY),
                cwd=folder,
            )
            if int(count) != 1:
                raise ApplyError(
                    f"The patch {printable(name)} is refused: git reads {int(count)} mails in it "
                    "instead of one."
                )
            one = (folder / "0001").read_bytes()
            headers, patch = _mailinfo(folder, one)
            if _has_transport_cr(patch):
                options = ("--quoted-cr=strip",)
                headers, patch = _mailinfo(folder, one, *options)
        except CommandError as error:
            if error.returncode < 0 or not _ABOUT_THE_MAIL.search(error.tail):
                raise
            raise ApplyError(
                f"The patch {printable(name)} is refused: git cannot read it as a mail.",
                tail=printable(error.tail),
            ) from error
    author, email, date = (headers.get(name, "") for name in ("Author", "Email", "Date"))
    return Mailinfo(author, email, date, patch, options)


def _mailinfo(folder: Path, mail: bytes, *options: str) -> tuple[dict[str, str], bytes]:
    """Return the headers that git mailinfo prints for ``mail``, and its patch."""
    output = git.query(
        ["mailinfo", "--no-scissors", *options, "message", "patch"],
        env=git.environment(git.NO_REPOSITORY),
        cwd=folder,
        stdin=mail,
    )
    lines = (line.partition(": ") for line in output.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}, (folder / "patch").read_bytes()


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
