"""The identity of a series: the patch-ids of its patches, however their mails were encoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from harness.lib import files, git
from harness.lib.errors import ApplyError
from harness.series import mailinfo

_DIFF = re.compile(rb"^(?:diff --git |--- .*\n\+\+\+ )", re.MULTILINE)


def of(mails: Sequence[tuple[str, bytes]]) -> str:
    """Return the identity, 64 hex digits, of the patches ``mails``, pairs of name and content, in order.

    It is a digest over patch_ids().  Without patches, or if git cannot decode one, the
    identity is empty.
    """
    ids = patch_ids(tuple(mails))
    return files.digest(*ids) if ids else ""


@lru_cache(maxsize=16)
def patch_ids(mails: Sequence[tuple[str, bytes]]) -> tuple[str, ...]:
    """Return the output of ``git patch-id --stable`` for the decoded diff of each mail, in order.

    Neither the encoding of a mail, nor its headers and message, nor the footer of a list
    affects it, nor line numbers and blanks in the diff.  A mail with several diffs has their
    ids one after the other; one whose diff git gives no id has a digest of the diff.  If git cannot
    decode a mail, there are no ids at all.
    """
    if not mails:
        return ()
    mailinfo.decode_ahead(content for _, content in mails)
    try:
        diffs = [_diff(mailinfo.decode(name, content).patch) for name, content in mails]
    except ApplyError:
        return ()
    ids: dict[str, list[str]] = {}
    for line in git.query(
        ["patch-id", "--stable"],
        env=git.environment(git.NO_REPOSITORY),
        stdin=b"".join(b"From %040x\n%b\n" % (number, diff) for number, diff in enumerate(diffs, 1)),
    ).splitlines():
        patch_id, _, label = line.decode().partition(" ")
        ids.setdefault(label, []).append(patch_id)
    # git gives no id to a diff without its own header lines.
    return tuple(
        "".join(ids.get(f"{number:040x}", ())) or files.digest(diff) for number, diff in enumerate(diffs, 1)
    )


def _diff(patch: bytes) -> bytes:
    """Return ``patch`` without the text before its first diff, which patch-id could misread."""
    found = _DIFF.search(patch)
    return patch[found.start() :] if found else patch
