"""The base source: pins, downloads that break, the Debian archive's index, the import into git."""

from __future__ import annotations

import datetime
import hashlib
import io
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from small_kernel import FILES, make_tarball, member

from harness import base, debian, download, git, tarball
from harness.download import UnreachableError
from harness.errors import HarnessError, UsageError
from harness.progress import Progress, Stage
from harness.store import Store

DATA = Path(__file__).parent / "data" / "series"
CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """The files of a server, and its faults."""

    files: dict[str, bytes]
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes sent before each of the first answers ends
    status: int = 200
    requests: list[str] = field(default_factory=list)  # "PATH RANGE" of each request
    address: str = ""


@contextmanager
def serving(site: Site, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            site.requests.append(f"{self.path} {wanted}".strip())
            content = site.files.get(self.path)
            if content is None or site.status != 200:
                self.send_error(404 if site.status == 200 else site.status)
                return
            first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges else 0
            if first >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            last = first + site.break_after.pop(0) if site.break_after else len(content)
            self.wfile.write(content[first:last])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    site.address = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def stage() -> Stage:
    return Stage("fetch", None, io.StringIO())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- downloads


def test_fetch_writes_the_whole_file(tmp_path: Path, stage: Stage) -> None:
    with serving(Site({"/f": CONTENT})) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["f"]
    assert stage.detail == "1 of 1 MiB"


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_resumes_or_restarts_a_broken_connection(tmp_path: Path, stage: Stage, ranges: bool) -> None:
    with serving(Site({"/f": CONTENT}, ranges=ranges, break_after=[1000, 50_000])) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert (tmp_path / "f").read_bytes() == CONTENT
    second = 51_000 if ranges else 50_000
    assert site.requests == ["/f", "/f bytes=1000-", f"/f bytes={second}-"]


def test_fetch_gives_up_after_its_tries(tmp_path: Path, stage: Stage) -> None:
    with (
        serving(Site({"/f": CONTENT}, break_after=[10] * 99)) as site,
        pytest.raises(UnreachableError, match="broke off at 60 bytes"),
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert len(site.requests) == download.TRIES
    assert left_in(tmp_path) == ["f.part"]


def test_fetch_continues_a_partial_file(tmp_path: Path, stage: Stage) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:12345])
    with serving(Site({"/f": CONTENT})) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert site.requests == ["/f bytes=12345-"]
    assert left_in(tmp_path) == ["f"]


@pytest.mark.parametrize("left", [b"of another file", CONTENT + b"too long"])
def test_fetch_restarts_after_a_foreign_partial_file(tmp_path: Path, stage: Stage, left: bytes) -> None:
    (tmp_path / "f.part").write_bytes(left)
    with serving(Site({"/f": CONTENT})) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert site.requests == [f"/f bytes={len(left)}-", "/f"]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_fetch_deletes_a_file_of_another_digest(tmp_path: Path, stage: Stage) -> None:
    with (
        serving(Site({"/f": b"trojan"})) as site,
        pytest.raises(HarnessError, match="not the one that is pinned") as refusal,
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert not isinstance(
        refusal.value, UnreachableError
    )  # after an UnreachableError the next source would be asked
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, download.TRIES)])
def test_fetch_asks_only_a_busy_server_again(tmp_path: Path, stage: Stage, status: int, tries: int) -> None:
    with (
        serving(Site({"/f": CONTENT}, status=status)) as site,
        pytest.raises(UnreachableError, match=str(status)),
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert len(site.requests) == tries


def test_fetch_on_a_full_disk_is_not_unreachable(tmp_path: Path, stage: Stage) -> None:
    (tmp_path / "f.part").symlink_to("/dev/full")
    with (
        serving(Site({"/f": CONTENT})) as site,
        pytest.raises(HarnessError, match="No space left") as failure,
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert not isinstance(failure.value, UnreachableError)


def test_demand_room_refuses_a_small_disk(tmp_path: Path) -> None:
    download.demand_room(tmp_path, 1)
    with pytest.raises(HarnessError, match="MiB free, and 1099511627776 MiB are needed"):
        download.demand_room(tmp_path, 1 << 60)


def test_fetch_from_an_absent_server_is_unreachable(tmp_path: Path, stage: Stage) -> None:
    with serving(Site({})) as site:
        pass
    with pytest.raises(UnreachableError, match="refused"):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    with pytest.raises(UnreachableError, match="refused"):
        download.text(f"{site.address}/sums")


class WatchedStage(Stage):
    """A stage that tells when its detail was set."""

    def __init__(self) -> None:
        super().__init__("fetch", None, io.StringIO())
        self.shown = threading.Event()

    def update(self, detail: str) -> None:
        super().update(detail)
        self.shown.set()


def test_watched_shows_the_size_of_a_growing_file(tmp_path: Path) -> None:
    stage = WatchedStage()
    with download.watched(tmp_path / "f", 3 << 20, stage):
        (tmp_path / "f").write_bytes(CONTENT)
        assert stage.shown.wait(60)
    assert stage.detail.endswith("of 3 MiB")


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
        "import sys; from pathlib import Path; from harness import base; from harness.store import Store\n"
        "from harness.progress import Progress\n"
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
    pins = base.read_pins(base.PINNED)
    assert [pin.version for pin in pins] == ["6.19", "6.19.6", "6.19.8", "6.19.10", "6.19.11"]
    assert all(len(pin.sha256) == 64 for pin in pins if pin.archive)
    assert all(pin.sha256 or pin.url.startswith("https://cdn.kernel.org/") for pin in pins)


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


# --- the Debian archive


def test_mirrors_are_debians_own() -> None:
    lines = [
        "Debian|Debian-Security|http://mirror.example/debian-security/",
        "Debian|Debian|http://mirror.example/debian/",
        "Debian|Debian|http://mirror.example/debian/",
        "Debian|Debian|http://bad.example/ [trusted=yes]",
        "Shop|Shop|http://shop.example/apt/",
        "Debian|Debian|",
    ]
    assert debian.choose_mirrors(lines) == ["http://mirror.example/debian/"]
    assert debian.choose_mirrors(lines, anyone=True) == [
        "http://mirror.example/debian-security/",
        "http://mirror.example/debian/",
        "http://shop.example/apt/",
    ]


def test_index_lists_the_kernel_tarballs() -> None:
    found = debian.parse_index((DATA / "Sources").read_text(), "http://mirror.example/debian/")
    assert list(found) == ["6.19.6", "6.19.10"]
    assert found["6.19.6"] == debian.Tarball(
        "http://mirror.example/debian/pool/main/l/linux/linux_6.19.6.orig.tar.xz",
        "60f1a9b5c90dfac448cf9ac4e95a17bff0bdac06995e927a5f9b934cb5687fb3",
        159184892,
    )


@pytest.mark.parametrize("signed", ["not signed", "not there"])
def test_archive_unsigned_is_refused(tmp_path: Path, signed: str) -> None:
    mirror = tmp_path / "mirror"
    suite = mirror / "dists" / debian.SUITE
    if signed == "not signed":
        index = suite / "main" / "source" / "Sources"
        index.parent.mkdir(parents=True)
        index.write_bytes((DATA / "Sources").read_bytes())
        content = index.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        (suite / "Release").write_text(
            f"Origin: Debian\nLabel: Debian\nSuite: {debian.SUITE}\nCodename: {debian.SUITE}\n"
            "Components: main\nDate: Sat, 21 Nov 2026 00:00:00 UTC\n"
            f"SHA256:\n {digest} {len(content)} main/source/Sources\n"
        )
    archive = debian.Archive(f"file://{mirror}", tmp_path / "apt", tmp_path / "log")
    with pytest.raises(UnreachableError, match="signed source index") as refusal:
        archive.tarballs()
    assert (
        "is not signed" if signed == "not signed" else "does not have a Release file"
    ) in refusal.value.tail


# --- tarballs


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
        tarball.into_repository(archive, tmp_path / "git", "test\n", stage)
    assert says in str(refusal.value)


def test_tarball_cut_short_is_refused(tmp_path: Path, stage: Stage) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz")
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(HarnessError, match="could not be imported") as refusal:
        tarball.into_repository(archive, tmp_path / "git", "test\n", stage)
    assert "Unexpected end of input" in refusal.value.tail


def test_tarball_gives_the_same_commit_everywhere(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_tarball(tmp_path / "linux.tar.xz")
    one = tarball.into_repository(archive, tmp_path / "one", "test\n", stage)
    (tmp_path / "gitconfig").write_text("[core]\n\tautocrlf = true\n[user]\n\tname = someone\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2001-01-01T00:00:00Z")
    assert tarball.into_repository(archive, tmp_path / "two", "test\n", stage) == one
