"""A series from standard input, an archive, a compressed mbox or a maildir is the same series."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from local_server import Site, serving
from mails import PATCHES, mail, patch, posting, titles
from small_run import make_checkout

from harness.cli import main
from harness.kernel.list_archive import ARCHIVE_VARIABLE
from harness.lib.cache import CACHE_VARIABLE
from harness.lib.errors import ExitCode, HarnessError, UsageError
from harness.run.request import Request, RunInput, load
from harness.series import series

SERIES = b"".join(posting())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(ARCHIVE_VARIABLE, raising=False)
    return tmp_path / "cache"


class Terminal(io.BytesIO):
    """A terminal on which nothing is typed."""

    def isatty(self) -> bool:
        return True


def stdin(content: bytes) -> io.TextIOWrapper:
    """Return a standard input of these bytes."""
    return io.TextIOWrapper(io.BytesIO(content))


def file(folder: Path, name: str, content: bytes = SERIES) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


# --- files


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("v4.mbox", bytes),
        ("v4.mbx", bytes),
        ("v4.mbox.gz", gzip.compress),
        ("v4.mbox.xz", lzma.compress),
        ("v4.bz2", bz2.compress),
        ("v4", gzip.compress),
        ("v4.mbox", lzma.compress),
    ],
)
def test_load_reads_a_compressed_mbox(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    plain = series.load(file(tmp_path, "plain.mbox"), PATCHES)
    loaded = series.load(file(tmp_path, name, pack(SERIES)), PATCHES)
    assert loaded.patches == plain.patches
    assert (loaded.identity, loaded.digest, loaded.name) == (plain.identity, plain.digest, "v4")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(SERIES)[:-9], r"v4\.mbox cannot be tested: it is a gzip file that breaks off"),
        (gzip.compress(bytes(33 << 20)), "it is a gzip file with more than 32 MiB of mails"),
        (b"\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00\x99\xe9\xd8\x51", "zstd file|does not begin with a mail"),
    ],
)
def test_load_refuses_a_damaged_mbox(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        series.load(file(tmp_path, "v4.mbox", content), PATCHES)


def test_load_reads_one_mail(tmp_path: Path) -> None:
    one = mail("[PATCH] x", patch(10), name="1", first="")
    loaded = series.load(file(tmp_path, "one.eml", one.replace(b"\n", b"\r\n")), PATCHES)
    assert loaded.identity == series.load(file(tmp_path, "one.mbox", one), PATCHES).identity != ""


def test_load_reads_a_maildir(tmp_path: Path) -> None:
    parts = posting()
    for at, one in enumerate(reversed(parts)):
        file(tmp_path, f"mails/{'new' if at else 'cur'}/{at}.host:2,S", one.partition(b"\n")[2])
    file(tmp_path, "mails/tmp/half", b"Subject: [PATCH 3/2] half\n")
    hidden = mail("[PATCH 2/2] other", patch(40), name="9", to="0").partition(b"\n")[2]
    file(tmp_path, "mails/cur/.4", hidden)
    (tmp_path / "mails/new").mkdir(exist_ok=True)
    loaded = series.load(str(tmp_path / "mails"), PATCHES)
    assert titles(loaded) == ["vfio: part 1", "vfio: part 2"]
    assert loaded.identity == series.load(file(tmp_path, "v4.mbox"), PATCHES).identity
    assert loaded.name == "mails"


def test_load_refuses_links_in_a_maildir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, "mails/cur/1", SERIES)
    (tmp_path / "mails/new").mkdir()
    (tmp_path / "mails/new/2").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"new/2 in the maildir .* is not a plain file"):
        series.load(str(tmp_path / "mails"), PATCHES)
    (tmp_path / "mails/new/2").unlink()
    monkeypatch.setattr(series, "MAX_BYTES", 100)
    with pytest.raises(UsageError, match="are larger than 0 MiB together"):
        series.load(str(tmp_path / "mails"), PATCHES)


# --- standard input


@pytest.mark.parametrize("typed", [["--series", "-"], ["--series=-"]])
def test_standard_input_is_kept_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin(SERIES))
    first = load(Request(series="-"), [*typed, "-k", "x"])
    assert (first.series.name, first.series.origin) == ("stdin", "standard input")
    kept = first.request.series
    assert kept is not None
    assert f"Standard input is kept as {kept}." in first.series.posting.notes
    assert [*first.arguments] == [
        *(["--series", kept] if len(typed) > 1 else [f"--series={kept}"]),
        "-k",
        "x",
    ]
    again = load(first.request)  # by --resume, or a run on a prefix
    assert (again.series.name, again.series.digest) == (first.series.name, first.series.digest)
    assert again.series.identity == series.load(file(tmp_path, "x.mbox"), PATCHES).identity


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (stdin(b""), "Standard input is empty"),
        (io.TextIOWrapper(Terminal()), "standard input, which is a terminal here. Pipe them in"),
        (stdin(bytes((32 << 20) + 1)), "more than 32 MiB, which is the limit"),
        (stdin(b"nothing was found\n"), "cannot be tested: it does not begin with a mail"),
    ],
    ids=["empty", "terminal", "large", "no mails"],
)
def test_standard_input_without_a_series_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: io.TextIOWrapper, says: str
) -> None:
    monkeypatch.setattr(sys, "stdin", given)
    with pytest.raises(UsageError, match=says):
        load(Request(series="-"))


def test_apply_takes_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = make_checkout(tmp_path / "linux")
    monkeypatch.setattr(sys, "stdin", stdin(gzip.compress(SERIES)))
    assert main.main(["apply", "--tree", str(checkout), "--series", "-"]) == ExitCode.OK
    from_input = capsys.readouterr().out.split(",")[0]
    assert main.main(["apply", "--tree", str(checkout), "--series", file(tmp_path, "x.mbox")]) == ExitCode.OK
    assert capsys.readouterr().out.split(",")[0] == from_input


TOX = f"""\
#!{sys.executable}
import os, subprocess, sys

depth = int(sys.argv[1])
again = [sys.argv[0], str(depth - 1), *sys.argv[2:]]
command = again if depth else [sys.executable, "-m", "harness", *sys.argv[2:]]
environment = os.environ | {{"TOX_ENV_NAME": "vm"}}
sys.exit(subprocess.run(command, stdin=subprocess.DEVNULL, env=environment).returncode)
"""


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("redirection", ["cat thread.mbox |", "< thread.mbox", "< /dev/null", "<&-"])
def test_standard_input_of_tox_is_read(tmp_path: Path, redirection: str, depth: int) -> None:
    """tox gives its commands /dev/null; for another version of itself it does so twice."""
    checkout = make_checkout(tmp_path / "linux")
    Path(file(tmp_path, "tox", TOX.encode())).chmod(0o755)
    file(tmp_path, "thread.mbox")
    command = f"./tox {depth} apply --tree {checkout} --series -"
    line = f"{redirection} {command}" if redirection.endswith("|") else f"{command} {redirection}"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "thread" in redirection:
        assert (done.returncode, "vfio: all" in done.stderr) == (0, True), done.stderr
    else:
        assert (done.returncode, "Standard input is empty" in done.stderr) == (2, True), done.stderr


# --- an archive

V2 = posting("[PATCH v2 {}]", prefix="b", to="a0")
THREAD = b"".join([*posting(prefix="a"), mail("Re: [PATCH 1/2] x", name="r", to="a1"), *V2])


def from_archive(site: Site, monkeypatch: pytest.MonkeyPatch, request: Request) -> RunInput:
    monkeypatch.setenv(ARCHIVE_VARIABLE, f"{site.address}/all")
    for name in ("a0", "a1", "b0", "b2", "r", "x"):
        site.files[f"/all/{name}@example.org/t.mbox.gz"] = gzip.compress(THREAD)
    return load(request, ["--series", str(request.series)])


@pytest.mark.parametrize(
    ("argument", "revision", "expected"),
    [
        ("a0@example.org", None, 1),
        ("<a1@example.org>", None, 1),
        ("r@example.org", None, 1),
        ("b2@example.org", None, 2),
        ("https://lore.example.org/all/b0@example.org/T/#t", None, 2),
        ("b2@example.org", "1", 1),
        ("a1@example.org", "v2", 2),
    ],
)
def test_message_id_chooses_the_revision_of_its_mail(
    monkeypatch: pytest.MonkeyPatch, argument: str, revision: str | None, expected: int
) -> None:
    with serving(Site({})) as site:
        found = from_archive(site, monkeypatch, Request(series=argument, revision=revision)).series
    assert (found.posting.revision, len(found.patches)) == (expected, 2)
    said = "\n".join(found.posting.notes)
    assert "The thread was fetched from http://127.0.0.1" in said
    assert ("--revision chooses another" in said) == (revision is None)
    assert found.origin.startswith("http://127.0.0.1")
    again = load(Request(series=argument, revision=revision)).series  # without a server
    assert (again.digest, again.name) == (found.digest, found.name)
    assert "--refresh fetches it again" in again.posting.notes[0]


def test_refresh_is_not_repeated_by_a_resumed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Site({})) as site:
        made = from_archive(site, monkeypatch, Request(series="a0@example.org", refresh=True))
        assert not made.request.refresh
        assert made.arguments == ("--series", "a0@example.org")
        load(Request(series="a0@example.org", refresh=True), ["--refresh"])
        assert len(site.requests) == 2


def test_message_id_that_is_in_no_series_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lone = mail("What do you think?", "I read <x@example.org>.\n", name="q")
    monkeypatch.setattr(sys.modules[__name__], "THREAD", THREAD + lone)
    with serving(Site({})) as site, pytest.raises(UsageError, match=r"holds no mail <x@example\.org>"):
        from_archive(site, monkeypatch, Request(series="x@example.org"))


def test_message_id_without_an_archive_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Site({})) as site:
        pass
    monkeypatch.setenv(ARCHIVE_VARIABLE, site.address)
    assert main.main(["apply", "--series", "a@example.org"]) == ExitCode.HARNESS
    assert "No archive gives the thread of <a@example.org>" in capsys.readouterr().err
    with pytest.raises(HarnessError):
        load(Request(series="a@example.org"))


def test_file_comes_before_a_message_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file(tmp_path, "a@example.org")
    assert load(Request(series="a@example.org")).series.title == "vfio: all"
    with pytest.raises(UsageError, match="--series names no message-id"):
        load(Request(series="a@example.org", refresh=True))


# --- b4

B4 = shutil.which("b4") or shutil.which("b4", path=str(Path(sys.executable).parent))


def b4(folder: Path, mbox: str) -> subprocess.CompletedProcess[bytes]:
    """Run `b4 am -o -` on a file, without network and without the user's configuration."""
    assert B4 is not None
    home = {name: str(folder / "home") for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    environment = {
        "PATH": "/usr/bin:/bin",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **home,
    }
    options = ["--no-stdin", "-n", "--offline-mode", "-c", "b4.attestation-policy=off"]
    return subprocess.run(
        [B4, *options, "am", "-T", "-o", "-", "-m", mbox],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(B4 is None, reason="b4 is not installed; it comes with the extra dev")
def test_b4_before_the_pipe_gives_the_same_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, "thread.mbox")
    made = b4(tmp_path, path)
    assert made.returncode == 0, made.stderr
    monkeypatch.setattr(sys, "stdin", stdin(made.stdout))
    piped, own = load(Request(series="-")).series, load(Request(series=path)).series
    assert piped.identity == own.identity
    assert piped.digest != own.digest


@pytest.mark.skipif(B4 is None, reason="b4 is not installed; it comes with the extra dev")
def test_b4_that_lacks_a_patch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = b4(tmp_path, file(tmp_path, "thread.mbox", b"".join(posting(count=3)[:-1])))
    assert made.returncode == 0, made.stderr  # although it says that the thread is incomplete
    monkeypatch.setattr(sys, "stdin", stdin(made.stdout))
    with pytest.raises(UsageError, match="lacks patch 3 of 3"):
        load(Request(series="-"))
