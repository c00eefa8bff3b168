"""Sort out the mails that are no patches: copies, answers, additions to a series; group the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from harness.series.draft import Draft, revision_of, title_of
from harness.series.mail import Mail
from harness.series.threads import Threads, numbered, unnumbered

MAX_NOTES = 8  # that name a mail; the rest is counted


class Notes:
    """What a user is told: sentences of their own, then the mails that were left out."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._left: dict[str, None] = {}

    def say(self, sentence: str) -> None:
        self._said.append(sentence)

    def leave_out(self, kind: str, mail: Mail, why: str) -> None:
        self._left[f"Left out: {kind} {mail.shown}{why}."] = None

    def sentences(self) -> tuple[str, ...]:
        left = sorted(self._left)
        more = [f"Left out: {len(left) - MAX_NOTES} more mails."] if len(left) > MAX_NOTES else []
        return (*self._said, *left[:MAX_NOTES], *more)


def without_copies(mails: Iterable[Mail]) -> list[Mail]:
    """Return the mails, each once: copies have one Message-ID, title and diff.

    A copy may have a list's footer or sender; the one that was changed least is kept.
    """
    mails = list(mails)
    ids = Counter(mail.message_id for mail in mails)
    place: dict[tuple[str, str, bytes], int] = {}
    found: list[Mail] = []
    for mail in mails:
        if not mail.message_id or ids[mail.message_id] == 1:
            found.append(mail)
            continue
        key = (mail.message_id, title_of(mail), mail.changes if mail.has_diff else b"")
        if key not in place:
            place[key] = len(found)
            found.append(mail)
        else:
            found[place[key]] = min(mail, found[place[key]], key=_changed)
    return found


def _changed(mail: Mail) -> tuple[bool, int, bytes]:
    return (mail.is_from_list, len(mail.content), mail.content)


def drafts_of(mails: Sequence[Mail], threads: Threads, notes: Notes, *, ordered: bool) -> list[Draft]:
    """Return the postings in ``mails``; patches that only accompany one are left out."""
    answered = {one for mail in mails for one in mail.related}
    claimed = {
        (mail.tag.rfc, mail.tag.revision, mail.tag.number, mail.tag.total)
        for mail in mails
        if mail.has_diff and not mail.tag.answer
    }
    titles = {title_of(mail) for mail in mails if mail.has_diff and not mail.tag.answer}
    with_numbers, without = [], []
    for mail in mails:
        tag = mail.tag
        if tag.answer:
            continue
        if tag.number is not None and tag.total is not None and tag.number <= tag.total:
            # A mail of that number without a diff is the patch only if no other mail is.
            position = (tag.rfc, tag.revision, tag.number, tag.total)
            if mail.has_diff or tag.number == 0 or position not in claimed:
                with_numbers.append(mail)
        elif mail.has_diff or _claims(mail, answered, titles):
            without.append(mail)
    drafts = _with_covers(numbered(_once(with_numbers, notes), threads), notes)
    rest = _without_additions(without, [draft for draft in drafts if draft.patches], threads, notes)
    bare = unnumbered(rest if ordered else _single(rest, notes), threads, ordered=ordered)
    return _with_numbered_covers(drafts, bare, threads)


def _claims(mail: Mail, answered: Container[str], titles: Container[str]) -> bool:
    """Return whether a mail without a diff calls itself a patch, and is no answer and no cover letter."""
    stands_alone = not mail.related and mail.message_id not in answered
    return mail.tag.patch and stands_alone and title_of(mail) not in titles


def _once(mails: Iterable[Mail], notes: Notes) -> list[Mail]:
    """Return patches with numbers, without those that repeat the mail that they answer."""
    same: dict[tuple[object, ...], list[Mail]] = defaultdict(list)
    for mail in mails:
        key = (revision_of(mail), mail.tag.number, mail.tag.total, title_of(mail))
        same[(*key, mail.changes) if mail.has_diff else (id(mail),)].append(mail)
    kept = []
    for several in same.values():
        ids = {mail.message_id for mail in several if mail.message_id}
        parents: set[str] = set()
        for mail in sorted(several, key=lambda mail: (not mail.message_id, mail.message_id, mail.content)):
            if ids & set(mail.related) - {mail.message_id} or mail.parent in parents:
                notes.leave_out("the mail", mail, ", which repeats a patch unchanged")
            else:
                kept.append(mail)
                parents |= {mail.parent} - {""}
    return kept


def _with_covers(drafts: Sequence[Draft], notes: Notes) -> list[Draft]:
    """Give postings the cover letters that announce another number of patches."""
    covers = [draft for draft in drafts if not draft.patches]
    result = []
    for draft in drafts:
        mine = [one for one in covers if draft.patches and not draft.covers and draft.before & one.ids]
        mine = [one for one in mine if one.revision == draft.revision]
        for one in mine:
            covers.remove(one)
            notes.say(
                f"The cover letter announces {one.total} patches; the patches have numbers of {draft.total}."
            )
            draft = replace(draft, covers=one.covers)
        if draft.patches:
            result.append(draft)
    return result + covers


def _with_numbered_covers(drafts: Sequence[Draft], bare: Sequence[Draft], threads: Threads) -> list[Draft]:
    """Give patches without numbers a cover letter [PATCH 0/n] that announces as many."""
    result = list(drafts)
    for draft in bare:
        for cover in [one for one in result if not one.patches and one.revision == draft.revision]:
            mails = (*cover.covers, *draft.patches)
            near = len({threads.thread(mail) for mail in mails}) == 1 or all(map(threads.alone, mails))
            if near and cover.total == len(draft.patches):
                result.remove(cover)
                draft = replace(draft, covers=cover.covers)
        result.append(draft)
    return result


def _without_additions(
    mails: Iterable[Mail], drafts: Iterable[Draft], threads: Threads, notes: Notes
) -> list[Mail]:
    """Return patches without numbers that do not accompany a numbered series.

    A patch of a series that its sender has posted alone as another revision is one.
    """
    drafts = list(drafts)
    revisions = {draft.revision for draft in drafts}
    own = {(title_of(one), one.sender) for draft in drafts for one in draft.patches}
    near = {threads.thread(one) for draft in drafts for one in draft.mails}
    titles = {title for draft in drafts for title in draft.titles}
    rest = []
    for mail in mails:
        revision, inside = revision_of(mail), threads.thread(mail) in near
        again = mail.has_diff and mail.tag.tagged and (title_of(mail), mail.sender) in own
        # An older one in the thread is a patch without a revision in its tag.
        if again and revision not in revisions and not (inside and revision < max(revisions)):
            rest.append(mail)
        elif inside:
            notes.leave_out(
                "the patch", mail, ", which is not numbered with the series and answers its thread"
            )
        elif title_of(mail) in titles and mail.has_diff:
            notes.leave_out("the patch", mail, ", which has the subject of a patch of the series")
        else:
            rest.append(mail)
    return rest


def _single(mails: Iterable[Mail], notes: Notes) -> list[Mail]:
    """Return patches without numbers, each once: another mail may quote or pick one up unchanged."""
    first: dict[tuple[str, bytes], Mail] = {}
    for mail in mails:
        key = (title_of(mail), mail.changes)
        if key not in first or not mail.has_diff:
            first[key if mail.has_diff else (str(id(mail)), b"")] = mail
        else:
            notes.leave_out("the mail", mail, ", which repeats a patch unchanged")
    return list(first.values())
