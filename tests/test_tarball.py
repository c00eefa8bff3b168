"""Importing a tarball into git: a hostile one, one cut short, the same commit everywhere."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from small_kernel import make_source_package, make_tarball, member

from harness.kernel import tarball
from harness.lib.errors import HarnessError
from harness.lib.progress import Stage


@pytest.fixture
def stage() -> Stage:
    return Stage("fetch", None, io.StringIO())


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (member("linux-6.19.6/../x", "x"), "leads out of the source tree"),
        (member("/etc/x", "x"), "leads out of the source tree"),
        (member("other/x", "x"), "leads out of the source tree"),
        (member("linux-6.19.6/.git/config", "x"), "leads out of the source tree"),
        (member("linux-6.19.6/a/.GIT/config", "x"), "leads out of the source tree"),
        (member("linux-6.19.6/a\nM 100644 inline b", "x"), "leads out of the source tree"),
        (member('linux-6.19.6/"\\056\\056/x"', "x"), "leads out of the source tree"),
        (member("linux-6.19.6/l", "/etc/passwd", kind=tarfile.SYMTYPE), "neither a file nor a link inside"),
        (member("linux-6.19.6/a/l", "../../x", kind=tarfile.SYMTYPE), "neither a file nor a link inside"),
        (
            member("linux-6.19.6/h", "linux-6.19.6/Makefile", kind=tarfile.LNKTYPE),
            "neither a file nor a link",
        ),
        (member("linux-6.19.6/d", kind=tarfile.CHRTYPE), "neither a file nor a link inside"),
        (member("linux-6.19.6/p", kind=tarfile.FIFOTYPE), "neither a file nor a link inside"),
    ],
)
def test_tarball_hostile_is_refused(tmp_path: Path, stage: Stage, info: tarfile.TarInfo, says: str) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz", (info, "x"))
    with pytest.raises(HarnessError, match=r"linux\.tar\.xz could not be imported") as refusal:
        tarball.import_tarball(archive, tmp_path / "git", "test\n", stage)
    assert says in str(refusal.value)


def test_tarball_cut_short_is_refused(tmp_path: Path, stage: Stage) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz")
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(HarnessError, match="could not be imported") as refusal:
        tarball.import_tarball(archive, tmp_path / "git", "test\n", stage)
    assert "Unexpected end of input" in refusal.value.tail


def test_source_package_gives_the_tree_of_its_tarball(tmp_path: Path, stage: Stage) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz")
    package = make_source_package(tmp_path, archive)
    one = tarball.import_tarball(archive, tmp_path / "one", "test\n", stage)
    assert tarball.import_tarball(package, tmp_path / "two", "test\n", stage) == one


def test_source_package_without_its_tarball_is_refused(tmp_path: Path, stage: Stage) -> None:
    package = make_source_package(tmp_path, make_tarball(tmp_path / "linux.tar.xz"))
    other = package.rename(tmp_path / "linux-source-7.4_7.4.1-1_all.deb")
    with pytest.raises(HarnessError, match="could not be imported") as refusal:
        tarball.import_tarball(other, tmp_path / "git", "test\n", stage)
    assert "linux-source-7.4.tar.xz: Not found in archive" in refusal.value.tail


@pytest.mark.parametrize("inside", [True, False])
def test_source_package_cut_short_is_refused(tmp_path: Path, stage: Stage, inside: bool) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz")
    if inside:
        archive.write_bytes(archive.read_bytes()[:-40])
    package = make_source_package(tmp_path, archive)
    if not inside:
        package.write_bytes(package.read_bytes()[:-200])
    with pytest.raises(HarnessError, match="could not be imported"):
        tarball.import_tarball(package, tmp_path / "git", "test\n", stage)


def test_tarball_gives_the_same_commit_everywhere(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz")
    one = tarball.import_tarball(archive, tmp_path / "one", "test\n", stage)
    (tmp_path / "gitconfig").write_text("[core]\n\tautocrlf = true\n[user]\n\tname = someone\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2001-01-01T00:00:00Z")
    assert tarball.import_tarball(archive, tmp_path / "two", "test\n", stage) == one
