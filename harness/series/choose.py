"""Choose the mails that are the series: one complete revision, without answers and copies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from harness.lib.text import printable
from harness.series.candidates import Notes, drafts_of, without_copies
from harness.series.draft import Draft, Revision, revision_of, title_of
from harness.series.mail import Mail
from harness.series.mbox import NotASeriesError
from harness.series.threads import Threads

MAX_MAILS = 10_000
MAX_SHOWN = 8  # of the postings in a refusal; the rest is counted
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
    if len(mails) > MAX_MAILS:
        raise NotASeriesError(
            f"it holds {len(mails)} mails, and {MAX_MAILS} are the limit. Keep those of the thread"
        )
    distinct = without_copies(mails)
    threads = Threads(distinct)
    notes = Notes()
    drafts = drafts_of(distinct, threads, notes, ordered=ordered)
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
    _check_single_patches(draft, distinct)
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


def _about(
    message_id: str, drafts: Sequence[Draft], threads: Threads, wanted: Revision | None, notes: Notes
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
    (family,) = [one for one in _families(drafts, threads) if found[0] in one]
    if wanted is not None:
        return family
    if any(draft.revision != found[0].revision for draft in family):
        notes.say(
            f"The mails hold the revisions {_listed(family)}. The mail that was asked for is of "
            f"{found[0].revision}; --revision chooses another."
        )
    return [found[0]]


def _family(drafts: Sequence[Draft], threads: Threads, wanted: Revision | None, notes: Notes) -> list[Draft]:
    """Return the revisions of the one series that the mails are about, oldest first."""
    if wanted is not None:
        found = [draft for draft in drafts if draft.revision == wanted]
        if not found:
            raise NotASeriesError(f"it holds no revision {wanted}; what it holds is {_listed(drafts)}")
        drafts = found
    families = _families(drafts, threads)
    main = [one for one in families if all(other is one or _is_beside(other, one) for other in families)]
    if len(families) > 1 and len(main) != 1:
        named = sorted(draft.shown for one in families for draft in one)
        more = f" and {len(named) - MAX_SHOWN} more" if len(named) > MAX_SHOWN else ""
        raise NotASeriesError(
            "its mails are not numbered as one series, [PATCH 1/n] to [PATCH n/n]: it holds "
            f"{', '.join(named[:MAX_SHOWN])}{more}. Keep the mails of one series"
        )
    for other in families:
        if other is not main[0]:
            for draft in other:
                notes.leave_out("the posting", draft.mails[0], " in answer to the series")
    return sorted(main[0], key=_age)


def _families(drafts: Sequence[Draft], threads: Threads) -> list[list[Draft]]:
    """Group postings that are revisions of one series.

    These have b4's change-id, the title of the whole, or the title of a patch and its
    sender in common; or one sender has posted them as several revisions in one thread.
    """
    sharing: dict[Hashable, list[int]] = defaultdict(list)
    in_thread: dict[Hashable, list[int]] = defaultdict(list)
    for at, draft in enumerate(drafts):
        for change in draft.change_ids:
            sharing[change].append(at)
        sharing[draft.title].append(at)
        for mail in draft.mails:
            sharing[title_of(mail), mail.sender].append(at)
            in_thread[threads.thread(mail), mail.sender].append(at)
    groups = list(sharing.values())
    # One revision twice in a thread is an addition by its author.
    groups += [places for places in in_thread.values() if len({drafts[at].revision for at in places}) > 1]
    family = list(range(len(drafts)))

    def first(at: int) -> int:
        while family[at] != at:
            family[at] = family[family[at]]
            at = family[at]
        return at

    for places in groups:
        for at in places:
            family[first(at)] = first(places[0])
    grouped: dict[int, list[Draft]] = defaultdict(list)
    for at, draft in enumerate(drafts):
        grouped[first(at)].append(draft)
    return list(grouped.values())


def _is_beside(family: Sequence[Draft], main: Sequence[Draft]) -> bool:
    """Return whether a family answers ``main``; a single patch that answers another is its equal."""
    ids = frozenset().union(*(draft.ids for draft in main))
    equal = all(draft.total is None for draft in (*family, *main))
    return not equal and all(draft.before & ids for draft in family)


def _age(draft: Draft) -> tuple[Revision, int, str]:
    return (draft.revision, -len(draft.missing), draft.shown)


def _newest(family: Sequence[Draft], threads: Threads, wanted: Revision | None, notes: Notes) -> Draft:
    """Return the newest complete posting of ``family``.  Raises NotASeriesError for a partial reroll."""
    last = family[-1]
    same = [draft for draft in family if draft.revision == last.revision]
    complete = [draft for draft in family if not draft.missing]
    revisions = sorted({draft.revision for draft in family})
    older = frozenset().union(*(draft.ids for draft in family if draft.revision != last.revision))
    one_of_several = last.total is None and any((draft.total or 1) > 1 for draft in family)
    if one_of_several and all(older & _before(mail, threads) for mail in last.patches):
        raise NotASeriesError(
            f"revision {last.revision} posts only one patch again ({last.shown}). `b4 am` puts such a "
            "revision together; or choose another one with --revision"
        )
    if last.missing:
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
        if draft.total != last.total:
            raise NotASeriesError(
                f"revision {last.revision} is numbered in two ways: {draft.shown} and {last.shown}. Keep one"
            )
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
        number, total = mail.tag.number, mail.tag.total
        if number is not None and total is not None and number > total:
            raise NotASeriesError(f"the mail {mail.shown} has the number {number} of only {total}")
        if not mail.has_diff:
            raise NotASeriesError(f"the mail {mail.shown} holds no diff that git would apply")
        if b"\0" in mail.text:
            raise NotASeriesError(f"the mail {mail.shown} holds a NUL byte, which git takes in no message")
        if mail.attached > 1:
            raise NotASeriesError(
                f"the mail {mail.shown} holds {mail.attached} patches as attachments. Save them in a folder, "
                "and name it"
            )


def _check_single_patches(draft: Draft, mails: Iterable[Mail]) -> None:
    """Raise NotASeriesError if a patch was posted again in the thread, as [PATCH v2.1 3/9]."""
    for mail in mails:
        again = mail.tag.point == draft.revision.number and mail.tag.total == draft.total
        if again and mail.has_diff and not mail.tag.answer and set(mail.related) & draft.ids:
            raise NotASeriesError(
                f"the patch {mail.tag.number} of {draft.total} was posted again alone ({mail.shown}). "
                "`b4 am` puts such a revision together"
            )


def _twice(one: Mail, other: Mail) -> str:
    position = f"{one.tag.number}/{one.tag.total}" if one.tag.total is not None else one.tag.title
    return f"it holds patch {position} twice: {one.shown} and {other.shown}. Keep one"


def _cover(draft: Draft, threads: Threads) -> Mail | None:
    """Return the cover letter: the mail of number 0, or the one that all patches answer."""
    if draft.covers:
        return draft.covers[0]
    first = draft.ordered()[0]
    found = threads.by_id.get(threads.anchors(draft.mails)[first.message_id])
    if found is None or found.has_diff or found.tag.answer or found.sender != first.sender:
        return None
    # The cover letter of another revision has a number, or the tag of that revision.
    other = found.tag.number is not None or (found.tag.tagged and revision_of(found) != draft.revision)
    return None if other else found


def _check_nothing_left(mails: Sequence[Mail], chosen: Chosen, family: Iterable[Draft]) -> None:
    """Raise NotASeriesError for the first file of a folder that is not of the series."""
    used = {id(mail) for mail in chosen.patches} | {id(mail) for draft in family for mail in draft.mails}
    for mail in mails:
        if id(mail) not in used and mail is not chosen.cover and not _is_hand_made_cover(mail):
            why = "is not of the series" if mail.has_diff else "holds no diff"
            others = mail.name and sum(one.name == mail.name for one in mails) > 1
            what = f"name the file {printable(mail.name)} itself" if others else "remove the file"
            raise NotASeriesError(f"the mail {mail.shown} {why}; {what}")


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
    found = [str(one) for one in sorted({draft.revision for draft in drafts})]
    return ", ".join(found if len(found) <= 12 else [*found[:3], "...", *found[-3:]])


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
