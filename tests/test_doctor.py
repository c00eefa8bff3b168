"""Host packages, and the report of `doctor`."""

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
from harness.vm import qemu_program
from harness.vm.qemu_program import QemuInfo

# dpkg-query's answer on Debian 12 with one package removed and one purged, which it does not list.
LISTING = """\
bc installed
gcc installed
lz4 config-files
rsync not-installed
libelf-dev installed
"""


def test_packages_are_listed_once_with_their_program() -> None:
    listed = packages.packages()
    names = [package.name for package in listed]
    assert Package("squashfs-tools", "sqfstar") in listed
    assert len(names) == len(set(names))


def test_packages_for_tests_are_not_needed_by_a_run() -> None:
    ours = packages.packages(packages.FOR_TESTS)
    assert Package("chromium", "chromium") in ours
    assert set(ours).isdisjoint(packages.packages())


def test_packages_are_read_without_comments(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# why\n\nbc  bc  # for the timer\nlibelf-dev  -\n")
    assert packages.packages(tmp_path / "list") == [Package("bc", "bc"), Package("libelf-dev", "-")]


def test_absent_packages_are_those_not_installed() -> None:
    names = ["bc", "lz4", "rsync", "flex", "libelf-dev"]
    assert packages.absent(names, LISTING) == ["lz4", "rsync", "flex"]


def test_missing_without_dpkg_looks_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flex").write_text("#!/bin/sh\n")
    (tmp_path / "flex").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    listed = [Package("flex", "flex"), Package("bison", "bison"), Package("libelf-dev", "-")]
    assert packages.missing(listed) == ["bison"]


@pytest.fixture
def lacking_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A host whose list names a package that no archive has."""
    (tmp_path / "list").write_text("bc bc\npatchproof-no-such-package patchproof-no-such-program\n")
    monkeypatch.setattr(packages, "PACKAGES", tmp_path / "list")
    return Store(tmp_path / "cache")


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="not a Debian host")
def test_ensure_tells_a_user_the_exact_command(lacking_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HarnessError) as caught:
        packages.ensure(lacking_store, Progress(lacking_store, io.StringIO()))
    assert caught.value.exit_code == ExitCode.HARNESS
    assert (
        caught.value.message.splitlines()[-1]
        .strip()
        .endswith("&& sudo apt-get install --yes --no-install-recommends patchproof-no-such-package")
    )


def test_ensure_tells_other_distributions_the_names(
    lacking_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HarnessError, match=r"patchproof-no-such-package.*your distribution"):
        packages.ensure(lacking_store, Progress(lacking_store, io.StringIO()))


def test_ensure_with_nothing_missing_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_text("# nothing\n")
    monkeypatch.setattr(packages, "PACKAGES", tmp_path / "list")
    said = io.StringIO()
    packages.ensure(Store(tmp_path / "cache"), Progress(None, said))
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("version", "fault"),
    [("7.2.22", "lose an interrupt"), ("8.2.0", ""), ("10.0.2", "iotlb_to_section"), ("10.1.0", "")],
)
def test_known_fault_of_qemu_depends_on_its_version(version: str, fault: str) -> None:
    found = QemuInfo("/usr/bin/qemu", version, frozenset()).known_fault
    assert fault in found
    assert bool(found) is bool(fault)


@pytest.mark.parametrize(
    ("name", "why"), [("qemu-system-x86_64", "the first on PATH"), ("", "named by --qemu")]
)
def test_doctor_says_why_a_qemu_is_used(tmp_path: Path, name: str, why: str) -> None:
    program = name or shutil.which("qemu-system-x86_64")
    assert program
    (row,) = [one for one in doctor.examine(Store(tmp_path), program) if one.subject == "QEMU"]
    assert f"{why}), has edu" in row.found
    assert ("docs/findings.md" in row.advice) is bool(qemu_program.probe(program).known_fault)


def test_doctor_finds_what_is_missing(lacking_store: Store) -> None:
    said = io.StringIO()
    assert doctor.doctor(lacking_store, "qemu-that-is-not-there", said) == ExitCode.HARNESS
    text = said.getvalue()
    assert "missing:" in text
    assert "patchproof-no-such-package" in text
    assert "no QEMU at `qemu-that-is-not-there`" in text
    assert str(lacking_store.root) in text


def test_doctor_shows_every_subject_once(tmp_path: Path) -> None:
    rows = doctor.examine(Store(tmp_path), "qemu-system-x86_64")
    subjects = [row.subject for row in rows]
    assert len(subjects) == len(set(subjects))
    assert {"packages", "QEMU", "KVM", "compiler", "processors", "memory", "ports", "cache"} <= set(subjects)
    assert any(subject.startswith("disk") for subject in subjects)
    assert all(
        row.advice for row in rows if row.good is False and row.subject in ("packages", "QEMU", "disk")
    )
