"""A mail to reply with: to the cover letter of a series, or to the patch that brings the fault.

The mail is never sent and signs nothing.  It has the headers of a reply, in a form that ``git send-email``
and ``mutt -H`` take; the sender is whoever sends it.  The text is in ``mail_text``.
"""

from __future__ import annotations

import email.charset
import email.header
import email.utils
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.journal.facts import MailFacts, read_mails
from harness.lib.errors import UsageError
from harness.lib.text import one_line, visible
from harness.report import mail_text, patches, prefixes
from harness.report.causes import Cause, causes
from harness.report.host_paths import read_shortened
from harness.report.prefixes import Prefixes

MAX_HEADER = 400  # characters of a subject
_MESSAGE_ID = re.compile(r"[!-;=?-~]{1,200}@[!-;=?-~]{1,200}")
_ADDRESS = re.compile(r"[!-;=?-~]+@[!-;=?-~]+")


def render(directory: Path, patch: int | None = None) -> bytes:
    """Return the mail, headers and text, in UTF-8.

    It answers patch number ``patch``, from 1.  With None it answers the patch that brings all
    the faults, if ``--bisect`` or ``prefixes`` has found it, else the cover letter or the first patch.
    Patches that were never posted cannot be answered: the mail begins a thread of its own.
    Raises UsageError for a patch that the series does not have, HarnessError if
    ``directory`` holds no run.
    """
    record, facts = read_shortened(directory)
    mails = {one["number"]: one for one in read_mails(facts)}
    if patch is not None and patch not in mails.keys() - {0}:
        raise UsageError(f"The run knows no patch {patch}: it has {max(mails, default=0)} patches (--patch).")
    found = causes(record)
    series = prefixes.of_run(directory, str(facts.get("identity", "")))
    to = patch if patch is not None else _broken_by(found, series)
    posted = {number: one for number, one in mails.items() if _id(one)}
    lines = list(_headers(facts, posted.get(to) or posted.get(0) or posted.get(1), posted.get(0)))
    text = mail_text.text(directory, record, facts, series)
    return ("\n".join(lines) + "\n\n" + text).encode()


def _broken_by(found: Sequence[Cause], series: Prefixes | None) -> int:
    """Return the one patch that brings all new faults; 0 if there is no such patch."""
    numbers = {patches.number_of(cause.best, series) for cause in found if not cause.inherited}
    return numbers.pop() if len(numbers) == 1 else 0


def _headers(facts: Mapping[str, object], target: MailFacts | None, cover: MailFacts | None) -> Iterable[str]:
    """Yield the header lines of a reply to ``target``, which has a Message-ID, or of a new mail if None."""
    title = str(facts.get("title") or "A test of a kernel")
    subject = _plain(title if target is None else target["subject"])[:MAX_HEADER]
    if target is not None and not subject.lower().startswith("re:"):
        subject = f"Re: {subject}"
    charset = "us-ascii" if subject.isascii() else _utf8()
    header = email.header.Header(subject, charset, header_name="Subject")
    yield f"Subject: {header.encode()}"
    if target is not None:
        sender = _address(target["sender"])
        others = [_address(one) for one in target["recipients"]]
        yield from _recipients("To", [sender])
        yield from _recipients("Cc", [one for one in others if one and one[1] != (sender or ("", ""))[1]])
        ids = [_id(one) for one in (cover, target) if one is not None]
        yield f"In-Reply-To: <{_id(target)}>"
        yield "References: " + "\n ".join(f"<{one}>" for one in dict.fromkeys(ids))
    yield "MIME-Version: 1.0"
    yield 'Content-Type: text/plain; charset="utf-8"'
    yield "Content-Transfer-Encoding: 8bit"


def _recipients(name: str, found: Sequence[tuple[str, str] | None]) -> Iterable[str]:
    """Yield a header of addresses, one on each line; nothing without any."""
    known = dict.fromkeys(email.utils.formataddr(one, _utf8()) for one in found if one)
    if known:
        yield f"{name}: " + ",\n ".join(known)


def _address(text: str) -> tuple[str, str] | None:
    """Return the name and the address of ``Name <address>``; None if there is no usable address."""
    name, address = email.utils.parseaddr(_plain(text))
    return (name, address) if _ADDRESS.fullmatch(address) else None


def _id(mail: MailFacts) -> str:
    """Return the Message-ID of a mail, empty if it cannot stand in a header."""
    return mail["message_id"] if _MESSAGE_ID.fullmatch(mail["message_id"]) else ""


def _plain(text: str) -> str:
    return one_line(visible(text))


def _utf8() -> email.charset.Charset:
    """Return UTF-8 in encoded words, whatever another module has registered for it."""
    charset = email.charset.Charset("utf-8")
    charset.header_encoding = email.charset.QP
    return charset
