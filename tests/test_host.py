"""Host packages, and what doctor says."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from harness.cli import doctor, packages
from harness.cli.packages import Package
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.progress import Progress

# dpkg-query's answer on a Debian 12 with one package removed, one purged (not known any more).
LISTING = """\
bc installed
gcc installed
lz4 config-files
rsync not-installed
libelf-dev installed
"""


def test_list_names_each_package_once_with_its_program() -> None:
    listed = doctor.packages()
    names = [package.name for package in listed]
    assert Package("squashfs-tools", "sqfstar") in listed
    assert len(names) == len(set(names))


def test_list_leaves_comments_out(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# why\n\nbc  bc  # for the timer\nlibelf-dev  -\n")
    assert doctor.packages(tmp_path / "list") == [Package("bc", "bc"), Package("libelf-dev", "-")]


def test_only_installed_counts() -> None:
    names = ["bc", "lz4", "rsync", "flex", "libelf-dev"]
    assert packages.absent(names, LISTING) == ["lz4", "rsync", "flex"]


def test_without_dpkg_programs_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flex").write_text("#!/bin/sh\n")
    (tmp_path / "flex").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    listed = [Package("flex", "flex"), Package("bison", "bison"), Package("libelf-dev", "-")]
    assert packages.missing(listed) == ["bison"]


@pytest.fixture
def lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A host whose list names a package that no archive has."""
    (tmp_path / "list").write_text("bc bc\npatchproof-no-such-package patchproof-no-such-program\n")
    monkeypatch.setattr(doctor.packages, "__defaults__", (tmp_path / "list",))
    return Store(tmp_path / "cache")


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="not a Debian host")
def test_user_gets_the_exact_command(lacking: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HarnessError) as caught:
        packages.ensure(lacking, Progress(lacking, io.StringIO()))
    assert caught.value.exit_code == ExitCode.HARNESS
    assert (
        caught.value.message.splitlines()[-1]
        .strip()
        .endswith("&& sudo apt-get install --yes --no-install-recommends patchproof-no-such-package")
    )


def test_other_distribution_gets_the_names(lacking: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HarnessError, match=r"patchproof-no-such-package.*your distribution"):
        packages.ensure(lacking, Progress(lacking, io.StringIO()))


def test_nothing_missing_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_text("# nothing\n")
    monkeypatch.setattr(doctor.packages, "__defaults__", (tmp_path / "list",))
    said = io.StringIO()
    packages.ensure(Store(tmp_path / "cache"), Progress(None, said))
    assert said.getvalue() == ""


def test_doctor_finds_what_is_missing(lacking: Store) -> None:
    said = io.StringIO()
    assert doctor.doctor(lacking, "qemu-that-is-not-there", said) == ExitCode.HARNESS
    text = said.getvalue()
    assert "missing:" in text
    assert "patchproof-no-such-package" in text
    assert "no QEMU at `qemu-that-is-not-there`" in text
    assert str(lacking.root) in text


def test_doctor_shows_every_subject_once(tmp_path: Path) -> None:
    rows = doctor.examine(Store(tmp_path), "qemu-system-x86_64")
    subjects = [row.subject for row in rows]
    assert len(subjects) == len(set(subjects))
    assert {"packages", "QEMU", "KVM", "compiler", "processors", "memory", "disk", "cache"} <= set(subjects)
    assert all(
        row.advice for row in rows if row.good is False and row.subject in ("packages", "QEMU", "disk")
    )
