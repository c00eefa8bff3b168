"""The facts that the mails of a series state about themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Posting:
    """One posting of a series, as its cover letter or first patch describes it.

    ``message_id`` is of the cover letter, or else of the first patch, without angle
    brackets.  ``revision`` is 1 for a posting without a number.  ``base_commit`` and
    ``prerequisites`` (patch-ids) are hexadecimal; ``prerequisite_messages`` are
    message-ids, and ``change_id`` is b4's name of all revisions.  ``previous`` has message-ids of, or
    links to, earlier revisions.  ``manifest`` is the path of the manifest of a public
    revision that was found by the message-id.  ``notes`` are sentences for the user:
    which revision was chosen, and which mails were left out.  Texts are empty when the
    mails do not say.
    """

    message_id: str = ""
    revision: int = 1
    rfc: bool = False
    base_commit: str = ""
    prerequisites: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()
    manifest: str = ""
    notes: tuple[str, ...] = ()
    prerequisite_messages: tuple[str, ...] = ()
    change_id: str = ""

    @property
    def name(self) -> str:
        """The name of the revision, as ``--revision`` takes it: 4, or RFC2."""
        return f"{'RFC' if self.rfc else ''}{self.revision}"

    def sentences(self) -> tuple[str, ...]:
        """Return what a user is told about the posting; nothing for patches that were never posted."""
        told = []
        if self.message_id:
            told.append(f"The mails are revision {self.name}, Message-ID <{self.message_id}>.")
        if self.base_commit:
            told.append(f"They are made for the commit {self.base_commit}.")
        needed = len(self.prerequisites) or len(self.prerequisite_messages)
        if needed:
            told.append(
                f"They say that they need {needed} other patch{'es' if needed > 1 else ''} first, "
                "which the harness does not apply."
            )
        if self.previous:
            told.append(f"Earlier revisions: {', '.join(self.previous)}.")
        return (*told, *self.notes)
