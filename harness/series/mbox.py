"""Read patch mails: subjects, messages, numbers, mbox files."""

from __future__ import annotations

import contextlib
import email.errors
import email.header
import email.parser
import itertools
import re
from collections.abc import Sequence

from harness.lib.text import printable

# A line that git mailsplit, too, takes for the start of a mail; "From here on" in a text is not one.
_FROM_LINE = re.compile(rb"^From \S{1,200} .{0,80}?\d:\d\d(:\d\d)? .{0,20}?\d{4}", re.MULTILINE)
_FIRST_LINE = re.compile(rb"From \S+ |[A-Za-z][A-Za-z0-9-]*:")
_TAG = re.compile(r"\s*\[([^\]]*\bPATCH\b[^\]]*)\]", re.IGNORECASE)
_NUMBER = re.compile(r"\b(\d{1,4})/(\d{1,4})\b")
_REVISION = re.compile(r"\bv(\d+)\b", re.IGNORECASE)


class NotASeriesError(Exception):
    """The reason why an mbox file does not hold one whole series."""


def series_of(mbox: bytes) -> tuple[str, list[bytes]]:
    """Return the title and the patch mails of an mbox file, in the order of their [PATCH n/m].

    Cover letter and replies are left out.  Raises NotASeriesError when a patch
    is missing or present twice, or when mails of several revisions are mixed.
    """
    if not _FIRST_LINE.match(mbox):
        raise NotASeriesError("it does not begin with a mail")
    starts = [found.start() for found in _FROM_LINE.finditer(mbox)]
    bounds = [0, *(start for start in starts if start > 0), len(mbox)]
    mails = [mbox[begin:end] for begin, end in itertools.pairwise(bounds)]
    # A reply says "Re: [PATCH ...", so the tag does not stand first.
    posted = [(line, one) for one in mails if _TAG.match(line := subject(one)) or len(mails) == 1]
    subjects = [line for line, _ in posted]
    patches = [posted[at][1] for at in _order(subjects)]
    if not patches:
        raise NotASeriesError("it holds no patch, that is, no mail whose subject begins with [PATCH]")
    title = next((line for line in subjects if is_cover(line)), subject(patches[0]))
    return without_tag(title), patches


def subject(mail: bytes) -> str:
    """Return the subject on one line, decoded, safe for a terminal; empty if there is none."""
    line = " ".join(_header(mail, "Subject").split())
    with contextlib.suppress(email.errors.HeaderParseError, LookupError, ValueError):
        # A subject that cannot be decoded stays encoded.
        line = str(email.header.make_header(email.header.decode_header(line)))
    return printable(" ".join(line.split()), 400)


def message(mail: bytes) -> str:
    """Return the message of a patch, decoded: the text before the line ``---``, without blanks around it."""
    start = mail.partition(b"\n")[2] if mail.startswith(b"From ") else mail
    parsed = email.parser.BytesParser().parsebytes(start)
    content = parsed.get_payload(decode=True)
    text = content.decode(errors="replace") if isinstance(content, bytes) else ""
    before = re.split(r"^---\s*$", text.replace("\r\n", "\n"), maxsplit=1, flags=re.MULTILINE)[0]
    return "\n".join(printable(line, 400) for line in before.strip().split("\n"))


def with_date(mail: bytes) -> bytes:
    """Return ``mail`` with a Date header: 1970 if it has none, where git am would take the current time."""
    if _header(mail, "Date").strip():
        return mail
    first, _, rest = mail.partition(b"\n") if mail.startswith(b"From ") else (b"", b"", mail)
    return (first + b"\n" if first else b"") + b"Date: Thu, 1 Jan 1970 00:00:00 +0000\n" + rest


def without_tag(line: str) -> str:
    """Return a subject without its [PATCH ...]."""
    return _TAG.sub("", line, count=1).strip() or line


def is_cover(line: str) -> bool:
    """Return whether a subject has the number [PATCH 0/n]."""
    return _position(line)[:1] == (0,)


def _order(subjects: Sequence[str]) -> list[int]:
    """Return the indices of the patches in the order of their numbers, without the cover letter."""
    revisions = {match[1] if (match := _REVISION.search(_tag(line))) else "1" for line in subjects}
    if len(revisions) > 1:
        raise NotASeriesError(f"it holds the revisions {', '.join(sorted(revisions))}; keep one")
    positions = [_position(line) for line in subjects]
    if not any(positions):
        return list(range(len(subjects)))  # git format-patch --no-numbered: the order of the file
    totals = {position[1] for position in positions if position}
    if len(totals) > 1 or not all(positions):
        raise NotASeriesError("its mails are not numbered as one series, [PATCH 1/n] to [PATCH n/n]")
    (total,) = totals
    numbers = [position[0] for position in positions]
    twice = [number for number in sorted(set(numbers)) if numbers.count(number) > 1]
    if twice:
        raise NotASeriesError(f"it holds patch {twice[0]}/{total} twice")
    missing = sorted(set(range(1, total + 1)) - set(numbers))
    if missing:
        raise NotASeriesError(f"it lacks patch {', '.join(map(str, missing[:20]))} of {total}")
    return [numbers.index(number) for number in range(1, total + 1)]


def _header(mail: bytes, name: str) -> str:
    """Return a header neither decoded nor unfolded; empty if there is none."""
    start = mail.partition(b"\n")[2] if mail.startswith(b"From ") else mail
    head = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    return str(email.parser.BytesHeaderParser().parsebytes(head).get(name, ""))


def _tag(line: str) -> str:
    found = _TAG.match(line)
    return found[1] if found else ""


def _position(line: str) -> tuple[int, ...]:
    """Return (n, m) of [PATCH n/m]; empty without a number."""
    found = _NUMBER.search(_tag(line))
    return (int(found[1]), int(found[2])) if found else ()
