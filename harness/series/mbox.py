"""Split an mbox file into its mails."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.lib.text import printable
from harness.series import tag
from harness.series.mail import Mail, holds_diff, message, subject, with_date

__all__ = ["Mbox", "NotASeriesError", "is_cover", "message", "read", "subject", "with_date", "without_tag"]

_FROM = re.compile(rb"^From [^\n]*", re.MULTILINE)
# The headers of a mail; "Index: x.c" before a diff is none.
_HEADER = re.compile(
    rb"From \S|(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*){0,1000}?(?:From|Subject):", re.I
)
# Headers in the text of a mail.
_INNER_HEADERS = re.compile(rb"^((?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*){3,200})", re.MULTILINE)
_YEAR = re.compile(rb"\s*\+?(\d{1,9})")
# The line of programs that put a time zone before the year, which git does not know.
_OTHER_START = re.compile(rb"From \S{1,200} .{0,80}\d:\d\d(?::\d\d)? .{0,20}\d{4}\s*")
_BOM = b"\xef\xbb\xbf"
# The begin of files that people take for an mbox file.
_NO_MAIL = {
    rb"\xff\xfe|\xfe\xff": "it is text in UTF-16, as PowerShell writes it. Save it as UTF-8",
    rb"(?i)<!doctype html|<html|<\?xml": "it is a web page. Take the link to the mbox file on that page",
}


class NotASeriesError(Exception):
    """The reason why mails are not one whole series."""


@dataclass(frozen=True)
class Mbox:
    """The mails of an mbox file, unchanged, and the number of lines ``before`` the first one."""

    mails: tuple[Mail, ...]
    before: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user is told about the file."""
        return (f"Left out: {self.before} lines before the first mail.",) if self.before else ()


def read(content: bytes, name: str = "") -> Mbox:
    """Split an mbox file where git mailsplit does; a single mail may lack the line ``From ``.

    A file that begins with another program's line ``From `` is split at such lines.
    ``name`` becomes the name of each mail.  Raises NotASeriesError if there is no mail.
    """
    content = content.removeprefix(_BOM).lstrip(b"\r\n\t ")
    if not content:
        raise NotASeriesError("it is empty")
    for begin, what in _NO_MAIL.items():
        if re.match(begin, content):
            raise NotASeriesError(what)
    starts = list(_starts(content))
    before = 0
    if not _HEADER.match(content):
        if not starts:
            if holds_diff(content.replace(b"\r\n", b"\n")):
                raise NotASeriesError(
                    "it is a diff and no mail: nothing says who wrote it and why. `git format-patch` makes "
                    "mails of commits"
                )
            raise NotASeriesError("it does not begin with a mail")
        if holds_diff(content[: starts[0]].replace(b"\r\n", b"\n")):
            raise NotASeriesError(
                "before its first mail stands a diff, which nobody signed. Remove one of both"
            )
        before = content.count(b"\n", 0, starts[0])
        content = content[starts[0] :]
        starts = list(_starts(content))
    bounds = [0, *(start for start in starts if start > 0), len(content)]
    mails = tuple(Mail(content[a:b], name) for a, b in itertools.pairwise(bounds))
    _check_begins(mails)
    return Mbox(mails, before)


def _check_begins(mails: Sequence[Mail]) -> None:
    """Raise NotASeriesError if a mail was split by its text, or if mails were not split from each other."""
    for previous, mail in itertools.pairwise(mails):
        line, _, rest = mail.content.partition(b"\n")
        if not _HEADER.match(rest) and mail.has_diff:
            raise NotASeriesError(
                f"its line {printable(line.decode(errors='replace'), 80)!r} begins a mail for git, and no "
                f"headers follow. If it is text of the mail {previous.shown}, write >From"
            )
    if len(mails) > 1 or mails[0].header("Content-Type").lower().startswith(("multipart/", "message/")):
        return
    body = mails[0].content.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    for found in _INNER_HEADERS.finditer(body):
        inner = Mail(found[1])
        if inner.message_id and inner.header("From") and inner.subject:
            raise NotASeriesError(
                f"it holds several mails, and no line From begins the mail {inner.shown}. Save them in a "
                "folder, one file each, and name that"
            )


def without_tag(line: str) -> str:
    """Return a subject without its [PATCH ...] and without the names of lists before it."""
    return tag.parse(line).title


def is_cover(line: str) -> bool:
    """Return whether a subject has the number [PATCH 0/n]."""
    parsed = tag.parse(line)
    return parsed.number == 0 and not parsed.answer


def _starts(content: bytes) -> Iterator[int]:
    first = content[: content.find(b"\n") + 1].rstrip()
    other = _OTHER_START.fullmatch(first) is not None and not _is_start(first)
    is_start = (lambda line: _OTHER_START.fullmatch(line) is not None) if other else _is_start
    return (line.start() for line in _FROM.finditer(content) if is_start(line[0]))


def _is_start(line: bytes) -> bool:
    """Return whether a line "From ..." begins a mail, by the rule of git: a time, then a year after 1990."""
    line = line.rstrip(b"\r")
    colon = line.rfind(b":", 5, len(line) - 1)
    digits = (line[colon + at : colon + at + 1] for at in (-4, -2, -1, 1, 2))
    if len(line) < 19 or colon < 9 or not all(digit.isdigit() for digit in digits):
        return False
    year = _YEAR.match(line, colon + 3)
    return year is not None and int(year[1]) > 90
