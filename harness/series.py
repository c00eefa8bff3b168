"""A series: an ordered list of patches on a named base, with a manifest.

A series comes from a folder (``series.toml`` beside the patches, or the patches
alone as git format-patch leaves them) or from an mbox file as a mailing list
archive gives it.
"""

from __future__ import annotations

import difflib
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import diff, git, mail, store
from harness.command import CommandError
from harness.errors import ApplyError, UsageError
from harness.verdict import EXPECTABLE, Verdict

MANIFEST = "series.toml"
DEFAULT_BASE = "6.19"
DIALECTS = ("base", "map", "ioctl", "feature", "auto")
MAX_BYTES = 32 << 20  # of all patches; the largest series on the list have some 2 MiB


@dataclass(frozen=True)
class Patch:
    """One mail: ``content`` is the mail as it came, headers included."""

    name: str
    content: bytes
    subject: str


@dataclass(frozen=True)
class Series:
    """An ordered list of patches and what is known about them.

    ``base`` is the release it was made for ("6.19"); ``dialect`` one of DIALECTS;
    ``expect`` maps requirement ids, scenario ids and "default" to a verdict word;
    ``origin`` says for humans where it was read from.
    """

    name: str
    title: str
    base: str
    dialect: str
    patches: tuple[Patch, ...]
    expect: Mapping[str, str]
    origin: str

    @property
    def digest(self) -> str:
        """SHA-256 over base, dialect and the patches in order; names do not count."""
        return store.digest(self.base, self.dialect, *(patch.content for patch in self.patches))

    def expected(self, requirement_ids: Iterable[str], scenario_id: str) -> Verdict:
        """The verdict word expected of a scenario.

        The scenario's own entry decides; else each of its requirements has a
        word, its own or the default, and the worst one decides for all.
        """
        default = Verdict(self.expect.get("default", Verdict.CONFORMS))
        if scenario_id in self.expect:
            return Verdict(self.expect[scenario_id])
        words = [Verdict(self.expect.get(identity, default)) for identity in requirement_ids]
        return max(words, key=EXPECTABLE.index, default=default)


def unpatched(name: str, dialect: str) -> Series:
    """A series without patches, for a tree or a kernel that is tested as it is."""
    return Series(_slug(name), f"{name}, as it is", DEFAULT_BASE, dialect, (), {}, name)


def load(argument: str, patches_dir: Path) -> Series:
    """The series that ``argument`` means: a name below ``patches_dir``, a folder, or an mbox file.

    Raises UsageError when there is no such series, or it is empty or malformed.
    """
    named = patches_dir / argument
    if (
        argument
        and named.is_dir()
        and _inside(named, [patches_dir])
        and named.resolve() != patches_dir.resolve()
    ):
        return _load_folder(named, patches_dir)
    path = Path(argument)
    if argument and path.is_dir():
        return _load_folder(path, patches_dir)
    if argument and path.is_file():
        return _load_mbox(path)
    known = sorted(
        str(found.parent.relative_to(patches_dir)) for found in patches_dir.rglob(MANIFEST) if found.is_file()
    )
    near = difflib.get_close_matches(argument, known, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"There is no series {diff.printable(argument)!r}: it is neither a name below {patches_dir} nor "
        f"a folder of patches nor an mbox file.{guess} Known names: {', '.join(known) or 'none'}."
    )


def check(series: Series) -> list[list[diff.FileDiff]]:
    """Read every patch as git will, and refuse hostile content.

    Returns what each patch touches.  Raises ApplyError that names patch and file.
    """
    return [diff.read(patch.name, _body(patch)) for patch in series.patches]


def _body(patch: Patch) -> bytes:
    """The part of the mail that git am would apply, decoded by git itself."""
    with tempfile.TemporaryDirectory(prefix="patchproof-mail-") as folder:
        place = Path(folder)
        whole = place / "mail"
        whole.write_bytes(patch.content)
        env = git.environment()
        try:
            count = git.query(["mailsplit", "-b", f"-o{folder}", "--", str(whole)], env=env, cwd=place)
            if int(count) != 1:
                raise ApplyError(
                    f"The patch {diff.printable(patch.name)} is refused: git reads {int(count)} mails in it, "
                    "where one is wanted."
                )
            git.query(
                ["mailinfo", "--no-scissors", "message", "patch"],
                env=env,
                cwd=place,
                stdin=(place / "0001").read_bytes(),
            )
        except CommandError as error:
            raise ApplyError(
                f"The patch {diff.printable(patch.name)} is refused: git cannot read it as a mail.",
                tail=diff.printable(error.tail),
            ) from error
        return (place / "patch").read_bytes()


def _load_folder(folder: Path, patches_dir: Path) -> Series:
    manifest = folder / MANIFEST
    table: dict[str, object] = {}
    if manifest.is_file():
        try:
            table = tomllib.loads(manifest.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{manifest} is not a TOML file: {error}.") from error
    unknown = sorted(set(table) - {"title", "base", "dialect", "patches", "expect"})
    if unknown:
        raise UsageError(f"{manifest} has the key {diff.printable(unknown[0])!r}, which is not known.")
    listed = table.get("patches")
    if listed is None:
        names = sorted(path.name for path in folder.glob("*.patch"))
    elif isinstance(listed, list) and all(isinstance(name, str) for name in listed):
        names = listed
    else:
        raise UsageError(f"`patches` in {manifest} must be a list of file names.")
    loaded = _read_patches(folder, names, [folder, patches_dir])
    cover = [patch for patch in loaded if mail.is_cover(patch.subject)]
    patches = tuple(patch for patch in loaded if patch not in cover)
    title = _text(table, "title", manifest, mail.bare(cover[0].subject) if cover else folder.resolve().name)
    dialect = _text(table, "dialect", manifest, "auto")
    if dialect not in DIALECTS:
        raise UsageError(
            f"The dialect {diff.printable(dialect)!r} in {manifest} is none of {', '.join(DIALECTS)}."
        )
    if not patches and not (table and dialect == "base"):
        raise UsageError(
            f"The folder {folder} holds no patches. Put the *.patch files of git format-patch into it; only "
            f'a series whose {MANIFEST} says dialect = "base" may be without.'
        )
    base = _text(table, "base", manifest, DEFAULT_BASE)
    return Series(
        _slug(folder.resolve().name), title, base, dialect, patches, _expect(table, manifest), str(folder)
    )


def _read_patches(folder: Path, names: Sequence[str], roots: Sequence[Path]) -> list[Patch]:
    """The named patch files; only ordinary files below ``roots`` are read."""
    patches, room = [], MAX_BYTES
    for name in names:
        path = folder / name
        if not _inside(path, roots):
            raise UsageError(f"The patch {diff.printable(name)} leads out of the folder {folder}.")
        if not path.is_file():
            raise UsageError(f"There is no patch file {diff.printable(str(path))}.")
        with path.open("rb") as stream:
            content = stream.read(room + 1)
        room -= len(content)
        if room < 0:
            raise UsageError(f"The patches in {folder} are larger than {MAX_BYTES >> 20} MiB together.")
        patches.append(Patch(path.name, content, mail.subject(content)))
    return patches


def _load_mbox(path: Path) -> Series:
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UsageError(f"The mbox file {path} is larger than {MAX_BYTES >> 20} MiB.")
    try:
        title, mails = mail.series_of(content)
    except mail.NotASeriesError as reason:
        raise UsageError(f"The mbox file {path} cannot be tested: {reason}.") from None
    patches = tuple(
        Patch(f"{number:04}-{_slug(mail.bare(mail.subject(one)), 60)}.patch", one, mail.subject(one))
        for number, one in enumerate(mails, 1)
    )
    return Series(_slug(path.stem), title, DEFAULT_BASE, "auto", patches, {}, str(path))


def _expect(table: Mapping[str, object], manifest: Path) -> dict[str, str]:
    expect = table.get("expect", {})
    if not isinstance(expect, dict):
        raise UsageError(f"`expect` in {manifest} must be a table.")
    for key, word in expect.items():
        if word not in EXPECTABLE:
            raise UsageError(
                f"{manifest} expects {diff.printable(str(word))!r} of {diff.printable(key)}; "
                f"what can be expected is {', '.join(EXPECTABLE)}."
            )
    return expect


def _text(table: Mapping[str, object], key: str, manifest: Path, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"`{key}` in {manifest} must be a text.")
    return value.strip()


def _inside(path: Path, roots: Iterable[Path]) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(root.resolve()) for root in roots)


def _slug(text: str, limit: int = 80) -> str:
    """``text`` as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:limit] or "series"
