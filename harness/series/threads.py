"""The threads of mails, and the postings that their mails have been sent in."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.series.draft import Draft, Revision, revision_of, title_of
from harness.series.mail import Mail
from harness.series.mbox import NotASeriesError


class Threads:
    """The mails that belong together by In-Reply-To and References.

    ``mails`` are without copies.
    """

    def __init__(self, mails: Sequence[Mail]) -> None:
        self.by_id = {mail.message_id: mail for mail in mails if mail.message_id}
        self._above: dict[Hashable, Hashable] = {}
        named = {one for mail in mails for one in mail.related}
        self._alone = {id(mail) for mail in mails if not mail.related and mail.message_id not in named}
        for mail in mails:
            for one in mail.related:
                self._join(self._node(mail), one)

    def thread(self, mail: Mail) -> Hashable:
        """Return what all mails of the thread of ``mail`` have in common."""
        return self._root(self._node(mail))

    def alone(self, mail: Mail) -> bool:
        """Return whether a mail neither answers one, nor is answered."""
        return id(mail) in self._alone

    def ancestors(self, mail: Mail) -> list[Mail]:
        """Return the mails of the file that ``mail`` answers, directly or through others, nearest first."""
        found: dict[str, Mail] = {}
        queue = deque(mail.related)
        while queue:
            one = queue.popleft()
            if one in found or one not in self.by_id or one == mail.message_id:
                continue
            found[one] = self.by_id[one]
            queue += found[one].related
        return list(found.values())

    def anchors(self, mails: Iterable[Mail]) -> dict[str, str]:
        """Return the Message-ID above each of ``mails``, which one posting has in common.

        That is the cover letter, or else what the first of the patches answers.
        """
        mails = list(mails)
        same = {mail.message_id for mail in mails}
        found: dict[str, str] = {}
        for mail in mails:
            path: dict[str, None] = {}
            at = mail
            while at.message_id not in found and at.message_id not in path:
                path[at.message_id] = None
                if at.tag.number == 0 or not at.parent:
                    found[at.message_id] = at.message_id
                elif at.parent not in same:
                    found[at.message_id] = at.parent
                else:
                    at = self.by_id[at.parent]
            # In a circle of answers, which only a forged mail makes, any one will do.
            above = found.get(at.message_id, at.message_id)
            found.update(dict.fromkeys(path, above))
        return found

    def _node(self, mail: Mail) -> Hashable:
        return mail.message_id or id(mail)

    def _join(self, one: Hashable, other: Hashable) -> None:
        self._above[self._root(one)] = self._root(other)

    def _root(self, node: Hashable) -> Hashable:
        path = []
        while (above := self._above.get(node, node)) != node:
            path.append(node)
            node = above
        for passed in path:
            self._above[passed] = node
        return node


@dataclass
class _Group:
    mails: list[Mail]
    loose: bool = field(default=False)

    def numbers(self) -> set[int]:
        return {mail.tag.number or 0 for mail in self.mails}

    def senders(self) -> set[str]:
        return {mail.sender for mail in self.mails}


def numbered(mails: Iterable[Mail], threads: Threads) -> list[Draft]:
    """Return the postings of the mails that have numbers [PATCH n/m], in a fixed order."""
    buckets: Mapping[tuple[Revision, int], list[Mail]] = defaultdict(list)
    for mail in mails:
        assert mail.tag.total is not None
        buckets[revision_of(mail), mail.tag.total].append(mail)
    found = []
    for (revision, total), bucket in sorted(buckets.items(), key=lambda item: item[0]):
        for group in _groups(bucket, threads):
            covers = tuple(mail for mail in group.mails if mail.tag.number == 0)
            patches = tuple(mail for mail in group.mails if mail.tag.number != 0)
            found.append(Draft(revision, total, patches, covers))
    return found


def _groups(bucket: Sequence[Mail], threads: Threads) -> list[_Group]:
    """Split mails of one revision and total into those that were posted together."""
    anchors = threads.anchors(mail for mail in bucket if mail.message_id)
    anchored: dict[str, list[Mail]] = defaultdict(list)
    alone = []
    for mail in sorted(bucket, key=lambda mail: (mail.tag.number or 0, mail.message_id, mail.content)):
        if threads.alone(mail):
            alone.append(mail)
        else:
            anchored[anchors.get(mail.message_id, mail.parent)].append(mail)
    groups = [_Group(mails) for _, mails in sorted(anchored.items())]
    groups += _loose(alone)
    merged: list[_Group] = []
    for group in groups:
        for other in merged:
            near = group.loose or other.loose or _thread(group, threads) == _thread(other, threads)
            if near and not group.numbers() & other.numbers() and group.senders() & other.senders():
                other.mails += group.mails
                break
        else:
            merged.append(group)
    return merged


def _thread(group: _Group, threads: Threads) -> Hashable:
    return threads.thread(group.mails[0])


def _loose(mails: Sequence[Mail]) -> list[_Group]:
    """Group mails without a thread: all together, or by sender if a number is there twice."""
    if not mails:
        return []
    whole = _Group(list(mails), loose=True)
    if len(whole.numbers()) == len(mails):
        return [whole]
    by_sender: dict[str, list[Mail]] = defaultdict(list)
    for mail in mails:
        by_sender[mail.sender].append(mail)
    return [_Group(found, loose=True) for _, found in sorted(by_sender.items())]


def unnumbered(mails: Sequence[Mail], threads: Threads, *, ordered: bool) -> list[Draft]:
    """Return the postings of patches without numbers: one of each revision, in the order of the file.

    With ``ordered``, the order of the mails is known to be that of the patches.  Raises
    NotASeriesError for mails that are proposals of their own instead.
    """
    by_revision: dict[Revision, list[Mail]] = defaultdict(list)
    for mail in mails:
        by_revision[revision_of(mail)].append(mail)
    if not ordered:
        for several in by_revision.values():
            _check_order(several, threads)
    return [Draft(revision, None, tuple(several)) for revision, several in sorted(by_revision.items())]


def _check_order(mails: Sequence[Mail], threads: Threads) -> None:
    """Raise NotASeriesError unless patches without numbers are one series in the order of the file."""
    by_title: dict[str, Mail] = {}
    for mail in mails:
        if (other := by_title.setdefault(title_of(mail), mail)) is not mail:
            raise NotASeriesError(
                f"it holds two patches with one subject, {other.shown} and {mail.shown}; keep one"
            )
    if all(mail.is_commit for mail in mails):
        return
    names = {id(mail) for mail in mails}
    for mail in mails:
        for other in threads.ancestors(mail):
            if id(other) in names:
                raise NotASeriesError(
                    f"its patches have no numbers, and {mail.shown} answers {other.shown}: these are two "
                    "proposals. Keep one, or number them [PATCH 1/n] to [PATCH n/n]"
                )
    posted = [mail for mail in mails if mail.message_id]
    for mail in posted[1:]:
        if mail.sender != posted[0].sender:
            raise NotASeriesError(
                f"its patches have no numbers and several senders, {posted[0].shown} and {mail.shown}; keep "
                "one, or number them [PATCH 1/n] to [PATCH n/n]"
            )
