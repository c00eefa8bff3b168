"""A series: an ordered list of patches on a named base, with a manifest.

A series comes from a folder (``series.toml`` beside the patches, or the patches
of git format-patch alone) or from an mbox file of a mailing list archive.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.lib import files
from harness.lib.errors import ApplyError, UsageError
from harness.lib.text import printable, slug
from harness.series import diff, folder, identity, maildir, mailinfo, mbox, prefix, public, selftest, trailers
from harness.series.choose import choose, revision_of_text
from harness.series.draft import Revision, revision_of
from harness.series.mail import Mail
from harness.series.manifest import MANIFEST, Manifest, group
from harness.series.mbox import NotASeriesError
from harness.series.posting import Posting
from harness.series.prefix import Prefix
from harness.series.public import PublicManifest
from harness.series.unpack import UnpackError, unpack
from harness.verdict.verdict import EXPECTABLE, Verdict

DEFAULT_BASE = "6.19"
_COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
MAX_BYTES = 32 << 20  # of all patches; the largest series on the mailing list have some 2 MiB


@dataclass(frozen=True)
class Patch:
    """One mail: ``content`` is the unchanged mail with its headers, ``subject`` is decoded."""

    name: str
    content: bytes
    subject: str


@dataclass(frozen=True)
class Series:
    """An ordered list of patches, with their base, dialect and expected verdicts.

    ``base`` is the release that the patches were made for ("6.19"), empty if no manifest
    names one; ``dialect`` is one of manifest.DIALECTS.  ``expect`` maps requirement ids ("REV-01"), groups of
    them ("REV"), scenario ids and "default" to a verdict word.  ``origin`` is the
    place that the series was read from, for people.  ``prefixes`` are in ascending
    order of their limits.  ``posting`` has what the mails say of themselves.
    ``bases`` has the series as it is tested on other bases, where that differs.
    ``selftest`` says how its own test programs are run.  ``cover`` is the cover letter, if there is one.
    """

    name: str
    title: str
    base: str
    dialect: str
    patches: tuple[Patch, ...]
    expect: Mapping[str, str]
    origin: str
    prefixes: tuple[Prefix, ...] = ()
    posting: Posting = field(default_factory=Posting)
    bases: Mapping[str, Series] = field(default_factory=dict)
    selftest: selftest.Table = field(default_factory=selftest.Table)
    cover: Mail | None = None
    untrusted: bool = False

    @property
    def digest(self) -> str:
        """Return the SHA-256 over base, dialect and the patches in order; names do not count."""
        return files.digest(self.base, self.dialect, *(patch.content for patch in self.patches))

    @property
    def identity(self) -> str:
        """Return the digest of the patch-ids, which names the series however it came; see identity.of()."""
        return identity.of(tuple((patch.name, patch.content) for patch in self.patches))

    def expected(self, requirement_ids: Iterable[str], scenario_id: str) -> Verdict:
        """Return the verdict word expected of a scenario.

        An entry for ``scenario_id`` decides.  Without one, each requirement has the
        word of its own entry, of its group or the default, and the worst word decides.
        """
        default = Verdict(self.expect.get("default", Verdict.CONFORMS))
        if scenario_id in self.expect:
            return Verdict(self.expect[scenario_id])
        words = [
            Verdict(self.expect.get(identity, self.expect.get(group(identity), default)))
            for identity in requirement_ids
        ]
        return max(words, key=EXPECTABLE.index, default=default)

    def on(self, release: str) -> Series:
        """Return the series as it is tested on the base ``release`` ("7.2"), with that base.

        A manifest may expect other verdicts there, or name another series with patches for
        that base.  Both are known of a whole series only, not of the result of first().
        """
        return self.bases.get(release) or replace(self, base=release)

    def first(self, count: int) -> Series:
        """Return the series of the first ``count`` patches alone, 0 to all; for all, the series itself.

        Without a matching prefix in the manifest, the expected verdicts stay and the
        dialect is "auto", so the installed headers decide.  Raises UsageError for a ``count`` out of range.
        """
        whole = len(self.patches)
        if not 0 <= count <= whole:
            raise UsageError(f"The series {self.name} has {whole} patches, so there are no first {count}.")
        if count == whole:
            return self
        dialect, expect = "auto", self.expect
        for one in self.prefixes:
            if one.limit >= count:
                dialect, expect = one.dialect, one.expect
                break
        return replace(
            self,
            name=f"{self.name}-{count}of{whole}",
            title=f"{self.title}, the first {count} of {whole} patches",
            dialect=dialect,
            patches=self.patches[:count],
            expect=expect,
            prefixes=(),
            bases={},
        )


def unpatched(name: str, dialect: str) -> Series:
    """Return a series without patches, for a tree or a kernel that is tested unchanged."""
    return Series(slug(name), f"{name}, as it is", "", dialect, (), {}, name)


def load(
    argument: str, patches_dir: Path, *, revision: str | int | None = None, message_id: str = ""
) -> Series:
    """Return the series ``argument``: a name below ``patches_dir``, a folder, a maildir or an mbox file.

    ``revision`` chooses one of several, as ``4`` or ``RFC2``; else ``message_id`` chooses
    the one of that mail, in an mbox file.  Raises UsageError when
    there is no such series, or it is empty or malformed.
    """
    try:
        wanted = None if revision is None else revision_of_text(str(revision))
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    named = patches_dir / argument
    if (
        argument
        and named.is_dir()
        and _inside(named, [patches_dir])
        and named.resolve() != patches_dir.resolve()
    ):
        return _load_folder(named, patches_dir, wanted)
    path = Path(argument)
    if argument and path.is_dir() and maildir.is_maildir(path):
        return _load_maildir(path, patches_dir, wanted)
    if argument and path.is_dir():
        return _load_folder(path, patches_dir, wanted)
    if argument and path.is_file():
        return _load_mbox(path, patches_dir, wanted, message_id)
    known = sorted(
        str(found.parent.relative_to(patches_dir)) for found in patches_dir.rglob(MANIFEST) if found.is_file()
    )
    near = difflib.get_close_matches(argument, known, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"There is no series {printable(argument)!r}: it is neither a name below {patches_dir} nor "
        f"a folder of patches nor an mbox file nor a message-id.{guess} "
        f"Known names: {', '.join(known) or 'none'}."
    )


def check(series: Series) -> list[list[diff.FileDiff]]:
    """Read every patch as git will, and return the files that each one touches.

    Raises ApplyError, which names patch and file, for hostile content.
    """
    mailinfo.decode_ahead(patch.content for patch in series.patches)
    return [_changes(patch) for patch in series.patches]


def _changes(patch: Patch) -> list[diff.FileDiff]:
    try:
        return diff.read(patch.name, mailinfo.decode(patch.name, patch.content).patch)
    except ApplyError as error:
        if not Mail(patch.content).is_flowed:
            raise
        raise ApplyError(
            f"{error.message} The mail is format=flowed: the sender's mail program may have wrapped lines of "
            "the diff, or removed blanks."
        ) from error


def of_mails(
    mails: Sequence[Mail],
    name: str,
    origin: str,
    patches_dir: Path,
    *,
    revision: Revision | None = None,
    message_id: str = "",
    notes: Sequence[str] = (),
) -> Series:
    """Return the series in the mails of an mbox file or of a maildir, which are in their order.

    ``revision`` and ``message_id`` choose one, as for load().  ``notes`` are told to the
    user beside those about the choice.  Raises NotASeriesError.
    """
    chosen = choose(mails, wanted=revision, message_id=message_id)
    names = [f"{number:04}-{slug(mail.tag.title, 60)}.patch" for number, mail in enumerate(chosen.patches, 1)]
    known = _public(chosen.cover, chosen.patches, patches_dir)
    return Series(
        name=slug(name),
        title=chosen.title,
        base=known.base,
        dialect=known.dialect,
        patches=tuple(
            Patch(file, mail.content, mail.subject) for file, mail in zip(names, chosen.patches, strict=True)
        ),
        expect=known.expect,
        origin=origin,
        posting=_posting(chosen.cover, chosen.patches, known, (*notes, *chosen.notes)),
        selftest=known.selftest,
        cover=chosen.cover,
        untrusted=True,
    )


def _load_mbox(path: Path, patches_dir: Path, revision: Revision | None, message_id: str) -> Series:
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UsageError(f"The mbox file {path} is larger than {MAX_BYTES >> 20} MiB.")
    try:
        box = mbox.read(unpack(content, MAX_BYTES))
        return of_mails(
            box.mails,
            _stem(path),
            str(path),
            patches_dir,
            revision=revision,
            message_id=message_id,
            notes=box.notes,
        )
    except (NotASeriesError, UnpackError) as reason:
        raise UsageError(f"The mbox file {path} cannot be tested: {reason}.") from None


def _load_maildir(path: Path, patches_dir: Path, revision: Revision | None) -> Series:
    mails = [Mail(content) for content in maildir.read(path, MAX_BYTES)]
    try:
        return of_mails(mails, path.resolve().name, str(path), patches_dir, revision=revision)
    except NotASeriesError as reason:
        raise UsageError(f"The maildir {path} cannot be tested: {reason}.") from None


def _load_folder(path: Path, patches_dir: Path, revision: Revision | None) -> Series:
    manifest = Manifest.read(path / MANIFEST)
    contents = folder.read(path, manifest.patches, [path, patches_dir], MAX_BYTES, revision)
    if not any(mail.has_diff for mail in contents.mails) and manifest.dialect == "base":
        contents = replace(contents, mails=())
    elif not contents.mails:
        raise UsageError(
            f"The folder {path} holds no patches. Put the *.patch files of git format-patch into it; only "
            f'a series whose {MANIFEST} says dialect = "base" may be without.{folder.advice(path)}'
        )
    try:
        cover, patches, notes = _of_folder(contents, revision)
    except NotASeriesError as reason:
        raise UsageError(f"The folder {path} cannot be tested: {reason}.") from None
    known = PublicManifest()
    if not manifest.path.is_file():
        known = _public(cover, patches, patches_dir)
        manifest = replace(
            manifest,
            base=known.base,
            dialect=known.dialect,
            expect=known.expect,
            selftest=known.selftest,
        )
    name = path.resolve().name
    loaded_for = manifest.base or ""
    whole = Series(
        name=slug(name),
        title=manifest.title or (cover.tag.title if cover else name),
        base=loaded_for,
        dialect=manifest.dialect,
        patches=tuple(Patch(mail.name, mail.content, mail.subject) for mail in patches),
        expect={},
        origin=str(path),
        posting=_posting(cover, patches, known, notes),
        selftest=manifest.selftest,
        cover=cover,
    )
    bases = {
        release: _on_base(manifest, whole, release, patches_dir)
        for release in prefix.releases(manifest, patches_dir)
    }
    return replace(_expecting(manifest, whole, loaded_for, patches_dir), bases=bases)


def _on_base(manifest: Manifest, whole: Series, release: str, patches_dir: Path) -> Series:
    """Return the series that is tested on ``release``: ``whole``, or another one that the manifest names."""
    table = manifest.bases.get(release)
    if table is None or table.series is None:
        return replace(_expecting(manifest, whole, release, patches_dir), base=release)
    path = patches_dir / table.series
    if not (_inside(path, [patches_dir]) and (path / MANIFEST).is_file()):
        raise UsageError(f"{manifest.path} names for {release} a series that is not there: {path}.")
    other = Manifest.read(path / MANIFEST).bases.get(release)
    if other is not None and other.series is not None:
        raise UsageError(
            f"{manifest.path} names for {release} a series that names another one itself: {path}."
        )
    found = _load_folder(path, patches_dir, None).on(release)
    note = f"For the base {release} the series {whole.name} has patches of its own: {found.name} is tested."
    return replace(found, posting=replace(found.posting, notes=(*found.posting.notes, note)))


def _expecting(manifest: Manifest, whole: Series, release: str, patches_dir: Path) -> Series:
    """Return ``whole`` with the expected verdicts that it and its prefixes have on ``release``."""
    there = manifest.on(release)
    all_of_it = Prefix(len(whole.patches), there.dialect, there.expect)
    return replace(
        whole, expect=there.expect, prefixes=prefix.resolve(there, all_of_it, patches_dir, release)
    )


def _of_folder(
    contents: folder.Contents, revision: Revision | None
) -> tuple[Mail | None, tuple[Mail, ...], tuple[str, ...]]:
    """Return the cover letter, the patches and the notes of a folder.  Raises NotASeriesError."""
    if not contents.listed and contents.mails:
        chosen = choose(contents.mails, wanted=revision, folder=True, ordered=contents.ordered)
        return chosen.cover, chosen.patches, (*contents.notes, *chosen.notes)
    patches = [mail for mail in contents.mails if not mbox.is_cover(mail.subject)]
    for mail in patches:
        if not mail.has_diff:
            raise NotASeriesError(f"the mail {mail.shown} holds no diff that git would apply")
        if revision is not None and revision_of(mail) != revision:
            raise NotASeriesError(
                f"it holds no revision {revision}; {mail.shown} is of revision {revision_of(mail)}"
            )
    cover = next((mail for mail in contents.mails if mail not in patches), None)
    return cover, tuple(patches), contents.notes


def _public(cover: Mail | None, patches: Sequence[Mail], patches_dir: Path) -> PublicManifest:
    mails = patches if cover is None else [cover, *patches]
    return public.find(patches_dir, [mail.message_id for mail in mails])


def _posting(
    cover: Mail | None, patches: Sequence[Mail], known: PublicManifest, notes: Sequence[str]
) -> Posting:
    if not patches:
        return Posting(notes=tuple(notes))
    stated = trailers.posting(cover, patches)
    return replace(stated, manifest=known.name, notes=(*notes, *known.notes, *stated.notes))


def _stem(path: Path) -> str:
    """Return the name of an mbox file without its suffixes: ``v4`` of v4.mbox.gz."""
    return Path(path.name.removesuffix(path.suffix) if path.suffix in _COMPRESSED else path.name).stem


def _inside(path: Path, roots: Iterable[Path]) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(root.resolve()) for root in roots)
