"""The tags at the begin of a subject: ``[RFC PATCH v2 1/7]``, names of lists, and ``Re:``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# One piece before the title: the mark of an answer or of a filter, a tag without brackets, or a bracket,
# which may hold one more.
_PIECE = re.compile(
    r"\s*(?:(?P<answer>(?:re|r|res|aw|antw|antwort|sv|vs|tr|odp|ynt|fwd?|wg|rif|ответ|回复|回覆|答复|转发|轉寄)"
    r"(?:\[\d{1,3}\]|\(\d{1,3}\)|\^\d{1,3})?\s?[:：])"  # noqa: RUF001
    r"|(?P<filter>(?:ext|external|spam|caution|resend|repost)\s?:|\*{2,5}\s?\w{1,20}\s?\*{2,5}|\{\w{1,20}\??\})"
    r"|(?P<plain>(?:RFC\s)?PATCH(?:\s?v\d{1,4})?\s\d{1,4}/\d{1,4})\s?:|\((?P<round>PATCH\b[^()\[\]]*\d/\d+)\)"
    r"|\[(?P<tag>(?:[^\[\]]|\[[^\[\]]*\])*)\])",
    re.IGNORECASE,
)
_PATCH = re.compile(r"(?<![^\W_])PATCH(?:ES|SET|SERIES)?(?=v?\.?\d|[^A-Za-z]|$)", re.IGNORECASE)
_RFC = re.compile(r"(?<![^\W_])RFC(?=v?\d|[^\w]|$)", re.IGNORECASE)
_AGAIN = re.compile(r"(?<![^\W_])(?:RESEND|REPOST|RFT|WIP)(?=[^\w]|$)", re.IGNORECASE)
_PULL = re.compile(r"(?<![^\W_])(?:GIT[ -]?PULL|PULL[ -]REQUEST)(?=\W|$)", re.IGNORECASE)
# Not the v of a release, as in [PATCH v5.10 1/2].
_REVISION = re.compile(
    r"(?:(?<![\w.])|(?<=PATCH)|(?<=PATCH[_.])|(?<=PATCHES)|(?<=PATCHSET)|(?<=RFC)|(?<=RESEND))"
    r"(?:v|ver|version|rev|take)[ .#]?(\d{1,4})(?![\w/])(?!\.\d)",
    re.IGNORECASE,
)
_ONLY_REVISION = re.compile(r"(?:.*[\s,;])?v\d{1,4}(?:[\s,;].*)?", re.IGNORECASE)  # not [list-v9]
_POINT = re.compile(r"(?<![\w.])v(\d{1,4})\.\d{1,3}(?![\w.])", re.IGNORECASE)
_RFC_NUMBER = re.compile(r"(?<![^\W_])RFC[ -]?(\d{1,2})(?![\w./])", re.IGNORECASE)
# Not the names of two releases, as in [PATCH 5.15/6.1 1/2].
_NUMBER = re.compile(r"(?:(?<![\w./])|(?<=PATCH))(\d{1,4})\s?(?:/|\bof\b)\s?(\d{1,4})(?![\w/])(?!\.\d)", re.I)


@dataclass(frozen=True)
class Tag:
    """The content of the tags of one subject.

    ``number`` and ``total`` are n and m of ``[PATCH n/m]``, None without; ``revision`` is 1
    without a number.  ``point`` is N of a ``vN.M``, which is a release or a patch of revision
    N that was posted again.  ``answer`` is true after a ``Re:``.  ``tagged`` is true for any tag of
    patches, ``[v2 1/3]`` and ``[RFC]`` included, and ``patch`` only for the word PATCH.
    ``title`` is the subject without all that.
    """

    title: str
    answer: bool = False
    tagged: bool = False
    patch: bool = False
    pull: bool = False
    rfc: bool = False
    revision: int = 1
    point: int | None = None
    number: int | None = None
    total: int | None = None


@lru_cache(maxsize=4096)
def parse(subject: str) -> Tag:
    """Return the tags of a subject, which is decoded and on one line."""
    answer, at, end = False, 0, 0
    tags: list[str] = []
    pending: list[str] = []  # brackets that are tags only if a tag of patches follows
    while piece := _PIECE.match(subject, at):
        at = piece.end()
        if piece["answer"] is not None:
            answer, end = True, at
            continue
        if piece["filter"] is not None:
            continue
        bracket = piece["tag"] or piece["plain"] or piece["round"] or ""
        pending.append(bracket)
        if _is_tag(bracket):
            tags, pending, end = tags + pending, [], at
    tagged = [one for one in tags if _is_tag(one)]
    tagged.sort(key=lambda one: _PATCH.search(one) is None)  # what is said beside PATCH is said of the patch
    text = " ".join(tagged)
    numbers = _number(tagged)
    revision = _REVISION.search(text) or _RFC_NUMBER.search(text)
    point = _POINT.search(text)
    number, total = numbers if numbers else (None, None)
    return Tag(
        title=subject[end:].strip() or subject,
        answer=answer,
        tagged=bool(tagged),
        patch=_PATCH.search(text) is not None,
        pull=any(_PULL.search(one) for one in (*tags, *pending)),
        rfc=_RFC.search(text) is not None,
        revision=int(revision[1]) if revision else 1,
        point=int(point[1]) if point else None,
        number=number,
        total=total,
    )


def _is_tag(bracket: str) -> bool:
    found = any(one.search(bracket) for one in (_PATCH, _RFC, _AGAIN, _NUMBER))
    return (found or _ONLY_REVISION.fullmatch(bracket) is not None) and not _PULL.search(bracket)


def _number(brackets: list[str]) -> tuple[int, int] | None:
    """Return the last n/m of the first bracket with one; a total of 0 is none."""
    for bracket in brackets:
        found = [match for match in _NUMBER.finditer(bracket) if int(match[2])]
        if found:
            return int(found[-1][1]), int(found[-1][2])
    return None
