"""The mails of a series as facts of the run: what a reply to one of them, or their digest, needs."""

from __future__ import annotations

import email.utils
import hashlib
import re

from harness.journal.facts import MailFacts
from harness.series import identity
from harness.series.mail import Mail, decoded
from harness.series.series import Series

MAX_RECIPIENTS = 60  # of one header; a hostile mail may name any number
MAX_NAME = 100  # characters
MAX_ADDRESS = 254

_ADDRESS = re.compile(r"[!#-'*+./0-9=?A-Z^-~-]+@[A-Za-z0-9.-]+")
_UNSAFE = re.compile(r'[<>"(),:;@\[\]\\\s]+')  # in a name, where a mail program would have to quote


def mail_facts(series: Series) -> list[MailFacts]:
    """Return the facts of the cover letter, if there is one, and of the patches in their order."""
    mails = [] if series.cover is None else [_facts(0, series.cover, "")]
    ids = identity.patch_ids(tuple((patch.name, patch.content) for patch in series.patches))
    return mails + [
        _facts(number, Mail(patch.content), ids[number - 1] if ids else "")
        for number, patch in enumerate(series.patches, 1)
    ]


def _facts(number: int, mail: Mail, patch_id: str) -> MailFacts:
    # A list that puts its own address into From leaves the sender's in Reply-To.
    sender = _addresses(mail, "Reply-To" if mail.is_from_list else "From")
    return MailFacts(
        number=number,
        subject=mail.subject,
        message_id=mail.message_id,
        sender=next(iter(sender), ""),
        recipients=[address for name in ("To", "Cc") for address in _addresses(mail, name)],
        sha256=hashlib.sha256(mail.content).hexdigest(),
        patch_id=patch_id,
    )


def _addresses(mail: Mail, header: str) -> list[str]:
    """Return the addresses of a header as ``NAME <ADDRESS>``, decoded; malformed ones are left out."""
    found = []
    # Names are decoded after the header is taken apart: a decoded name may hold commas and brackets.
    for name, address in email.utils.getaddresses([mail.header(header)])[:MAX_RECIPIENTS]:
        if len(address) <= MAX_ADDRESS and _ADDRESS.fullmatch(address):
            shown = _UNSAFE.sub(" ", decoded(name)).strip()[:MAX_NAME]
            found.append(f"{shown} <{address}>" if shown else address)
    return found
