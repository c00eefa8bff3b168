"""The Debian archive: mirrors, the source index, and its signature."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from harness.kernel import debian
from harness.lib import apt
from harness.lib.errors import UnreachableError

DATA = Path(__file__).parent / "data" / "series"


def test_mirrors_are_debians_own() -> None:
    lines = [
        "Debian|Debian-Security|http://mirror.example/debian-security/",
        "Debian|Debian|http://mirror.example/debian/",
        "Debian|Debian|http://mirror.example/debian/",
        "Debian|Debian|http://bad.example/ [trusted=yes]",
        "Shop|Shop|http://shop.example/apt/",
        "Debian|Debian|",
    ]
    assert apt.choose_mirrors(lines) == ["http://mirror.example/debian/"]
    assert apt.choose_mirrors(lines, anyone=True) == [
        "http://mirror.example/debian-security/",
        "http://mirror.example/debian/",
        "http://shop.example/apt/",
    ]


def test_index_lists_the_kernel_tarballs() -> None:
    found = debian.parse_index((DATA / "Sources").read_text(), "http://mirror.example/debian/")
    assert list(found) == ["linux_6.19.6.orig.tar.xz", "linux_6.19.10.orig.tar.xz"]
    assert found["linux_6.19.6.orig.tar.xz"] == debian.ArchiveFile(
        "http://mirror.example/debian/pool/main/l/linux/linux_6.19.6.orig.tar.xz",
        "60f1a9b5c90dfac448cf9ac4e95a17bff0bdac06995e927a5f9b934cb5687fb3",
        159184892,
    )


PACKAGE = """\
Package: linux-source-7.3
Source: linux
Version: 7.3.4-1~bpo13+1
Depends: binutils, xz-utils
Filename: pool/main/l/linux/linux-source-7.3_7.3.4-1~bpo13+1_all.deb
Size: 166780612
SHA256: 703e369ddd4cce971452f5a593ee55df3a5c10c83caf0fa0df039633ed181ee3
"""


def test_index_lists_the_source_packages() -> None:
    index = f"{PACKAGE}\n{PACKAGE.replace('linux-source-7.3', 'linux-source')}\n"
    found = debian.parse_index(index, "http://mirror.example/debian")
    name = "linux-source-7.3_7.3.4-1~bpo13+1_all.deb"
    assert found == {
        name: debian.ArchiveFile(
            f"http://mirror.example/debian/pool/main/l/linux/{name}",
            "703e369ddd4cce971452f5a593ee55df3a5c10c83caf0fa0df039633ed181ee3",
            166780612,
        )
    }


@pytest.mark.parametrize("broken", ["Size: 166780612", "SHA256: 703e369ddd4c", "Filename: pool"])
def test_index_with_a_broken_package_is_skipped(broken: str) -> None:
    index = PACKAGE.replace(broken, broken.partition(":")[0] + ": $(x) y")
    assert debian.parse_index(index, "http://mirror.example/debian") == {}


SUITE = "trixie-backports"


@pytest.mark.parametrize("signed", ["not signed", "not there"])
def test_archive_unsigned_is_refused(tmp_path: Path, signed: str) -> None:
    mirror = tmp_path / "mirror"
    suite = mirror / "dists" / SUITE
    if signed == "not signed":
        index = suite / "main" / "source" / "Sources"
        index.parent.mkdir(parents=True)
        index.write_bytes((DATA / "Sources").read_bytes())
        content = index.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        (suite / "Release").write_text(
            f"Origin: Debian\nLabel: Debian\nSuite: {SUITE}\nCodename: {SUITE}\n"
            "Components: main\nDate: Sat, 21 Nov 2026 00:00:00 UTC\n"
            f"SHA256:\n {digest} {len(content)} main/source/Sources\n"
        )
    archive = debian.Archive(f"file://{mirror}", SUITE, tmp_path / "apt", tmp_path / "log")
    with pytest.raises(UnreachableError, match="signed indexes") as refusal:
        archive.files()
    assert (
        "is not signed" if signed == "not signed" else "does not have a Release file"
    ) in refusal.value.tail
