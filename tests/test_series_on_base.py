"""Tests of a series on another base than its own: expected verdicts, and patches of another folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.lib.errors import UsageError
from harness.lib.paths import PATCHES
from harness.run import request
from harness.run.request import Request
from harness.series import series
from harness.series.series import Series

PATCH = """\
From: A <a@example.org>
Subject: [PATCH] {name}

--- a/file
+++ b/file
@@ -1 +1 @@
-0
+{name}
"""
CONTROL = """\
base = "6.19"
dialect = "base"
[expect]
default = "violates"
MAP-02 = "conforms"
ERR-21 = "conforms"
[on."7.2".expect]
MAP-13 = "conforms"
ERR = "violates"
"""


def write_series(folder: Path, manifest: str, patches: int) -> None:
    folder.mkdir(parents=True)
    (folder / "series.toml").write_text(manifest)
    for number in range(1, patches + 1):
        (folder / f"{number:04}-x.patch").write_text(PATCH.format(name=f"{folder.name}{number}"))


def words(tested: Series, *requirements: str) -> list[str]:
    return [tested.expected([one], "test_a") for one in requirements]


def test_on_a_base_overrides_the_expectations(tmp_path: Path) -> None:
    write_series(tmp_path / "control", CONTROL, 0)
    control = series.load("control", tmp_path)
    asked = ("MAP-02", "MAP-13", "ERR-21")
    assert words(control, *asked) == ["conforms", "violates", "conforms"]
    assert words(control.on("7.2"), *asked) == ["conforms", "conforms", "violates"]
    assert words(control.on("7.3"), *asked) == words(control, *asked)
    assert [control.on(release).base for release in ("6.19", "7.2", "7.3")] == ["6.19", "7.2", "7.3"]


def test_on_a_base_reaches_the_prefixes(tmp_path: Path) -> None:
    write_series(tmp_path / "control", CONTROL, 0)
    manifest = 'base = "6.19"\n[prefix.1]\nlike = "control"\n[prefix.0.expect]\nMAP-13 = "not-applicable"\n'
    write_series(tmp_path / "mine", manifest, 2)
    mine = series.load("mine", tmp_path)
    assert words(mine.first(1), "MAP-13") == ["violates"]
    assert [words(mine.on("7.2").first(count), "MAP-13") for count in (0, 1, 2)] == [
        ["not-applicable"],
        ["conforms"],
        ["conforms"],
    ]


def test_own_base_has_its_table_without_being_asked(tmp_path: Path) -> None:
    write_series(tmp_path / "control", CONTROL.replace("6.19", "7.2"), 0)
    assert words(series.load("control", tmp_path), "MAP-13") == ["conforms"]


def test_on_a_base_another_series_is_tested(tmp_path: Path) -> None:
    write_series(tmp_path / "mine", 'base = "6.19"\n[on."7.2"]\nseries = "mine-7"\n', 3)
    write_series(tmp_path / "mine-7", 'base = "7.1"\n[on."7.2".expect]\nMAP-01 = "violates"\n', 2)
    mine = series.load("mine", tmp_path)
    other = mine.on("7.2")
    assert (mine.name, len(mine.patches), mine.posting.notes) == ("mine", 3, ())
    assert (other.name, other.base, len(other.patches)) == ("mine-7", "7.2", 2)
    assert words(other, "MAP-01") == ["violates"]
    assert "mine-7 is tested" in " ".join(other.posting.notes)


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ('[on."7.2"]\nseries = "absent"\n', "names for 7.2 a series that is not there"),
        ('[on."7.2"]\nseries = "../outside"\n', "names for 7.2 a series that is not there"),
        ('[on."7.2"]\nseries = "mine"\n', "names another one itself"),
        ('[on."7.2"]\ndialect = "map"\n', "the key 'dialect', which is not known there"),
        ('on = "7.2"\n', "`on` in .* must hold a table for each base"),
        ('[on."7.2".expect]\nMAP-01 = "passes"\n', "expects 'passes'"),
    ],
)
def test_malformed_table_of_a_base_is_refused(tmp_path: Path, manifest: str, says: str) -> None:
    write_series(tmp_path / "patches/mine", manifest, 1)
    write_series(tmp_path / "outside", "", 1)
    with pytest.raises(UsageError, match=says):
        series.load("mine", tmp_path / "patches")


def test_prefixes_that_refer_to_each_other_are_read(tmp_path: Path) -> None:
    write_series(tmp_path / "mine", '[prefix.0]\nlike = "yours"\n[on."7.2".expect]\nREV = "violates"\n', 1)
    write_series(tmp_path / "yours", '[prefix.0]\nlike = "mine"\n[on."7.3".expect]\nREV = "violates"\n', 1)
    assert sorted(series.load("mine", tmp_path).bases) == ["7.2", "7.3"]


@pytest.mark.parametrize("release", ["7.1", "7.2", "7.3"])
def test_reference_feature_has_patches_for_linux_7(release: str) -> None:
    tested = series.load("reference-feature", PATCHES).on(release)
    assert (tested.name, tested.base, tested.dialect) == ("reference-feature-7", release, "feature")
    text = b"".join(patch.content for patch in tested.patches).decode()
    # Up to 13 the numbers are other features on one of the three.
    assert re.findall(r"(?m)^\+#define VFIO_DEVICE_FEATURE_\w+ (\d+)", text) == ["14", "15"]


def test_request_with_a_base_has_the_series_of_it() -> None:
    asked = Request(series="reference-feature", base="7.3", patches=2)
    tested = request.load(asked).series
    assert (tested.name, tested.base, tested.dialect) == ("reference-feature-7-2of10", "7.3", "base")


def test_mutant_on_a_base_with_other_patches_is_refused() -> None:
    mutant = next((PATCHES / "mutants/reference-feature").glob("*.patch")).stem
    assert request.load(Request(series="reference-feature", mutant=mutant, base="6.19")).caught_by
    with pytest.raises(UsageError, match=r"faults of its patches for 6\.19; on 7\.2"):
        request.load(Request(series="reference-feature", mutant=mutant, base="7.2"))
