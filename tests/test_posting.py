"""Reading what mails state about themselves, and the manifests of public revisions."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from mails import BOB, PATCHES, diff, load, mail, patch, posting

from harness.lib.errors import UsageError
from harness.series import public, series

BASE = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"
TRAILERS = f"\nbase-commit: {BASE}\nprerequisite-patch-id: {OTHER}\n"


def with_cover(text: str, *, to: str = "") -> list[bytes]:
    cover = mail("[PATCH v2 0/2] vfio: all", text, name="0", to=to)
    return [cover, *posting("[PATCH v2 {}]")[1:]]


def with_first(body: str) -> list[bytes]:
    return [mail("[PATCH 1/2] vfio: part 1", body, name="1"), posting()[2].replace(b"<0@", b"<1@")]


# --- base commit and prerequisites


@pytest.mark.parametrize(
    "mails",
    [
        with_cover(f"All of it.\n{TRAILERS}-- \n2.47.1\n"),
        with_cover(f"All of it.\n\n---\nbase-commit: {BASE}  \nchange-id: 20260301-vfio-0123456789ab\n"
                   f"prerequisite-patch-id: {OTHER}\n\nBest regards,\n-- \nAnn\n"),
        with_first(f"Why.\n---\n x | 2 +-\n\n{diff(10)}{TRAILERS}-- \n2.47.1\n"),
        with_first(f"Why.\n---\n{TRAILERS}\n{diff(10)}-- \n2.47.1\n"),
    ],
    ids=["cover", "b4", "first patch", "comment"],
)  # fmt: skip
def test_posting_has_its_base_commit(tmp_path: Path, mails: list[bytes]) -> None:
    read = load(tmp_path, mails).posting
    assert (read.base_commit, read.prerequisites) == (BASE, (OTHER,))
    assert any(f"made for the commit {BASE}" in said for said in read.sentences())
    assert any("need 1 other patch first" in said for said in read.sentences())


@pytest.mark.parametrize(
    "mails",
    [
        with_first(f"Why.\n\nbase-commit: {BASE}\n---\n{diff(10)}"),
        with_first(f"Why.\n---\n{diff(10).replace('int changed_10', f'base-commit: {BASE}')}"),
        with_cover(f"> base-commit: {BASE}\n  base-commit: {BASE}\nthe base-commit: {BASE}\n"),
        [*posting(), mail("Re: [PATCH 0/2] vfio: all", f"base-commit: {BASE}\n", to="0", sender=BOB)],
        [*posting()[:2], mail("[PATCH 2/2] vfio: part 2", f"{patch(20)}{TRAILERS}", name="2", to="0")],
    ],
    ids=["message", "diff", "quoted", "answer", "last patch"],
)
def test_posting_has_no_base_commit_from_elsewhere(tmp_path: Path, mails: list[bytes]) -> None:
    read = load(tmp_path, mails).posting
    assert (read.base_commit, read.prerequisites, read.notes) == ("", (), ())


@pytest.mark.parametrize("value", ["v6.19", BASE[:12], BASE.upper(), f"{BASE}; rm -rf /", "\x1b[2J", "--all"])
def test_posting_with_a_malformed_base_commit_says_so(tmp_path: Path, value: str) -> None:
    read = load(tmp_path, with_cover(f"\nbase-commit: {value}\n")).posting
    assert read.base_commit == ""
    (note,) = read.notes
    assert "is malformed and is not used" in note
    assert note.isprintable()


@pytest.mark.parametrize("begin", ["base-commit:", "v1:", "v1", "patch", ""])
def test_posting_full_of_blanks_is_read(tmp_path: Path, begin: str) -> None:
    blanks = " " * 200_000  # an expression that goes back over them took minutes
    line = f"{begin}{blanks}x{blanks}y\n"
    loaded = load(tmp_path, [mail("[PATCH] vfio: x", patch(10) + line)])
    assert loaded.posting.base_commit == ""
    assert loaded.posting.previous == ()


def test_posting_with_two_base_commits_has_none(tmp_path: Path) -> None:
    read = load(tmp_path, with_cover(f"\nbase-commit: {BASE}\nbase-commit: {OTHER}\n")).posting
    assert read.base_commit == ""
    assert "several base commits" in read.notes[0]


def test_posting_has_the_trailers_of_b4(tmp_path: Path) -> None:
    text = "---\nchange-id: 20260301-vfio-0123456789ab\nprerequisite-message-id: <a.b@example.org>\n"
    read = load(tmp_path, with_cover(text)).posting
    assert read.change_id == "20260301-vfio-0123456789ab"
    assert read.prerequisite_messages == ("a.b@example.org",)


# --- earlier revisions


@pytest.mark.parametrize(
    "line",
    [
        "- Link to v1: URL",
        "Link to v1: URL",
        "v1: URL",
        "RFC: URL",
        "RFC v1: URL",
        "  * v1: <URL>",
        "[1] v1: URL",
        "v1 -> v2: URL",
        "Changes since v1: URL",
        "Previous version: URL",
        "v1:\nURL",
    ],
)
def test_posting_has_links_to_earlier_revisions(tmp_path: Path, line: str) -> None:
    url = "https://lists.example.org/all/20260301.1-1-ann@example.org/"
    text = f"All.\n\nSee https://example.org/x too.\n: https://example.org/y\n{line.replace('URL', url)}\n"
    assert load(tmp_path, with_cover(text)).posting.previous == (url,)


def test_posting_in_answer_to_another_names_it(tmp_path: Path) -> None:
    assert load(tmp_path, with_cover("All.\n", to="old")).posting.previous == ("old@example.org",)
    assert load(tmp_path, posting()[1:]).posting.previous == ()


# --- manifests of public revisions


def manifests(folder: Path, **files: str) -> Path:
    (folder / "patches" / "public").mkdir(parents=True)
    for name, content in files.items():
        (folder / "patches" / "public" / f"{name}.toml").write_text(content)
    return folder / "patches"


def prefix_of(text: str) -> str:
    return f'message-id-prefix = "20260301.77"\n{text}'


def posted(prefix: str = "20260301.77-") -> list[bytes]:
    return posting(prefix=prefix)


@pytest.mark.parametrize(
    ("base", "release", "says"),
    [
        ("v6.19", "6.19", None),
        ("7.1", "7.1", None),
        ("v7.1.3", "7.1", None),
        ("v7.3-rc4", "7.3", "base v7.3-rc4; 7.3 is taken for it"),
        ("next-20260310", "", "'next-20260310', which is no release"),
        ("vfio next", "", "'vfio next', which is no release"),
    ],
)
def test_public_manifest_gives_base_dialect_and_words(
    tmp_path: Path, base: str, release: str, says: str | None
) -> None:
    content = prefix_of(f'base = "{base}"\ndialect = "ioctl"\n[expect]\nMAP = "violates"\n')
    loaded = load(tmp_path, posted(), patches=manifests(tmp_path, v2=content))
    assert (loaded.base, loaded.dialect, loaded.expect) == (release, "ioctl", {"MAP": "violates"})
    assert loaded.posting.manifest == "patches/public/v2.toml"
    assert "manifest patches/public/v2.toml, found by the Message-ID" in loaded.posting.notes[0]
    assert [says is not None and says in note for note in loaded.posting.notes[1:]] == [True] * (
        says is not None
    )


@pytest.mark.parametrize("prefix", ["20260301.778-", "20260301.7-", "x20260301.77-"])
def test_public_manifest_of_another_revision_is_not_used(tmp_path: Path, prefix: str) -> None:
    loaded = load(tmp_path, posted(prefix), patches=manifests(tmp_path, v2=prefix_of('base = "7.1"')))
    assert (loaded.base, loaded.dialect, loaded.posting.manifest) == ("", "auto", "")


def test_public_manifest_is_found_without_the_cover_letter(tmp_path: Path) -> None:
    loaded = load(tmp_path, posted()[1:], patches=manifests(tmp_path, v2=prefix_of('base = "7.1"')))
    assert loaded.base == "7.1"


def test_public_manifests_of_one_revision_are_refused(tmp_path: Path) -> None:
    patches = manifests(tmp_path, v2=prefix_of(""), again=prefix_of(""))
    with pytest.raises(UsageError, match=r"again\.toml and .*v2\.toml"):
        load(tmp_path, posted(), patches=patches)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (prefix_of("base = 7.1"), "`base`"),
        (prefix_of("dialect = 'klingon'"), "'klingon'"),
        (prefix_of("[expect]\nMAP-01 = 'perhaps'"), "'perhaps'"),
        (prefix_of("patches = []"), "'patches', which is not known"),
        ("title = 'x", "not a TOML file"),
    ],
)
def test_public_manifest_that_is_malformed_is_refused(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        load(tmp_path, posted(), patches=manifests(tmp_path, v2=content))
    assert says in str(refusal.value)
    assert "v2.toml" in str(refusal.value)


def test_public_manifest_gives_way_to_that_of_a_folder(tmp_path: Path) -> None:
    patches = manifests(tmp_path, v2=prefix_of('base = "7.1"'))
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, content in enumerate(posted()):
        (folder / f"{number:04}.patch").write_bytes(content)
    assert series.load(str(folder), patches).base == "7.1"
    (folder / "series.toml").write_text('base = "6.19"\n')
    loaded = series.load(str(folder), patches)
    assert (loaded.base, loaded.posting.manifest) == ("6.19", "")


def test_public_manifests_of_the_project_are_well_formed() -> None:
    for path in sorted((PATCHES / public.FOLDER).glob("*.toml")):
        prefix = tomllib.loads(path.read_text()).get("message-id-prefix")
        if prefix is not None:
            found = public.find(PATCHES, [f"{prefix}-1-x@example.org"])
            assert found.name == f"patches/public/{path.name}"
