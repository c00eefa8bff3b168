"""Read one mail of a mailing list: its headers, its text, and whether it holds a diff."""

from __future__ import annotations

import email.errors
import email.header
import email.message
import email.parser
import email.utils
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from harness.lib.text import printable
from harness.series import tag
from harness.series.tag import Tag

MAX_HEAD = 256 << 10  # bytes of the headers of one mail that are read
MAX_PARTS = 50  # of a MIME mail; more are no patch
MAX_FIELD = 1000  # characters of a header that is parsed by its grammar, which is slow or deep

_ID = re.compile(r"<\s*([^<>\s]{1,250})\s*>")
_ENCODED = re.compile(r"=\?[^?\s]{1,60}\?[qQbB]\?[^?]*\?=(?:\s*=\?[^?\s]{1,60}\?[qQbB]\?[^?]*\?=)*")
# A change that git apply would make: a git header with what follows it, or a traditional one.
_DIFF = re.compile(
    rb"^diff --git \S[^\n]*\n"
    rb"(?:index |(?:old|new|new file|deleted file) mode |(?:dis)?similarity index |rename "
    rb"|copy |--- |GIT binary )"
    rb"|^--- [^\n]+\n\+\+\+ [^\n]+\n@@ -\d",
    re.MULTILINE,
)
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_HUNK = re.compile(rb"@@ -\d{1,9}(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))? @@")
_OF_A_DIFF = (
    b"+++ ", b"old mode ", b"new mode ", b"new file mode ", b"deleted file mode ",
    b"rename ", b"copy ",
)  # fmt: skip
# git format-patch writes this date, whatever the date of the commit.
_COMMIT = re.compile(rb"From [0-9a-f]{40,64} Mon Sep 17 00:00:00 2001\s*\n")
_INNER_COMMIT = re.compile(rb"^" + _COMMIT.pattern, re.MULTILINE)


@dataclass(frozen=True)
class Mail:
    """One mail as it stands in its file; ``name`` is the name of a file of its own, or empty."""

    content: bytes
    name: str = ""

    @cached_property
    def _headers(self) -> email.message.Message:
        return email.parser.BytesHeaderParser().parsebytes(_split(self.content)[0])

    def header(self, name: str) -> str:
        """Return a header on one line, not decoded; bytes that are not UTF-8 are Latin-1, as for git."""
        # Message.get() would replace bytes above 127, and raw_items() does not.
        raw = next((value for key, value in self._headers.raw_items() if key.lower() == name.lower()), "")
        value = str(raw).encode("utf-8", "surrogateescape")
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        return " ".join(text.split())

    @cached_property
    def subject(self) -> str:
        """The subject on one line, decoded, safe for a terminal; empty if there is none."""
        return decoded(self.header("Subject"))

    @cached_property
    def tag(self) -> Tag:
        """The tags of the subject."""
        return tag.parse(self.subject)

    @cached_property
    def message_id(self) -> str:
        """The Message-ID without angle brackets; empty if there is none."""
        return next(iter(_ids(self.header("Message-ID"))), "")

    @cached_property
    def parent(self) -> str:
        """The Message-ID of the mail that this one answers; empty if it answers none."""
        before = _ids(self.header("In-Reply-To"))[:1] or self._references[-1:]
        return before[0] if before else ""

    @cached_property
    def related(self) -> tuple[str, ...]:
        """The Message-IDs of the mails before this one in its thread."""
        return tuple(dict.fromkeys(filter(None, (self.parent, *self._references))))

    @cached_property
    def _references(self) -> list[str]:
        return _ids(self.header("References"))

    @cached_property
    def sender(self) -> str:
        """The address of the sender in lower case, for comparison; the name if a list has replaced it."""
        whole = self.header("From")
        if self.is_from_list:
            return whole.partition(" via ")[0].strip(' "').lower()
        try:
            address = email.utils.parseaddr(whole[:MAX_FIELD])[1]
        except RecursionError:  # comments in comments
            address = ""
        return (address or whole).strip().lower()

    @cached_property
    def is_flowed(self) -> bool:
        """Whether the mail says that its lines may be wrapped, which damages a diff."""
        return "format=flowed" in self.header("Content-Type").lower().replace(" ", "").replace('"', "")

    @cached_property
    def is_from_list(self) -> bool:
        """Whether a list has put its own address in place of the sender's."""
        return " via " in self.header("From")

    @cached_property
    def attached(self) -> int:
        """The number of mails of git format-patch in the text, as attachments of one mail."""
        return len(_INNER_COMMIT.findall(self.text))

    @cached_property
    def is_commit(self) -> bool:
        """Whether git wrote the mail from a commit, and nobody has sent it."""
        return _COMMIT.match(self.content) is not None

    @cached_property
    def text(self) -> bytes:
        """The text of the mail as git am reads it: decoded, all parts but HTML, each line ending with LF."""
        return b"\n".join(self._parts()).replace(b"\r\n", b"\n")

    @cached_property
    def has_diff(self) -> bool:
        """Whether the text holds a diff that git would apply; a quoted one is none."""
        return holds_diff(self.text)

    def _parts(self) -> Iterator[bytes]:
        """Yield the decoded text parts."""
        encoding = self.header("Content-Transfer-Encoding").lower()
        multipart = self.header("Content-Type").lower().startswith(("multipart/", "message/"))
        if not multipart and encoding not in ("base64", "quoted-printable"):
            yield _split(self.content)[1]
            return
        if len(self.header("Content-Type")) > MAX_FIELD:
            return
        try:
            between = b"\n--" + (self._headers.get_boundary() or "").encode(errors="surrogateescape")
        except TypeError:
            return  # a parameter that is given in two ways, which Python's email cannot read
        if self.content.lower().count(b"boundary=") > MAX_PARTS or (
            len(between) > 3 and self.content.count(between) > MAX_PARTS
        ):
            return
        try:
            whole = email.parser.BytesParser().parsebytes(self.content[_start(self.content) :])
            for part in whole.walk():
                payload = None if part.is_multipart() else part.get_payload(decode=True)
                if isinstance(payload, bytes) and part.get_content_type() != "text/html":
                    yield payload
        except (RecursionError, ValueError, LookupError, TypeError):
            return  # a part that cannot be decoded holds no diff

    @cached_property
    def changes(self) -> bytes:
        """The lines of the diff alone, to compare two mails: without text and a list's footer."""
        return b"\n".join(line for _, line in _diff_lines(self.text))

    @cached_property
    def after_diff(self) -> bytes:
        """The text after the last line of the diff; the whole text without a diff."""
        lines = self.text.split(b"\n")
        last = max((at for at, _ in _diff_lines(self.text)), default=-1)
        return b"\n".join(lines[last + 1 :])

    @property
    def shown(self) -> str:
        """The name of the mail in a message: its subject, file and Message-ID."""
        parts = [repr(self.subject) if self.subject else "a mail without a subject"]
        if self.name:
            parts.append(f"in {printable(self.name)}")
        if self.message_id:
            parts.append(f"<{printable(self.message_id)}>")
        return " ".join(parts)


def subject(content: bytes) -> str:
    """Return the subject on one line, decoded, safe for a terminal; empty if there is none."""
    return Mail(content).subject


def holds_diff(text: bytes) -> bool:
    """Return whether a decoded text, with LF line ends, holds a diff that git would apply."""
    return _DIFF.search(text) is not None


def message(content: bytes) -> str:
    """Return the message of a patch, decoded: the text before the line ``---``, without blanks around it."""
    text = Mail(content).text.decode(errors="replace")
    before = re.split(r"^---\s*$", text, maxsplit=1, flags=re.MULTILINE)[0]
    return "\n".join(printable(line, 400) for line in before.strip().split("\n"))


def with_date(content: bytes) -> bytes:
    """Return a mail with a Date header: 1970 if it has none, where git am would take the current time."""
    if Mail(content).header("Date"):
        return content
    start = _start(content)
    return content[:start] + b"Date: Thu, 1 Jan 1970 00:00:00 +0000\n" + content[start:]


def _start(content: bytes) -> int:
    """Return where the headers begin: behind the line ``From ``, if there is one."""
    return content.find(b"\n") + 1 if content.startswith(b"From ") else 0


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Return the header lines and the body of a mail, neither decoded."""
    start = _start(content)
    end = _BLANK_LINE.search(content, start, start + MAX_HEAD)
    if end is None:
        return content[start : start + MAX_HEAD], b""
    return content[start : end.start() + 1], content[end.end() :]


def _ids(header: str) -> list[str]:
    found = _ID.findall(header)
    if not found and header and " " not in header:
        found = [header[:250]]
    return [printable(one, 250) for one in found]


def decoded(line: str) -> str:
    """Return a header with its encoded words decoded; a word that cannot be decoded stays as it is."""

    def decode(match: re.Match[str]) -> str:
        try:
            parts = email.header.decode_header(match[0])
            return "".join(
                one if isinstance(one, str) else one.decode(charset or "ascii") for one, charset in parts
            )
        except (email.errors.HeaderParseError, LookupError, ValueError):
            return match[0]

    return printable(" ".join(_ENCODED.sub(decode, line).split()), 400)


def _diff_lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of each line of the diffs; the counts of a hunk say where it ends."""
    lines = text.split(b"\n")
    old = new = 0
    inside = False
    for at, line in enumerate(lines):
        kind = line[:1] or b" "
        if (old > 0 or new > 0) and kind in b" +-\\":
            old -= kind in b" -"
            new -= kind in b" +"
            yield at, line
            continue
        old = new = 0
        hunk = _HUNK.match(line) if inside else None
        if hunk is not None:
            old, new = (int(count) if count is not None else 1 for count in hunk.groups())
            yield at, line[: hunk.end()]
        elif line.startswith(b"--- "):
            inside = at + 1 < len(lines) and lines[at + 1].startswith(b"+++ ")
            if inside:
                yield at, line
        elif line.startswith(b"diff --git ") or (inside and line.startswith(_OF_A_DIFF)):
            inside = True
            yield at, line
