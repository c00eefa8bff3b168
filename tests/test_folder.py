"""A folder of patches is checked as a series, as an mbox file is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mails import BOB, PATCHES, diff, mail, patch, subjects, titles

from harness.lib.errors import UsageError
from harness.series import series
from harness.series.series import Series


def numbered(number: int, total: int, tag: str = "PATCH", title: str = "") -> bytes:
    return mail(f"[{tag} {number}/{total}] {title or f'vfio: part {number}'}", patch(4 * number))


def bare(number: int, tag: str = "[PATCH] ") -> bytes:
    return mail(f"{tag}vfio: part {number}", patch(4 * number))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def load(folder: Path, files: dict[str, bytes], revision: str | None = None) -> Series:
    return series.load(str(write(folder / "mine", files)), PATCHES, revision=revision)


def refusal_of(folder: Path, files: dict[str, bytes], revision: str | None = None) -> str:
    with pytest.raises(UsageError) as refusal:
        load(folder, files, revision)
    assert str(refusal.value).isprintable()
    return str(refusal.value)


# --- order


@pytest.mark.parametrize("name", ["{}.patch", "p{}.patch", "{:04}-x.patch", "{}.eml", "z{}.PATCH"])
def test_folder_with_numbers_in_the_subjects_has_their_order(tmp_path: Path, name: str) -> None:
    loaded = load(tmp_path, {name.format(12 - n): numbered(n, 11) for n in range(1, 12)})
    assert titles(loaded) == [f"vfio: part {n}" for n in range(1, 12)]


@pytest.mark.parametrize("tag", ["", "[PATCH] ", "[PATCH v3] ", "[media] "])
@pytest.mark.parametrize("name", ["{}.patch", "{:04}-x.patch", "v3-{:04}-x.patch", "RFC-v3-{:04}-x.patch"])
def test_folder_with_numbers_in_the_names_has_their_order(tmp_path: Path, name: str, tag: str) -> None:
    loaded = load(tmp_path, {name.format(n): bare(n, tag) for n in range(1, 12)})
    assert subjects(loaded) == [f"{tag}vfio: part {n}" for n in range(1, 12)]
    assert [one.name for one in loaded.patches] == [name.format(n) for n in range(1, 12)]


def test_folder_with_one_message_id_for_all_is_read(tmp_path: Path) -> None:
    files = {f"{n}.patch": mail(f"[PATCH {n}/2] vfio: part {n}", patch(10 * n), name="1") for n in (1, 2)}
    assert titles(load(tmp_path, files)) == ["vfio: part 1", "vfio: part 2"]


def test_folder_of_a_threaded_format_patch_is_a_series(tmp_path: Path) -> None:
    first = mail("[PATCH] vfio: a", patch(10), name="1")
    second = mail("[PATCH] vfio: b", patch(20), name="2", to="1")
    assert titles(load(tmp_path, {"0001-a.patch": first, "0002-b.patch": second})) == ["vfio: a", "vfio: b"]


def test_folder_with_one_mbox_of_patches_is_read(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"all.patch": numbered(2, 2) + numbered(1, 2)})
    assert titles(loaded) == ["vfio: part 1", "vfio: part 2"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.patch": bare(1), "b.patch": bare(2)}, "order of the patches"),
        ({"0001-a.patch": bare(1), "b.patch": bare(2)}, "name of b.patch has a number"),
        ({"0001-a.patch": bare(1), "0003-c.patch": bare(3)}, "lacks patch 2 of 3"),
        ({"0002-b.patch": bare(2), "0003-c.patch": bare(3)}, "lacks patch 1 of 3"),
        (
            {"v1-0001-a.patch": bare(1), "v2-0001-a.patch": bare(2)},
            "one number, v1-0001-a.patch and v2-0001-a.patch",
        ),
        ({"v1-0001-a.patch": bare(1), "v2-0002-b.patch": bare(2)}, "several revisions"),
        ({"0001-a.patch": numbered(1, 3), "0003-c.patch": numbered(3, 3)}, "lacks patch 2 of 3"),
        (
            {"0001-a.patch": numbered(1, 2), "0002-b.patch": numbered(2, 2), "0003-c.patch": numbered(3, 3)},
            "[PATCH 3/3] vfio: part 3' in 0003-c.patch",
        ),
        (
            {
                "0001-a.patch": numbered(1, 2),
                "0002-b.patch": numbered(2, 2),
                "0002-old.patch": numbered(2, 2),
            },
            "patch 2/2 twice",
        ),
        ({"0001-a.patch": numbered(1, 1), "0002-b.patch": bare(2)}, "not numbered as one series"),
        (
            {"0001-a.patch": numbered(1, 1), "note.patch": mail("A note")},
            "'A note' in note.patch holds no diff",
        ),
        ({"0001-a.patch": numbered(1, 1), "b.patch": diff(10).encode()}, "b.patch in"),
        ({"0001-a.patch": numbered(1, 1), "b.patch": b"junk"}, "does not begin with a mail"),
        (
            {"0000-c.patch": mail("[PATCH 0/2] vfio: all"), "0001-a.patch": bare(1)},
            "not numbered as one series",
        ),
        ({"x.diff": diff(10).encode()}, "x.diff, by its name a diff and no mail"),
        ({"v4.mbox": numbered(1, 1)}, "It holds v4.mbox; name that file itself"),
        ({"v1/0001-a.patch": numbered(1, 1), "v2/0001-a.patch": numbered(1, 1)}, "folders v1, v2; name one"),
        ({"README": b"Nothing."}, "holds no patches"),
        ({"0001-a.patch": numbered(1, 1), "0002-b.patch": b"\n"}, "0002-b.patch in"),
        ({"0001-a.patch": numbered(1, 1), "0002-b.patch": b""}, "cannot be tested: it is empty"),
        (
            {"t.patch": numbered(1, 1) + mail("Re: [PATCH 1/1] vfio: part 1", "Good.\n")},
            "holds no diff; name the file t.patch itself",
        ),
    ],
)
def test_folder_that_is_no_series_is_refused(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    assert says in refusal_of(tmp_path, files)


# --- what is no patch


@pytest.mark.parametrize(
    "name",
    [
        "._0001-a.patch",
        ".0001-a.patch",
        "0001-a.patch~",
        "0001-a.patch.orig",
        "0001-a.patch.rej",
        "0001-a.patch.bak",
    ],
)
def test_folder_without_leftovers_is_the_series(tmp_path: Path, name: str) -> None:
    loaded = load(tmp_path, {"0001-a.patch": bare(1), name: b"\x00\x05\x16\x07"})
    assert [one.name for one in loaded.patches] == ["0001-a.patch"]
    assert loaded.posting.notes == ()


def test_folder_with_a_diff_beside_patches_says_so(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"0001-a.patch": bare(1), "whole.diff": diff(10).encode()})
    assert len(loaded.patches) == 1
    assert loaded.posting.notes == ("Left out: whole.diff, by its name a diff and no mail.",)


@pytest.mark.parametrize(
    ("name", "subject", "title"),
    [
        ("v3-0000-cover-letter.patch", "[PATCH v3 0/2] vfio: all", "vfio: all"),
        ("0000-cover-letter.patch", "[PATCH v3 00/02] vfio: all", "vfio: all"),
        ("v3-0000-cover-letter.patch", "vfio: a cover made by hand", "mine"),
    ],
)
def test_folder_with_a_cover_letter_leaves_it_out(
    tmp_path: Path, name: str, subject: str, title: str
) -> None:
    patches = {f"v3-000{n}-x.patch": numbered(n, 2, "PATCH v3") for n in (1, 2)}
    loaded = load(tmp_path, {name: mail(subject), **patches})
    assert (len(loaded.patches), loaded.title) == (2, title)


# --- revisions


def two_revisions() -> dict[str, bytes]:
    first = {f"v1-000{n}-x.patch": numbered(n, 2) for n in (1, 2)}
    return {**first, **{f"v2-000{n}-x.patch": numbered(n, 3, "PATCH v2") for n in (1, 2, 3)}}


def test_folder_of_two_revisions_is_refused(tmp_path: Path) -> None:
    assert "it holds the revisions 1, 2; keep one" in refusal_of(tmp_path, two_revisions())


@pytest.mark.parametrize(("revision", "count"), [("1", 2), ("2", 3)])
def test_folder_of_two_revisions_gives_the_wanted_one(tmp_path: Path, revision: str, count: int) -> None:
    loaded = load(tmp_path, two_revisions(), revision)
    assert (len(loaded.patches), loaded.posting.revision) == (count, int(revision))


# --- lists


@pytest.mark.parametrize(("revision", "line"), [("1", 1), ("2", 2)])
def test_folder_of_two_revisions_by_name_gives_one(tmp_path: Path, revision: str, line: int) -> None:
    files = {
        "0001-part-1.patch": bare(1),
        "0002-part-3.patch": bare(3),
        "v2-0001-part-2.patch": bare(2, "[PATCH v2] "),
        "v2-0002-part-4.patch": bare(4, "[PATCH v2] "),
    }
    loaded = load(tmp_path, files, revision)
    assert titles(loaded) == [f"vfio: part {line}", f"vfio: part {line + 2}"]


def test_folder_of_quilt_with_unlisted_patches_names_them(tmp_path: Path) -> None:
    files = {
        "a.patch": bare(1),
        "b.patch": bare(2),
        "c.patch": bare(3),
        "series": b"\xef\xbb\xbf./b.patch\r\n",
    }
    loaded = load(tmp_path, files)
    assert titles(loaded) == ["vfio: part 2"]
    assert loaded.posting.notes[1:] == (
        f"Left out: a.patch, c.patch, which {tmp_path / 'mine' / 'series'} does not list.",
    )


def test_folder_of_quilt_has_the_order_of_its_list(tmp_path: Path) -> None:
    listed = (
        b"# the order\n\nz-first.patch\na/second.patch -p1 # with a word\n#unused.patch\nthird.patch -p 1\n"
    )
    files = {"z-first.patch": bare(1, ""), "a/second.patch": bare(2, ""), "third.patch": bare(3, "")}
    loaded = load(tmp_path, {"series": listed, **files, "unused.patch": bare(4, "")})
    assert subjects(loaded) == ["vfio: part 1", "vfio: part 2", "vfio: part 3"]
    order, left_out = loaded.posting.notes
    assert "mine/series" in order
    assert left_out.startswith("Left out: unused.patch, which ")


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        (b"a.patch -p0\n", "line 1, cannot be followed: the option '-p0'"),
        (b"a.patch\nb.patch -R\n", "line 2, cannot be followed: the option '-R'"),
        (b"+net a.patch\n", "guards (+net)"),
        (b"a.patch\na.patch\n", "a.patch is listed twice"),
        (b"# nothing\n", "lists no patch"),
        (b"gone.patch\n", "There is no patch file"),
        (b"../../../etc/passwd\n", "leads out of the folder"),
        (b"b.patch\n", "b.patch in"),
        (b"\x1b[2J\n", "There is no patch file"),
    ],
)
def test_folder_of_quilt_with_a_bad_list_is_refused(tmp_path: Path, listed: bytes, says: str) -> None:
    message = refusal_of(tmp_path, {"series": listed, "a.patch": bare(1), "b.patch": diff(10).encode()})
    assert says in message


def test_folder_with_a_manifest_keeps_its_order(tmp_path: Path) -> None:
    listed = b'patches = ["b.patch", "a.patch"]\n'
    loaded = load(
        tmp_path, {"series.toml": listed, "a.patch": bare(1), "b.patch": bare(2), "c.patch": bare(3)}
    )
    assert titles(loaded) == ["vfio: part 2", "vfio: part 1"]


@pytest.mark.parametrize("revision", ["2", "RFC1"])
def test_folder_with_a_list_lacks_another_revision(tmp_path: Path, revision: str) -> None:
    files = {"series.toml": b'patches = ["a.patch"]\n', "a.patch": bare(1)}
    assert "is of revision 1" in refusal_of(tmp_path, files, revision)
    assert len(load(tmp_path, files, "1").patches) == 1


def test_folder_with_a_list_of_a_mail_without_diff_is_refused(tmp_path: Path) -> None:
    files = {"series.toml": b'patches = ["a.patch"]\n', "a.patch": mail("[PATCH] a", sender=BOB)}
    assert "holds no diff" in refusal_of(tmp_path, files)


# --- hostile folders


def test_folder_with_a_link_out_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bare(1))
    write(tmp_path / "mine", {"0001-a.patch": bare(1)})
    (tmp_path / "mine" / "0002-b.patch").symlink_to(tmp_path / "secret")
    assert "leads out of the folder" in refusal_of(tmp_path, {})


def test_folder_with_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"0001-a.patch": numbered(1, 1)})
    (folder / "0002-b.patch").symlink_to("0002-b.patch")
    assert "0002-b.patch is a link to itself" in refusal_of(tmp_path, {})


def test_folder_with_a_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    os.mkfifo(tmp_path / "mine" / "0001-a.patch")
    assert "There is no patch file" in refusal_of(tmp_path, {})
