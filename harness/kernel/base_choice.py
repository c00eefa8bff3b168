"""Choose the base of a series, and say why.

In this order: the release that the user gave, the commit that the mails name
(``base-commit:``), the release that a manifest names, and the base whose files are
those that the patches were made from.  A diff names the blob of each file before
the change (``index OLD..NEW``), and patches/base-blobs.tsv has the blobs of the bases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.kernel import base_blobs, kconfig, pins
from harness.kernel.base import Base
from harness.lib.errors import ApplyError, UsageError
from harness.lib.text import printable
from harness.series.diff import FileDiff
from harness.series.series import DEFAULT_BASE, Series, check

_ABBREVIATED = 7  # digits of a commit id, at least
_SHOWN = 5  # files named in a message


@dataclass(frozen=True)
class BaseChoice:
    """The release to use as the base, and a sentence that says why."""

    release: str
    reason: str


@dataclass(frozen=True)
class Likeness:
    """A comparison of the files that patches were made from with those of one base.

    ``same`` and ``different`` are paths; files that are not known are in neither.
    """

    version: str
    same: tuple[str, ...]
    different: tuple[str, ...]

    def __str__(self) -> str:
        whole = len(self.same) + len(self.different)
        words = f"{len(self.same)} of {whole} files that the patches change are as in {self.version}"
        if not self.different or not self.same:
            return words
        shown = ", ".join(printable(path) for path in self.different[:_SHOWN])
        more = len(self.different) - _SHOWN
        return f"{words}; not {shown}{f' and {more} more' if more > 0 else ''}"


def choose(series: Series, asked: str | None = None) -> BaseChoice:
    """Return the base of ``series``; ``asked`` is the release that the user gave.

    Raises UsageError for a release that is not known here.
    """
    known = pins.releases()
    named = _release_of(series.base, known)
    if asked is not None:
        if asked not in known:
            near = _release_of(asked, known) or _nearest(asked, known)
            raise UsageError(
                f"The base {printable(asked)!r} is not known here. Choose one of {', '.join(known)} with "
                f"--base{f' ({near} is the nearest)' if near else ''}, or give a git checkout of the kernel "
                "with --tree DIR."
            )
        other = f", instead of {series.base}, which its manifest names" if named not in ("", asked) else ""
        return BaseChoice(asked, f"--base chooses it{other}")
    unknown: list[str] = []
    commit = series.posting.base_commit
    if commit:
        for pin in pins.read_pins():
            if len(commit) >= _ABBREVIATED and pin.commit.startswith(commit):
                return BaseChoice(pin.release, f"the patches were made on its commit {commit[:12]}")
        unknown.append(f"their base-commit {printable(commit)[:12]} is not known here")
    if named:
        exact = series.base.removeprefix("v") == named
        words = f"the manifest of the series names {'it' if exact else printable(series.base)}"
        return BaseChoice(named, "; ".join([words, *unknown]))
    if series.base:
        unknown.append(f"the manifest of the series names {printable(series.base)}, which is not known here")
    likest = _likest(_pre_images_of(series))
    if likest:
        newest = likest[-1]
        words = str(newest)
        if len(likest) > 1:
            words += f" (and in {', '.join(one.version for one in likest[:-1])})"
        return BaseChoice(_release_of(newest.version, known), "; ".join([words, *unknown]))
    guess = "nothing in the series says what it was made on, so this is a guess; --base chooses another"
    unknown.insert(0, guess)
    return BaseChoice(DEFAULT_BASE, "; ".join(unknown))


def advice(series: Series, used: Base) -> str:
    """Return a sentence for a series that does not apply: which base has the files it was made from.

    It is empty if no other base is more like them.
    """
    images = _pre_images_of(series)
    likest = _likest(images)
    if not likest:
        return ""
    here = likeness(images, used.version, base_blobs.of_base(used))
    best = likest[-1]
    release = _release_of(best.version, pins.releases())
    if len(best.same) <= len(here.same) or release == _release_of(used.version, pins.releases()):
        return ""
    return (
        f" The patches were made from other files: {len(here.same)} of {len(images)} are as in "
        f"{used.version}, and {len(best.same)} as in {best.version}. Try --base {release}."
    )


def pre_images(patches: Iterable[Iterable[FileDiff]]) -> dict[str, str]:
    """Return the blob of each file before the first patch that changes it, by path; new files have none."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for patch in patches:
        for file in patch:
            if file.before.strip("0") and file.old not in seen:
                found[file.old] = file.before
            seen |= file.paths
    return found


def likeness(images: Mapping[str, str], version: str, blobs: Mapping[str, str]) -> Likeness:
    """Compare the files of patches, path to blob, with the ``blobs`` of a base."""
    same = tuple(path for path, blob in images.items() if path in blobs and _equal(blob, blobs[path]))
    return Likeness(version, same, tuple(path for path in images if path not in same))


def _pre_images_of(series: Series) -> dict[str, str]:
    """Return the pre-images that the table can compare; none for patches that will be refused anyway."""
    try:
        images = pre_images(check(series))
    except ApplyError:
        return {}
    return {path: blob for path, blob in images.items() if path.startswith(base_blobs.PLACES)}


def _likest(images: Mapping[str, str]) -> Sequence[Likeness]:
    """Return the bases that have the most of the files, the oldest first; none if no base has any."""
    table = base_blobs.read()
    rows = [
        likeness(images, version, {path: row[version] for path, row in table.items() if version in row})
        for version in base_blobs.versions()
    ]
    most = max((len(row.same) for row in rows), default=0)
    return [row for row in rows if most and len(row.same) == most]


def _equal(one: str, other: str) -> bool:
    """Return whether two abbreviated blob ids can be of one blob."""
    return one.startswith(other) or other.startswith(one)


def _release_of(version: str, known: Sequence[str]) -> str:
    """Return the known release of a version or tag (v7.3-rc6, 7.2.6); empty if there is none."""
    found = re.fullmatch(r"v?(\d+\.\d+)(\.\d+|-rc\d+)*", version)
    return found[1] if found and found[1] in known else ""


def _nearest(version: str, known: Sequence[str]) -> str:
    """Return the known release nearest to a version; empty if the text is none."""
    try:
        wanted = kconfig.release(version.removeprefix("v"))
    except UsageError:
        return ""
    later = [one for one in known if kconfig.release(one) >= wanted]
    return later[0] if later else known[-1]
