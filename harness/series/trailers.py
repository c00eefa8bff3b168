"""Read what the mails of a posting state about themselves: base commit, prerequisites, earlier revisions.

git format-patch --base writes ``base-commit:`` and ``prerequisite-patch-id:`` behind
the cover letter, or behind the diff of the first patch.  b4 adds ``change-id:`` and
``prerequisite-message-id:``, and ``Link to v1:`` in the list of changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.lib.text import printable
from harness.series.mail import Mail
from harness.series.posting import Posting

MAX_VALUES = 50  # of one kind; a hostile mail may have any number
MAX_SHOWN = 100  # characters of a refused value

_TRAILER = re.compile(
    r"^(base-commit|prerequisite-patch-id|prerequisite-message-id|change-id):[ \t]*+(\S[^\n]*+)",
    re.MULTILINE,
)
_HEX = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MESSAGE_ID = re.compile(r"<?([!-;=?-~]{1,200}@[!-;=?-~]{1,200}?)>?")
_CHANGE_ID = re.compile(r"[A-Za-z0-9._-]{8,200}")
# Possessive, so that a mail full of blanks takes no longer than another.
# "Link to v1: URL" of b4, "v1: URL" and "v1 -> v2: URL" by hand, and a URL on the line below.
_PREVIOUS = re.compile(
    r"^[ \t]*+(?:[-*+][ \t]*+|\[\d{1,3}\][ \t]*+)?"
    r"(?:link to (?:the )?|changes (?:in|since|from) )?"
    r"(?:(?:patch|rfc|previous|last|earlier)[ \t]*+(?:patch|version|revision|series|posting)?[ \t]*+)?"
    r"(?:v\d{1,3})?(?:[ \t]*+(?:->|=>|to)[ \t]*+v\d{1,3})?[ \t]*+:[ \t]*+\n?[ \t]*+"
    r"<?(https?://[^\s<>]{4,300})>?[ \t.,]*+$",
    re.MULTILINE | re.IGNORECASE,
)
_NAMED = re.compile(r"v\d|rfc|previous|last|earlier|link to", re.IGNORECASE)


def posting(cover: Mail | None, patches: Sequence[Mail]) -> Posting:
    """Return what the cover letter and the first patch state; notes name a value that is refused."""
    first = cover or patches[0]
    places = [_place(mail) for mail in dict.fromkeys((cover, *patches[:1])) if mail is not None]
    notes: list[str] = []
    bases = _values(places, "base-commit", _HEX, notes)
    if len(bases) > 1:
        notes.append(f"The mails name several base commits, {', '.join(bases[:3])}; none is used.")
    return Posting(
        message_id=first.message_id,
        revision=patches[0].tag.revision,
        rfc=patches[0].tag.rfc,
        base_commit=bases[0] if len(bases) == 1 else "",
        prerequisites=_values(places, "prerequisite-patch-id", _HEX, notes),
        prerequisite_messages=_values(places, "prerequisite-message-id", _MESSAGE_ID, notes),
        change_id=next(iter(_values(places, "change-id", _CHANGE_ID, notes)), ""),
        previous=_previous(first, places, is_root=cover is not None or len(patches) == 1),
        notes=tuple(notes),
    )


def _place(mail: Mail) -> str:
    """Return the text of a mail in which facts may stand: not its commit message, and not its diff."""
    text = mail.text
    if mail.has_diff:
        message, _, rest = text.partition(b"\n---\n")
        # Below the line "---", before the diff, stands what is not to be committed.
        comment = re.split(rb"^(?:diff --git |--- )", rest, maxsplit=1, flags=re.MULTILINE)[0]
        text = (comment if message != text else b"") + b"\n" + mail.after_diff
    return text.decode(errors="replace")


def _values(places: Iterable[str], name: str, form: re.Pattern[str], notes: list[str]) -> tuple[str, ...]:
    """Return the values of a trailer, each once; a value of another form is refused with a note."""
    found: dict[str, None] = {}
    for place in places:
        for trailer in _TRAILER.finditer(place):
            if trailer[1] != name or len(found) >= MAX_VALUES:
                continue
            stated = trailer[2].rstrip()
            value = form.fullmatch(stated)
            if value is not None:
                found[value[value.re.groups]] = None
            elif len(notes) < MAX_VALUES:
                notes.append(f"The {name} {printable(stated, MAX_SHOWN)!r} is malformed and is not used.")
    return tuple(found)


def _previous(first: Mail, places: Iterable[str], *, is_root: bool) -> tuple[str, ...]:
    """Return the links to earlier revisions, and the mail that ``first`` answers if it begins the posting."""
    links = [
        printable(link[1], 300)
        for place in places
        for link in _PREVIOUS.finditer(place)
        if _NAMED.search(link[0].partition("http")[0])
    ]
    # Without a cover letter at hand, several patches may answer just that.
    answered = first.parent if is_root else ""
    return tuple(dict.fromkeys(filter(None, (*links, answered))))[:MAX_VALUES]
