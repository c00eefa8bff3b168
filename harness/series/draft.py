"""A posting as its mails have it: one revision of a series, whole or in part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from harness.series.mail import Mail

_CHANGE_ID = re.compile(rb"^change-id: (\S{8,200})\s*$", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Revision:
    """The revision of a posting; RFCs are counted by themselves, and come before the others."""

    final: bool
    number: int

    def __str__(self) -> str:
        return f"{'' if self.final else 'RFC '}{self.number}"


@dataclass(frozen=True, eq=False)
class Draft:
    """The mails of one posting, in the order of the file.

    ``patches`` may lack some of ``total``, or hold one twice.  Without numbers, ``total``
    is None.
    """

    revision: Revision
    total: int | None
    patches: tuple[Mail, ...]
    covers: tuple[Mail, ...] = ()

    @cached_property
    def mails(self) -> tuple[Mail, ...]:
        """All mails, the cover letter first."""
        return (*self.covers, *self.patches)

    @cached_property
    def numbers(self) -> list[int]:
        """The numbers of the patches."""
        return [mail.tag.number or 0 for mail in self.patches]

    @cached_property
    def missing(self) -> list[int]:
        """The numbers that no patch has."""
        return [] if self.total is None else sorted(set(range(1, self.total + 1)) - set(self.numbers))

    @cached_property
    def ids(self) -> frozenset[str]:
        """The Message-IDs."""
        return frozenset(mail.message_id for mail in self.mails if mail.message_id)

    @cached_property
    def before(self) -> frozenset[str]:
        """The Message-IDs of all mails that a mail of this posting refers to."""
        return frozenset(one for mail in self.mails for one in mail.related)

    @cached_property
    def titles(self) -> frozenset[str]:
        """The titles, for comparison."""
        return frozenset(title_of(mail) for mail in self.mails)

    @cached_property
    def title(self) -> str:
        """The title of the cover letter or the first patch, for comparison."""
        return title_of((self.covers or self.ordered())[0])

    @cached_property
    def change_ids(self) -> frozenset[bytes]:
        """The names that b4 gives to all revisions of a series."""
        return frozenset(one for mail in self.mails for one in _CHANGE_ID.findall(mail.text))

    def ordered(self) -> list[Mail]:
        """Return the patches in the order of their numbers, or of the file without numbers."""
        if self.total is None:
            return list(self.patches)
        return sorted(self.patches, key=lambda mail: mail.tag.number or 0)

    @property
    def shown(self) -> str:
        """The name of the posting in a message."""
        return (self.covers or self.ordered())[0].shown


def title_of(mail: Mail) -> str:
    """Return the title of a mail, for comparison."""
    return " ".join(mail.tag.title.split()).casefold()


def revision_of(mail: Mail) -> Revision:
    """Return the revision that the subject of a mail has."""
    return Revision(not mail.tag.rfc, mail.tag.revision)
