"""A user's secrets are in no result: environment, ~/.netrc, configuration of git, passwords in URLs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import Built, Invocation, make_checkout, make_series

from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.kernel import list_archive
from harness.kernel.list_archive import ARCHIVE_VARIABLE, Address
from harness.lib import apt, command
from harness.lib.cache import Store, default_root
from harness.lib.command import CommandError
from harness.lib.errors import ExitCode, UsageError
from harness.lib.progress import Progress
from harness.lib.text import without_credentials
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind
from harness.vm import image

CANARY = "canary5f1e"
URL = f"https://{CANARY}-user:{CANARY}-word@example.org/x"
SELECTION = "a_dmabuf_reaches_the_memory"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a canary in each of his secrets, and in the name of his home folder."""
    home = tmp_path / f"{CANARY}-home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".netrc").write_text(f"machine example.org login {CANARY} password {CANARY}\n")
    (home / ".gitconfig").write_text(f"[user]\n\tname = {CANARY}\n\temail = {CANARY}@example.org\n")
    (home / ".ssh" / "config").write_text(f"Host *\n\tUser {CANARY}\n")
    proxy = f"http://{CANARY}:{CANARY}@127.0.0.1:9"
    values = dict.fromkeys(("USER", "LOGNAME", "CI_JOB_TOKEN", "GITHUB_TOKEN", "SSH_AUTH_SOCK"), CANARY)
    values |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
    for name, value in {**values, "HOME": str(home), "PATCHPROOF_CACHE": str(default_root())}.items():
        monkeypatch.setenv(name, value)


def places_of_canary(folder: Path) -> list[str]:
    """Return the files below ``folder`` that have the canary in their name or content."""
    return [
        str(path)
        for path in folder.rglob("*")
        if CANARY in path.name or (path.is_file() and CANARY.encode() in path.read_bytes())
    ]


def test_build_leaves_no_secret(tmp_path: Path, secrets: None) -> None:
    tree = make_checkout(tmp_path / "linux")
    series = make_series(tmp_path / "series", "int line_10;", "int line_10")
    cache, results, mark = tmp_path / "cache", tmp_path / "results", tmp_path / "mark"
    mark.mkdir()
    asked = ("run", "--tree", tree, "--series", series, "--results", results, "-k", SELECTION)
    with Invocation(*asked, mark=mark, cache=cache) as one:
        assert one.end() == ExitCode.SERIES, one.output
        assert CANARY not in one.output
    assert (results / "latest" / "build.log").stat().st_size > 0
    assert places_of_canary(results) == []
    assert places_of_canary(cache) == []


@pytest.mark.vm
@pytest.mark.build
def test_run_on_a_machine_leaves_no_secret(tmp_path: Path, secrets: None) -> None:
    built, results, mark = Built(tmp_path), tmp_path / "results", tmp_path / "mark"
    mark.mkdir()
    with Invocation("run", *built.arguments, "--results", results, "-k", SELECTION, mark=mark) as one:
        code = one.end()
        assert code == ExitCode.OK, one.output
        assert CANARY not in one.output
    files = [path.name for path in (results / "latest").rglob("*") if path.is_file()]
    assert {"console.log", "qemu.txt", "events.jsonl", "junit.xml", "report.html", "run.json"} <= set(files)
    assert places_of_canary(results) == []


def test_series_by_a_link_with_a_password_is_refused(tmp_path: Path) -> None:
    results, mark = tmp_path / "results", tmp_path / "mark"
    mark.mkdir()
    link = f"https://{CANARY}:{CANARY}@example.org/list/20260302-x@example.org/"
    with Invocation(
        "run", "--series", link, "--results", results, mark=mark, cache=tmp_path / "cache"
    ) as one:
        assert one.end() == ExitCode.HARNESS
        assert "has a user name or a password" in one.output
        assert CANARY not in one.output
    assert not results.exists()
    assert places_of_canary(tmp_path / "cache") == []


def test_archive_with_a_password_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARCHIVE_VARIABLE, URL)
    with pytest.raises(UsageError, match="has a user name or a password") as caught:
        list_archive.thread(Store(tmp_path), Address("20260302-x@example.org"))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Err:1 {URL} 404", "Err:1 https://...@example.org/x 404"),
        ("'http://u:p@ss@host:3128'", "'http://...@host:3128'"),
        ("ftp://token@host two://a:b@c", "ftp://...@host two://...@c"),
        ("https://lore.kernel.org/all/20260226-x@example.org/", None),
        ("Dev <dev@example.org>, git@host:path, a://b c@d", None),
    ],
)
def test_credentials_of_urls_are_left_out(text: str, shown: str | None) -> None:
    assert without_credentials(text) == (text if shown is None else shown)


def test_command_shows_no_password(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(CommandError) as caught:
        command.run(["sh", "-c", 'echo "proxy $0"; printf "\\377 $0\\n"; exit 3', URL], log=log)
    assert CANARY not in str(caught.value) + caught.value.tail
    assert b"\xff https://...@example.org/x\n" in log.read_bytes()
    assert CANARY not in log.read_text(errors="replace")
    assert command.run(["echo", URL], log=log) == URL  # a caller gets what it asked for
    assert CANARY not in log.read_text(errors="replace")


def test_journal_and_facts_have_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ResultsFolder.create(tmp_path, "x")
    results.write_run(selection=["--series", URL], origin=URL)
    journal: JournalWriter = results.journal()
    journal.plan((Entry("boot", Kind.STAGE, "It boots"),))
    journal.note(f"The mails are from {URL}.")
    progress = Progress(None)
    progress.say(f"from {URL}")
    with progress.stage("fetch") as stage:
        stage.note(f"from {URL}")
    said = capsys.readouterr().err
    assert said.count("from https://...@example.org/x") == 2
    assert json.loads((results.dir / "run.json").read_text())["origin"] == "https://...@example.org/x"
    assert "from https://...@example.org/x." in (results.dir / "events.jsonl").read_text()
    assert places_of_canary(tmp_path) == []


def test_image_is_made_without_secrets_in_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All users of a host can read the arguments of a program."""
    monkeypatch.setattr(image, "_apt_settings", lambda: [f'Acquire::http::Proxy "{URL}"'])
    monkeypatch.setattr(apt, "mirrors", lambda: [URL])
    seen: list[str] = []

    def run(argv: list[str], *, stdin: bytes = b"", **_: object) -> str:
        seen.extend(argv)
        if "mmdebstrap" in argv:
            settings = tmp_path / "apt.conf"
            assert settings.read_text() == f'Acquire::http::Proxy "{URL}";\n'
            assert settings.stat().st_mode & 0o077 == 0
            assert f"--aptopt={settings}" in argv
            assert URL.encode() in stdin
            (tmp_path / "root.tar").touch()
        return ""

    monkeypatch.setattr(command, "run", run)
    with Progress(None).stage("image") as stage:
        image._make_rootfs(tmp_path, stage, tmp_path / "log")
    assert "mmdebstrap" in seen
    assert CANARY not in " ".join(seen)
    assert list(tmp_path.iterdir()) == []
