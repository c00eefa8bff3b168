"""A file that the user named for a report: refused early, written whole, and never a link replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.lib import output
from harness.lib.errors import HarnessError, UsageError


def test_prepare_makes_the_folder_and_removes_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new" / "junit.xml"
    assert output.prepare(path, "--junit") == path
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    output.prepare(path, "--junit")
    assert not path.exists()


@pytest.mark.parametrize("place", ["folder", "file/junit.xml", "pipe", "loop", "loop/x", "/proc/junit.xml"])
def test_prepare_refuses_a_bad_place_in_a_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "pipe").symlink_to("/dev/full")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=rf"{place} \(--junit\) .*\. Name another file\.$"):
        output.prepare(tmp_path / place, "--junit")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "kept"


def test_write_replaces_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    output.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(HarnessError, match="could not be written"):
        output.write(tmp_path / "file" / "junit.xml", "new")
    assert (tmp_path / "file").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1
