"""The choice of the base: by option, by commit, by manifest, by the files that patches were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from small_kernel import make_base

from harness.kernel import base_blobs, base_choice, pins
from harness.kernel.base_choice import BaseChoice
from harness.lib.errors import UsageError
from harness.series.posting import Posting
from harness.series.series import DEFAULT_BASE, Patch, Series, check

CORE = "drivers/vfio/pci/vfio_pci_core.c"
UAPI = "include/uapi/linux/vfio.h"
OTHER = "arch/x86/kernel/setup.c"
# A table of this test: the file UAPI did not change from 7.1 to 7.2.
BLOBS = {
    CORE: {"6.19.6": "a" * 12, "7.1.3": "b" * 12, "7.2.6": "c" * 12, "7.3.4": "d" * 12},
    UAPI: {"6.19.6": "1" * 12, "7.1.3": "2" * 12, "7.2.6": "2" * 12, "7.3.4": "3" * 12},
    "drivers/dma-buf/gone.c": {"6.19.6": "e" * 12},
}
BY_MANIFEST = "the manifest of the series names it"


def change(path: str, blob: str, *, new: str = "9" * 12) -> str:
    """Return a diff of one file, whose blob was ``blob``: zeros for a new file, empty for no index line."""
    made = bool(blob) and not blob.strip("0")
    lines = [f"diff --git a/{path} b/{path}"]
    if made:
        lines += ["new file mode 100644", f"index {blob}..{new}", "--- /dev/null"]
    else:
        lines += [f"index {blob}..{new} 100644"] if blob else []
        lines += [f"--- a/{path}"]
    lines += [f"+++ b/{path}", *(["@@ -0,0 +1 @@"] if made else ["@@ -1 +1 @@", "-x"]), "+y"]
    return "".join(f"{line}\n" for line in lines)


def series_of(*diffs: str, base: str = "", base_commit: str = "") -> Series:
    """Return a series of one patch for each text."""
    patches = tuple(
        Patch(
            f"{number:04}.patch",
            f"From: A <a@example.org>\nSubject: [PATCH] {number}\n\nWhy.\n---\n{text}-- \n2.39\n".encode(),
            f"[PATCH] {number}",
        )
        for number, text in enumerate(diffs, 1)
    )
    posting = Posting(base_commit=base_commit)
    return Series("s", "s", base, "auto", patches, {}, "a test", posting=posting)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = ["6.19.6", "7.1.3", "7.2.6", "7.3.4"]
    lines = ["\t".join(["path", *versions])]
    lines += ["\t".join([path, *(row.get(one, "-") for one in versions)]) for path, row in BLOBS.items()]
    (tmp_path / "table").write_text("".join(f"{line}\n" for line in lines))
    blobs, known = base_blobs.read(tmp_path / "table"), base_blobs.versions(tmp_path / "table")
    assert (blobs, known) == (BLOBS, versions)
    monkeypatch.setattr(base_blobs, "read", lambda: blobs)
    monkeypatch.setattr(base_blobs, "versions", lambda: known)


def test_choice_by_option_wins_over_the_manifest() -> None:
    tested = series_of(base="v6.19", base_commit=pins.read_pins()[1].commit)
    reason = "--base chooses it, instead of v6.19, which its manifest names"
    assert base_choice.choose(tested, "7.2") == BaseChoice("7.2", reason)
    assert base_choice.choose(tested, "6.19") == BaseChoice("6.19", "--base chooses it")


@pytest.mark.parametrize(
    ("asked", "near"),
    [("7.0", "7.1"), ("7.3-rc4", "7.3"), ("v7.2", "7.2"), ("7.2.6", "7.2"), ("9.1", "7.3"), ("next", "")],
)
def test_choice_of_an_unknown_release_is_a_usage_error(asked: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"The base '{asked}' is not known here") as refusal:
        base_choice.choose(series_of(), asked)
    assert ("is the nearest" in refusal.value.message) == bool(near)
    assert f"({near} is the nearest)" in refusal.value.message or not near


def test_choice_by_commit_wins_over_the_manifest() -> None:
    (pin,) = [pin for pin in pins.read_pins() if pin.version == "7.2.6" and pin.commit]
    choice = base_choice.choose(series_of(base="6.19", base_commit=pin.commit[:12]))
    assert choice == BaseChoice("7.2", f"the patches were made on its commit {pin.commit[:12]}")


@pytest.mark.parametrize("commit", ["5" * 40, "6"])
def test_choice_with_an_unknown_commit_says_so(commit: str) -> None:
    choice = base_choice.choose(series_of(base="6.19", base_commit=commit))
    assert choice.release == "6.19"
    assert choice.reason == f"{BY_MANIFEST}; their base-commit {commit[:12]} is not known here"


@pytest.mark.parametrize(
    ("base", "choice"),
    [
        ("6.19", BaseChoice("6.19", BY_MANIFEST)),
        ("v7.1", BaseChoice("7.1", BY_MANIFEST)),
        ("v7.3-rc6", BaseChoice("7.3", "the manifest of the series names v7.3-rc6")),
    ],
)
def test_choice_by_manifest(base: str, choice: BaseChoice) -> None:
    assert base_choice.choose(series_of(base=base)) == choice


@pytest.mark.usefixtures("table")
class TestByFiles:
    """Patches that say by their blobs what they were made from."""

    @pytest.mark.parametrize(
        ("blobs", "release", "reason"),
        [
            ({CORE: "b" * 12, UAPI: "2" * 12}, "7.1", "2 of 2 files that the patches change are as in 7.1.3"),
            ({CORE: "c" * 40}, "7.2", "1 of 1 files that the patches change are as in 7.2.6"),
            ({CORE: "d" * 7}, "7.3", "1 of 1 files that the patches change are as in 7.3.4"),
            ({UAPI: "2" * 9}, "7.2", "1 of 1 files that the patches change are as in 7.2.6 (and in 7.1.3)"),
            (
                {CORE: "b" * 12, UAPI: "4" * 12, OTHER: "4" * 12},
                "7.1",
                f"1 of 2 files that the patches change are as in 7.1.3; not {UAPI}",
            ),
        ],
    )
    def test_choice_is_the_base_with_most_files(
        self, blobs: Mapping[str, str], release: str, reason: str
    ) -> None:
        tested = series_of(*(change(path, blob) for path, blob in blobs.items()))
        assert base_choice.choose(tested) == BaseChoice(release, reason)

    def test_choice_counts_a_file_as_the_first_patch_found_it(self) -> None:
        later = change(CORE, "c" * 12, new="8" * 12)
        added = change("drivers/vfio/pci/vfio_pci_new.c", "0" * 12)
        changed = change("drivers/vfio/pci/vfio_pci_new.c", "c" * 12)
        choice = base_choice.choose(series_of(change(CORE, "a" * 12), later, added, changed))
        assert choice == BaseChoice("6.19", "1 of 1 files that the patches change are as in 6.19.6")

    def test_choice_names_five_different_files_at_most(self) -> None:
        more = [change(f"drivers/vfio/{number}.c", "7" * 12) for number in range(7)]
        reason = base_choice.choose(series_of(change(CORE, "b" * 12), *more)).reason
        assert reason.startswith("1 of 8 files")
        assert reason.endswith("drivers/vfio/3.c, drivers/vfio/4.c and 2 more")

    @pytest.mark.parametrize("base", ["next-20260310", "vfio next"])
    def test_choice_for_a_branch_is_by_files(self, base: str) -> None:
        choice = base_choice.choose(series_of(change(CORE, "c" * 12), base=base))
        assert choice.release == "7.2"
        assert choice.reason.endswith(f"; the manifest of the series names {base}, which is not known here")

    @pytest.mark.parametrize(
        "text", [change(CORE, ""), change(CORE, "0" * 12), change(OTHER, "a" * 12), "no\n"]
    )
    def test_choice_without_any_clue_is_called_a_guess(self, text: str) -> None:
        choice = base_choice.choose(series_of(text))
        assert choice.release == DEFAULT_BASE
        assert "this is a guess; --base chooses another" in choice.reason

    def test_advice_names_the_base_with_more_files(self, tmp_path: Path) -> None:
        used = replace(make_base(tmp_path), version="7.1.3")
        tested = series_of(change(CORE, "c" * 12), change(UAPI, "2" * 12))
        assert base_choice.advice(tested, used) == (
            " The patches were made from other files: 0 of 2 are as in 7.1.3, and 2 as in 7.2.6. "
            "Try --base 7.2."
        )
        assert base_choice.advice(tested, replace(used, version="7.2.9")) == ""
        assert base_choice.advice(series_of(change(CORE, "7" * 12)), used) == ""
        own = "drivers/vfio/pci/core.c"
        as_here = change(own, base_blobs.of_base(used)[own])
        assert base_choice.advice(series_of(as_here, change(CORE, "c" * 12)), used) == ""


def test_pre_images_of_a_rename_are_of_the_old_name() -> None:
    renamed = (
        f"diff --git a/{CORE} b/drivers/vfio/pci/core.c\nsimilarity index 90%\nrename from {CORE}\n"
        f"rename to drivers/vfio/pci/core.c\nindex {'b' * 12}..{'c' * 12} 100644\n--- a/{CORE}\n"
        "+++ b/drivers/vfio/pci/core.c\n@@ -1 +1 @@\n-x\n+y\n"
    )
    again = change("drivers/vfio/pci/core.c", "c" * 12)
    assert base_choice.pre_images(check(series_of(renamed, again))) == {CORE: "b" * 12}


def test_table_has_the_pinned_bases() -> None:
    assert [pin.version for pin in pins.read_pins() if pin.commit] == base_blobs.versions()
    table = base_blobs.read()
    assert len({table[CORE][version] for version in base_blobs.versions()}) == len(base_blobs.versions())
    assert all(path.startswith(base_blobs.PLACES) for path in table)
    assert {len(blob) for row in table.values() for blob in row.values()} == {base_blobs.DIGITS}
