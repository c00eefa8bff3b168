"""Choose the mails that are the series: one complete revision, without answers and copies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.lib.text import printable
from harness.series.mail import Mail
from harness.series.mbox import NotASeriesError
from harness.series.threads import Draft, Revision, Threads, numbered, revision_of, title_of, unnumbered

MAX_NOTES = 8  # that name a mail; the rest is counted
_SPELLING = re.compile(r"(?:(rfc)[ _-]?)?v?([0-9]{1,4})", re.IGNORECASE)


@dataclass(frozen=True)
class Chosen:
    """The patches of one revision in their order, its cover letter if there is one, and what was left out.

    ``total`` is the m of [PATCH n/m], None for patches without numbers.
    """

    patches: tuple[Mail, ...]
    cover: Mail | None
    revision: Revision
    total: int | None
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The title of the cover letter, or else of the first patch."""
        return (self.cover or self.patches[0]).tag.title


def revision_of_text(text: str) -> Revision:
    """Return the revision that a user means by ``4``, ``v4`` or ``RFC2``.  Raises ValueError."""
    found = _SPELLING.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{printable(text)!r} is no revision: a number such as 4, or RFC2 for the second RFC"
        )
    return Revision(found[1] is None, int(found[2]))


def choose(
    mails: Sequence[Mail],
    *,
    wanted: Revision | None = None,
    message_id: str = "",
    folder: bool = False,
    ordered: bool = False,
) -> Chosen:
    """Return the series in ``mails``, which are in the order of their file.

    Of several revisions the newest complete one is chosen, or ``wanted``, or else the one
    that the mail ``message_id`` belongs to or answers.  From a ``folder``, every mail has
    to be of the series.  With ``ordered``, patches without numbers are in the right
    order.  Raises NotASeriesError, which names the mails that are in the way.
    """
    distinct = _without_copies(mails)
    threads = Threads(distinct)
    notes = _Notes()
    drafts = _drafts(distinct, threads, notes, ordered=ordered)
    if not drafts:
        raise NotASeriesError(_no_patch(distinct))
    if message_id:
        drafts = _about(message_id, drafts, threads, wanted, notes)
    family = _family(drafts, threads, wanted, notes)
    if folder and wanted is None and len({draft.revision for draft in family}) > 1:
        raise NotASeriesError(
            f"it holds the revisions {_listed(family)}; keep one, or choose it with --revision"
        )
    draft = _newest(family, threads, wanted, notes)
    _check(draft)
    cover = _cover(draft, threads)
    for mail in distinct:
        if mail.tag.answer and mail.has_diff:
            notes.leave_out("the answer", mail, ", which holds a diff")
    chosen = Chosen(tuple(draft.ordered()), cover, draft.revision, draft.total, notes.sentences())
    if folder:
        _check_nothing_left(
            [mail for mail in distinct if wanted in (None, revision_of(mail))], chosen, family
        )
    return chosen


class _Notes:
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


def _without_copies(mails: Iterable[Mail]) -> list[Mail]:
    """Return the mails, each once: copies have one Message-ID, title and diff.

    A copy may have a list's footer, and the shortest one is kept.
    """
    place: dict[tuple[str, str, bytes], int] = {}
    distinct: list[Mail] = []
    ids: dict[str, int] = {}
    for mail in mails:
        ids[mail.message_id] = ids.get(mail.message_id, 0) + 1
        distinct.append(mail)
    found: list[Mail] = []
    for mail in distinct:
        if not mail.message_id or ids[mail.message_id] == 1:
            found.append(mail)
            continue
        key = (mail.message_id, title_of(mail), mail.changes if mail.has_diff else b"")
        if key not in place:
            place[key] = len(found)
            found.append(mail)
        elif (len(mail.content), mail.content) < (len((before := found[place[key]]).content), before.content):
            found[place[key]] = mail
    return found


def _drafts(mails: Sequence[Mail], threads: Threads, notes: _Notes, *, ordered: bool) -> list[Draft]:
    """Return the postings in ``mails``; patches that only accompany one are left out."""
    answered = {one for mail in mails for one in mail.related}
    claimed = {
        (mail.tag.rfc, mail.tag.revision, mail.tag.number, mail.tag.total)
        for mail in mails
        if mail.has_diff and not mail.tag.answer
    }
    with_numbers, without = [], []
    for mail in mails:
        tag = mail.tag
        if tag.answer or (tag.pull and not mail.has_diff):
            continue
        if tag.number is not None and tag.total is not None and tag.number <= tag.total:
            # A mail of that number without a diff is the patch only if no other mail is.
            position = (tag.rfc, tag.revision, tag.number, tag.total)
            if mail.has_diff or tag.number == 0 or position not in claimed:
                with_numbers.append(mail)
        elif mail.has_diff or (tag.patch and not mail.related and mail.message_id not in answered):
            without.append(mail)
    drafts = _with_covers(numbered(with_numbers, threads), notes)
    numbered_ones = [draft for draft in drafts if draft.patches]
    rest = [mail for mail in without if not _accompanies(mail, numbered_ones, threads, notes)]
    bare = unnumbered(rest if ordered else _single(rest, notes), threads, ordered=ordered)
    return _with_numbered_covers(drafts, bare, threads)


def _with_covers(drafts: Sequence[Draft], notes: _Notes) -> list[Draft]:
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


def _accompanies(mail: Mail, drafts: Iterable[Draft], threads: Threads, notes: _Notes) -> bool:
    """Return whether a patch without a number belongs to the thread of a numbered series, as an addition."""
    for draft in drafts:
        if any(threads.thread(mail) == threads.thread(one) for one in draft.mails):
            notes.leave_out(
                "the patch", mail, ", which is not numbered with the series and answers its thread"
            )
            return True
        if title_of(mail) in draft.titles and mail.has_diff:
            notes.leave_out("the patch", mail, ", which has the subject of a patch of the series")
            return True
    return False


def _single(mails: Iterable[Mail], notes: _Notes) -> list[Mail]:
    """Return patches without numbers, each once: another mail may quote or pick one up unchanged."""
    first: dict[tuple[str, bytes], Mail] = {}
    for mail in mails:
        key = (title_of(mail), mail.changes)
        if key not in first or not mail.has_diff:
            first[key if mail.has_diff else (str(id(mail)), b"")] = mail
        else:
            notes.leave_out("the mail", mail, ", which repeats a patch unchanged")
    return list(first.values())


def _about(
    message_id: str, drafts: Sequence[Draft], threads: Threads, wanted: Revision | None, notes: _Notes
) -> list[Draft]:
    """Return the posting of a mail, that it answers or that answers it; with ``wanted``, its revisions."""
    mail = threads.by_id.get(message_id)
    if mail is None:
        raise NotASeriesError(f"it holds no mail <{printable(message_id)}>")
    near = [message_id, *(one.message_id for one in threads.ancestors(mail))]
    found = [draft for one in near for draft in drafts if one in draft.ids]
    found += [draft for draft in drafts if message_id in draft.before]
    if not found:
        raise NotASeriesError(f"the mail {mail.shown} belongs to no series in it")
    others = [draft for draft in drafts if draft is not found[0] and _are_revisions(draft, found[0], threads)]
    if wanted is not None:
        return [found[0], *others]
    if any(draft.revision != found[0].revision for draft in others):
        notes.say(
            f"The mails hold the revisions {_listed([*others, found[0]])}. The mail that was asked for is of "
            f"{found[0].revision}; --revision chooses another."
        )
    return [found[0]]


def _family(drafts: Sequence[Draft], threads: Threads, wanted: Revision | None, notes: _Notes) -> list[Draft]:
    """Return the revisions of the one series that the mails are about, oldest first."""
    if wanted is not None:
        found = [draft for draft in drafts if draft.revision == wanted]
        if not found:
            raise NotASeriesError(f"it holds no revision {wanted}; what it holds is {_listed(drafts)}")
        drafts = found
    families: list[list[Draft]] = []
    for draft in drafts:
        near = [one for one in families if any(_are_revisions(draft, other, threads) for other in one)]
        families = [one for one in families if one not in near]
        families.append([*(other for one in near for other in one), draft])
    main = [one for one in families if all(other is one or _is_beside(other, one) for other in families)]
    if len(families) > 1 and len(main) != 1:
        named = sorted(draft.shown for one in families for draft in one)
        more = f" and {len(named) - MAX_NOTES} more" if len(named) > MAX_NOTES else ""
        raise NotASeriesError(
            "its mails are not numbered as one series, [PATCH 1/n] to [PATCH n/n]: it holds "
            f"{', '.join(named[:MAX_NOTES])}{more}. Keep the mails of one series"
        )
    for other in families:
        if other is not main[0]:
            for draft in other:
                notes.leave_out("the posting", draft.mails[0], " in answer to the series")
    return sorted(main[0], key=_age)


def _are_revisions(one: Draft, other: Draft, threads: Threads) -> bool:
    """Return whether two postings are of the same series."""
    if one.change_ids & other.change_ids:
        return True
    if one.titles & other.titles and (one.revision != other.revision or one.total == other.total):
        return True
    same_thread = {threads.thread(mail) for mail in one.mails} & {
        threads.thread(mail) for mail in other.mails
    }
    return bool(same_thread and one.senders & other.senders and one.revision != other.revision)


def _is_beside(family: Sequence[Draft], main: Sequence[Draft]) -> bool:
    """Return whether a family answers ``main``; a single patch that answers another is its equal."""
    ids = frozenset().union(*(draft.ids for draft in main))
    equal = all(draft.total is None for draft in (*family, *main))
    return not equal and all(draft.before & ids for draft in family)


def _age(draft: Draft) -> tuple[Revision, int, str]:
    return (draft.revision, -len(draft.missing), draft.shown)


def _newest(family: Sequence[Draft], threads: Threads, wanted: Revision | None, notes: _Notes) -> Draft:
    """Return the newest complete posting of ``family``.  Raises NotASeriesError for a partial reroll."""
    last = family[-1]
    same = [draft for draft in family if draft.revision == last.revision]
    complete = [draft for draft in family if not draft.missing]
    revisions = sorted({draft.revision for draft in family})
    if last.missing:
        older = frozenset().union(*(draft.ids for draft in family if draft.revision != last.revision))
        if last.patches and not last.covers and all(older & _before(mail, threads) for mail in last.patches):
            posted = ", ".join(str(number) for number in sorted(last.numbers)[:20])
            raise NotASeriesError(
                f"revision {last.revision} posts only patch {posted} of {last.total} again ({last.shown}). "
                "`b4 am` puts such a revision together; or choose another one with --revision"
            )
        if complete and wanted is None:
            chosen = complete[-1]
            notes.say(
                f"Revision {last.revision} lacks patch {_numbers(last.missing)} of {last.total}, so revision "
                f"{chosen.revision}, the newest complete one, is the series."
            )
            return chosen
    for draft in same:
        if draft is not last and not draft.missing and not last.missing:
            _check_equal(draft, last)
    if len(revisions) > 1:
        notes.say(
            f"The mails hold the revisions {_listed(family)}. The newest, {last.revision}, is the series; "
            "--revision chooses another."
        )
    return last


def _before(mail: Mail, threads: Threads) -> frozenset[str]:
    return frozenset(mail.related) | {one.message_id for one in threads.ancestors(mail)}


def _check_equal(one: Draft, other: Draft) -> None:
    """Raise NotASeriesError unless two postings of one revision (a RESEND) have the same changes."""
    pairs = zip(one.ordered(), other.ordered(), strict=False)
    for first, second in pairs:
        if first.changes != second.changes:
            raise NotASeriesError(_twice(first, second))


def _check(draft: Draft) -> None:
    """Raise NotASeriesError unless a posting has every patch once, each with a diff."""
    by_number: dict[int, Mail] = {}
    for mail in draft.ordered():
        number = mail.tag.number
        if draft.total is not None and number is not None and by_number.setdefault(number, mail) is not mail:
            raise NotASeriesError(_twice(by_number[number], mail))
    if draft.missing:
        hint = ""
        if draft.revision.number > 1 and draft.patches:
            hint = ". If the revision posts only some patches again, `b4 am` puts it together"
        raise NotASeriesError(f"it lacks patch {_numbers(draft.missing)} of {draft.total}{hint}")
    for mail in draft.ordered():
        if not mail.has_diff:
            raise NotASeriesError(f"the mail {mail.shown} holds no diff that git would apply")


def _twice(one: Mail, other: Mail) -> str:
    position = f"{one.tag.number}/{one.tag.total}" if one.tag.total is not None else one.tag.title
    return f"it holds patch {position} twice: {one.shown} and {other.shown}. Keep one"


def _cover(draft: Draft, threads: Threads) -> Mail | None:
    """Return the cover letter: the mail of number 0, or the one that all patches answer."""
    if draft.covers:
        return draft.covers[0]
    first = draft.ordered()[0]
    found = threads.by_id.get(threads.anchor(first, draft.ids))
    if found is None or found.has_diff or found.tag.answer or found.sender != first.sender:
        return None
    # The cover letter of another revision has a number, or the tag of that revision.
    other = found.tag.number is not None or (found.tag.tagged and revision_of(found) != draft.revision)
    return None if other else found


def _check_nothing_left(mails: Iterable[Mail], chosen: Chosen, family: Iterable[Draft]) -> None:
    """Raise NotASeriesError for the first file of a folder that is not of the series."""
    used = {id(mail) for mail in chosen.patches} | {id(mail) for draft in family for mail in draft.mails}
    for mail in mails:
        if id(mail) not in used and mail is not chosen.cover and not _is_hand_made_cover(mail):
            why = "is not of the series" if mail.has_diff else "holds no diff"
            raise NotASeriesError(f"the mail {mail.shown} {why}; remove the file")


def _is_hand_made_cover(mail: Mail) -> bool:
    return re.search(r"(?:^|-)0{3,4}-", mail.name) is not None and not mail.has_diff


def _no_patch(mails: Sequence[Mail]) -> str:
    """Return why ``mails`` hold no patch."""
    reason = "it holds no patch, that is, no mail with a diff that is no answer"
    for mail in mails:
        if mail.tag.pull:
            return f"{reason}. {mail.shown} is a pull request: fetch its branch, and test it with --tree"
        if mail.tag.answer and mail.has_diff:
            return f"{reason}. To test the diff in {mail.shown}, save it with a subject without Re:"
    return f"{reason}; it begins with {mails[0].shown}" if mails else "it holds no mail"


def _listed(drafts: Iterable[Draft]) -> str:
    return ", ".join(str(one) for one in sorted({draft.revision for draft in drafts}))


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
