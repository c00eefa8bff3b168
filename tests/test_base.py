"""The base source: pins, digests, and the way from download to cache."""

from __future__ import annotations

import datetime
import hashlib
import io
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from local_server import Site, serving
from small_kernel import FILES, make_source_package, make_tarball

from harness.kernel import base, kconfig
from harness.kernel.debian import Archive, ArchiveFile
from harness.kernel.pins import read_pins
from harness.lib import apt, git
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, UnreachableError, UsageError
from harness.lib.progress import Progress, Stage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the whole way: pin, download, import, cache


def pin_file(folder: Path, site: Site, path: str, **more: str) -> Path:
    entry = {"release": "6.19", "version": "6.19.6", "url": site.address + path, **more}
    pins = folder / "bases.toml"
    pins.write_text(
        "[[tarball]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
    )
    return pins


def test_base_is_fetched_imported_and_cached(tmp_path: Path, store: Store) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz").read_bytes()
    sha256 = hashlib.sha256(archive).hexdigest()
    said = io.StringIO()
    with serving(Site({"/linux.tar.xz": archive})) as site:
        pins = pin_file(tmp_path, site, "/linux.tar.xz", sha256=sha256)
        first = base.fetch(store, Progress(store, said), pinned=pins)
    second = base.fetch(store, Progress(store, said), pinned=pins)  # the server has ended
    assert first == second
    assert (first.version, first.wanted, first.note) == ("6.19.6", "6.19", "6.19.6 instead of 6.19")
    assert "base: 6.19.6 instead of 6.19" in said.getvalue()
    listed = git.query(["ls-tree", "-r", first.commit], env=git.environment(first.repository)).decode()
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.splitlines()}
    assert modes == {
        **{name: f"100{mode:o}" for name, (mode, _) in FILES.items()},
        "include/dt-bindings": "120000",
    }
    assert left_in(store.root / "downloads") == []


def test_base_is_fetched_once_by_parallel_runs(tmp_path: Path, store: Store) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz").read_bytes()
    program = (
        "import sys; from pathlib import Path; from harness.kernel import base\n"
        "from harness.lib.cache import Store\n"
        "from harness.lib.progress import Progress\n"
        "store = Store(Path(sys.argv[1]))\n"
        "print(base.fetch(store, Progress(store), pinned=Path(sys.argv[2])).commit)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with serving(Site({"/linux.tar.xz": archive})) as site:
        pins = pin_file(tmp_path, site, "/linux.tar.xz", sha256=hashlib.sha256(archive).hexdigest())
        argv = [sys.executable, "-c", program, str(store.root), str(pins)]
        runs = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
        commits = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(commits) == 1
    assert site.requests == ["/linux.tar.xz"]


def test_base_of_another_tree_is_refused(tmp_path: Path, store: Store) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz").read_bytes()
    with serving(Site({"/linux.tar.xz": archive})) as site:
        sha256 = hashlib.sha256(archive).hexdigest()
        pins = pin_file(tmp_path, site, "/linux.tar.xz", sha256=sha256, tree="0" * 40)
        with pytest.raises(HarnessError, match=f"pinned is {'0' * 40}"):
            base.fetch(store, Progress(store, io.StringIO()), pinned=pins)
    assert left_in(store.root / "base") == []


def test_base_without_a_source_names_every_source(tmp_path: Path, store: Store) -> None:
    with serving(Site({})) as site:
        pins = pin_file(tmp_path, site, "/linux.tar.xz", sha256="0" * 64)
        with pytest.raises(HarnessError, match="--tree DIR") as failure:
            base.fetch(store, Progress(store, io.StringIO()), pinned=pins)
    assert f"{site.address}/linux.tar.xz answers 404" in failure.value.tail


def test_base_that_is_not_pinned_is_a_usage_error(store: Store) -> None:
    with pytest.raises(UsageError, match=r"'2\.6\.18'.*6\.19"):
        base.fetch(store, Progress(store, io.StringIO()), "2.6.18")


def test_pins_have_versions_and_digests() -> None:
    pins = read_pins()
    assert [pin.version for pin in pins if pin.url] == ["6.19", "7.1", "7.2", "7.3"]
    assert [pin.release for pin in pins] == sorted(pin.release for pin in pins)
    for pin in pins:
        assert kconfig.release(pin.version) == kconfig.release(pin.release)
        assert (
            pin.file.startswith((f"linux_{pin.version}.orig", f"linux-source-{pin.release}_{pin.version}-"))
            or pin.url
        )
    assert all(len(pin.sha256) == 64 and pin.suite for pin in pins if pin.archive)
    assert all(pin.sha256 or pin.url.startswith("https://cdn.kernel.org/") for pin in pins)


# --- the Debian archive


def pin_files(folder: Path, *files: tuple[str, str, str]) -> Path:
    """Pin files of a suite of the Debian archive, each with a version and a digest, for 7.3."""
    pins = folder / "bases.toml"
    pins.write_text(
        "".join(
            f'[[tarball]]\nrelease = "7.3"\nversion = "{version}"\narchive = "debian"\n'
            f'suite = "backports"\nfile = "{name}"\nsha256 = "{sha256}"\n'
            for name, version, sha256 in files
        )
    )
    return pins


class ArchiveOfATest(Archive):
    """A suite whose index lists ``listed``, and whose pool has the files of ``pool``."""

    listed: ClassVar[dict[str, ArchiveFile]] = {}
    pool: ClassVar[dict[str, Path]] = {}
    read: ClassVar[list[str]] = []

    def files(self) -> dict[str, ArchiveFile]:
        self.read.append(f"{self.mirror} {self.suite}")
        return self.listed

    def download(self, file: ArchiveFile, target: Path, sha256: str, stage: Stage) -> None:
        source = self.pool.get(target.name)
        if source is None:
            raise UnreachableError(f"{file.url} could not be fetched.")
        shutil.copyfile(source, target)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> type[ArchiveOfATest]:
    monkeypatch.setattr(base, "Archive", ArchiveOfATest)
    monkeypatch.setattr(apt, "mirrors", lambda: ["http://one.example/", "http://two.example/"])
    ArchiveOfATest.listed, ArchiveOfATest.pool, ArchiveOfATest.read = {}, {}, []
    return ArchiveOfATest


def test_base_is_taken_from_the_first_file_that_is_there(
    tmp_path: Path, store: Store, archive: type[ArchiveOfATest]
) -> None:
    package = make_source_package(tmp_path, make_tarball(tmp_path / "linux.tar.xz"))
    sha256 = hashlib.sha256(package.read_bytes()).hexdigest()
    gone, listed = "linux_7.3.2.orig.tar.xz", "linux_7.3.4.orig.tar.xz"
    archive.listed = {
        listed: ArchiveFile("http://one.example/pool/x", "1" * 64, 1),
        package.name: ArchiveFile("http://one.example/pool/y", sha256, package.stat().st_size),
    }
    archive.pool = {package.name: package}
    pins = pin_files(
        tmp_path, (gone, "7.3.2", "0" * 64), (listed, "7.3.4", "1" * 64), (package.name, "7.3.4", sha256)
    )
    said = io.StringIO()
    found = base.fetch(store, Progress(store, said), "7.3", pins)
    assert (found.version, found.wanted) == ("7.3.4", "7.3")
    assert found.note == "7.3.4 with Debian's patches instead of 7.3"
    assert f"do not list {gone}" in said.getvalue()
    assert "http://one.example/pool/x could not be fetched" in said.getvalue()
    assert "base: 7.3.4 with Debian's patches instead of 7.3, from linux-source-7.3_" in said.getvalue()
    assert archive.read == ["http://one.example/ backports", "http://two.example/ backports"]
    assert base.fetch(store, Progress(store, said), "7.3", pins) == found
    assert left_in(store.root / "downloads") == []


def test_base_with_another_digest_in_the_index_is_refused(
    tmp_path: Path, store: Store, archive: type[ArchiveOfATest]
) -> None:
    name = "linux_7.3.4.orig.tar.xz"
    archive.listed = {name: ArchiveFile("http://one.example/pool/x", "1" * 64, 1)}
    with pytest.raises(HarnessError, match=f"gives {'1' * 64} as the digest of {name}"):
        base.fetch(
            store, Progress(store, io.StringIO()), "7.3", pin_files(tmp_path, (name, "7.3.4", "2" * 64))
        )


# --- digests that are not pinned


def test_published_digest_is_of_exactly_that_file() -> None:
    listing = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        f"{'a' * 64}  linux-6.19.tar.gz\n{'b' * 64}  linux-6.19.tar.xz\n{'c' * 64}  patch-linux-6x19.tar.xz\n"
    )
    assert base.published_digest(listing, "linux-6.19.tar.xz") == "b" * 64
    for bad in ("", listing.replace("b" * 64, "b" * 63), listing + f"{'d' * 64}  linux-6.19.tar.xz\n"):
        with pytest.raises(UnreachableError, match="entries for it"):
            base.published_digest(bad, "linux-6.19.tar.xz")


def test_unpinned_base_is_fetched_over_tls_only(tmp_path: Path, store: Store) -> None:
    with serving(Site({"/linux.tar.xz": b"x", "/sha256sums.asc": b"x"})) as site:
        pins = pin_file(tmp_path, site, "/linux.tar.xz")
        with pytest.raises(HarnessError, match="only fetched over TLS"):
            base.fetch(store, Progress(store, io.StringIO()), pinned=pins)
    assert site.requests == []


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a server context for 127.0.0.1, and the certificate that makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context, pem


@pytest.mark.parametrize("trusted", [True, False])
def test_digest_published_over_tls_is_believed_and_noted(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz").read_bytes()
    listing = f"{hashlib.sha256(archive).hexdigest()}  linux.tar.xz\n".encode()
    context, pem = certificate(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    said = io.StringIO()
    with serving(Site({"/linux.tar.xz": archive, "/sha256sums.asc": listing}), context) as site:
        pins = pin_file(tmp_path, site, "/linux.tar.xz")
        if not trusted:
            with pytest.raises(HarnessError, match="No source has the base"):
                base.fetch(store, Progress(store, said), pinned=pins)
            assert site.requests == []
            return
        found = base.fetch(store, Progress(store, said), pinned=pins)
    assert "over TLS" in found.source
    assert "is not pinned" in said.getvalue()
