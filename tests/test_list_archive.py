"""Threads from a mailing list archive: addresses, the cache, and an archive that fails."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from local_server import Site, serving

from harness.kernel import download, list_archive
from harness.kernel.list_archive import ARCHIVE_VARIABLE, DEFAULT_ARCHIVE, Address, thread
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError, UsageError

ID = "20260302100000.1-1-j+x@example.org"
MAILS = f"From mboxrd@z Thu Jan  1 00:00:00 1970\nMessage-ID: <{ID}>\nSubject: [PATCH] x\n\nWhy.\n".encode()
PATH = "/all/20260302100000.1-1-j%2Bx@example.org/t.mbox.gz"


@pytest.fixture(autouse=True)
def plain_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ARCHIVE_VARIABLE, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be used for this machine
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def link(site: Site) -> Address:
    found = Address.parse(f"{site.address}/all/{ID}/")
    assert found is not None
    return found


# --- addresses


@pytest.mark.parametrize(
    ("argument", "archive"),
    [
        (ID, ""),
        (f"<{ID}>", ""),
        (f"https://lore.example.org/all/{ID}/", "https://lore.example.org/all"),
        (f"https://lore.example.org/all/{ID}", "https://lore.example.org/all"),
        (f"https://lore.example.org/all/{ID}/T/#t", "https://lore.example.org/all"),
        (f"https://lore.example.org/all/{ID}/t.mbox.gz", "https://lore.example.org/all"),
        (f"https://lore.example.org/all/{ID}/raw?x=1", "https://lore.example.org/all"),
        ("https://x.org/a/b/20260302100000.1-1-j%2Bx%40example.org/#r", "https://x.org/a/b"),
        (f"https://lore.example.org/r/{ID}", "https://lore.example.org/r"),
        (f"http://127.0.0.1:80/all/{ID}/", "http://127.0.0.1:80/all"),
        (f"https://patch.msgid.link/{ID}", ""),
        (f"https://lkml.kernel.org/r/{ID}", ""),
        (f"HTTPS://lore.example.org/all/{ID}", "https://lore.example.org/all"),
        (f"lore.kernel.org/r/{ID}/", "https://lore.kernel.org/r"),
        (f"patch.msgid.link/{ID}", ""),
        (f"https://patchwork.example.org/project/a-list/patch/{ID}/", ""),
        (f"https://patchwork.example.org/project/a-list/patch/{ID}/mbox/", ""),
        (f"https://patchwork.example.org/project/a-list/cover/{ID}/", ""),
        (f"Message-ID: <{ID}>", ""),
        (f"id:{ID}", ""),
    ],
)
def test_address_has_message_id_and_archive(argument: str, archive: str) -> None:
    assert Address.parse(argument) == Address(ID, archive)


@pytest.mark.parametrize(
    "argument", ["reference-feature", "v4.mbox", "a/b@c/v4.mbox", "a @b", "", "-", "<>", "<a\udcff@b>"]
)
def test_address_is_none_for_names_and_files(argument: str) -> None:
    assert Address.parse(argument) is None


def test_link_without_message_id_is_refused() -> None:
    with pytest.raises(UsageError, match="names no message-id, as https://HOST/LIST/MESSAGE-ID/"):
        Address.parse("https://lists.example.org/archives/2026-March/1234.html")


@pytest.mark.parametrize(
    "rest", ["thread/ABCDEF/", "message/ABCDEF/", "export/x.mbox.gz?thread=ABCDEF", "2026/3/"]
)
def test_link_into_mailman_names_no_message_id(rest: str) -> None:
    with pytest.raises(UsageError, match="download the thread there as an mbox file"):
        Address.parse(f"https://lists.example.org/archives/list/a-list@lists.example.org/{rest}")


def test_link_that_is_malformed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"The link https://\[::1/all/a@b/ cannot be read: "):
        Address.parse("https://[::1/all/a@b/")


def test_archive_with_a_malformed_address_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARCHIVE_VARIABLE, "https://[::1")
    with pytest.raises(UsageError, match=r"The address https://\[::1/a@b/t.mbox.gz cannot be read: "):
        thread(store, Address("a@b"))


def test_message_id_with_slash_is_one_segment_of_the_url() -> None:
    found = Address.parse("<a/../b@c>")
    assert found is not None
    assert found.urls == [f"{DEFAULT_ARCHIVE}/a%2F..%2Fb@c/t.mbox.gz"]


def test_archive_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARCHIVE_VARIABLE, "https://mirror.example.org/all/")
    assert Address("a@b", "https://x.org/r").urls == ["https://mirror.example.org/all/a@b/t.mbox.gz"]
    monkeypatch.setenv(ARCHIVE_VARIABLE, "")
    assert Address("a@b", "https://x.org/r").urls == [
        "https://x.org/r/a@b/t.mbox.gz",
        "https://x.org/all/a@b/t.mbox.gz",
    ]


# --- fetching


def test_thread_is_fetched_once(store: Store) -> None:
    with serving(Site({PATH: gzip.compress(MAILS)})) as site:
        first = thread(store, link(site))
        assert (first.path.read_bytes(), first.again) == (MAILS, False)
        assert first.path.name == "20260302100000.1-1-j-x-example.org.mbox"
        assert first.note == f"The thread was fetched from {site.address}{PATH} on {first.fetched}."
    second = thread(store, Address(ID))  # without the server, and from another list
    assert (second.path, second.url, second.fetched) == (first.path, first.url, first.fetched)
    assert "as http://127.0.0.1" in second.note
    assert second.again
    assert site.requests == [PATH]


def test_refresh_fetches_the_thread_again(store: Store) -> None:
    with serving(Site({PATH: gzip.compress(MAILS)})) as site:
        first = thread(store, link(site))
        site.files[PATH] = gzip.compress(MAILS + b"more\n")
        second = thread(store, link(site), refresh=True)
        assert second.path.read_bytes() == MAILS + b"more\n"
    assert thread(store, link(site)).path == second.path
    assert first.path.read_bytes() == MAILS  # a run that is resumed may still name it


@pytest.mark.parametrize("damage", ["mails", "index", "no mails", "other index"])
def test_damaged_thread_is_fetched_again(store: Store, damage: str) -> None:
    with serving(Site({PATH: gzip.compress(MAILS)})) as site:
        first = thread(store, link(site))
        (index,) = (store.root / "threads/index").iterdir()
        if damage == "mails":
            first.path.write_bytes(MAILS + b"x")
        elif damage == "no mails":
            first.path.unlink()
        elif damage == "index":
            index.write_text("[]")
        else:
            index.write_text(json.dumps({"message_id": "x", "sha256": "../../x", "url": "", "fetched": ""}))
        again = thread(store, link(site))
    assert (again.path.read_bytes(), again.again) == (MAILS, False)


def test_link_of_any_list_is_asked_in_all(store: Store) -> None:
    with serving(Site({PATH: gzip.compress(MAILS)})) as site:
        found = Address.parse(f"{site.address}/r/{ID}")
        assert found is not None
        assert thread(store, found).path.read_bytes() == MAILS
    assert site.requests == [PATH.replace("/all/", "/r/"), PATH]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the server answers 404 Not Found"),
        (b"<!DOCTYPE html>\n<html>Are you a robot?</html>", "is a web page, so this is no archive"),
        (MAILS, "is no compressed mbox file"),
        (gzip.compress(MAILS)[:-9], "it is a gzip file that breaks off"),
        (gzip.compress(MAILS)[:30] + b"x" * 99, "it is a damaged gzip file"),
        (gzip.compress(b"From another thread\n"), "does not hold the mail"),
        (gzip.compress(bytes(33 << 20)), "more than 32 MiB of mails"),
        (bytes((32 << 20) + 1), "is larger than 32 MiB, which is the limit"),
    ],
    ids=["404", "html", "plain", "cut off", "damaged", "other", "bomb", "large"],
)
def test_answer_that_is_no_thread_is_a_sentence(store: Store, content: bytes | None, says: str) -> None:
    with (
        serving(Site({} if content is None else {PATH: content})) as site,
        pytest.raises(HarnessError, match=says) as failure,
    ):
        thread(store, link(site))
    assert failure.value.exit_code is ExitCode.HARNESS
    assert not list(store.root.glob("threads/*/*"))


def test_broken_connection_is_tried_again_from_the_start(store: Store) -> None:
    with serving(Site({PATH: gzip.compress(MAILS)}, break_after=[10, 20])) as site:
        assert thread(store, link(site)).path.read_bytes() == MAILS
        assert site.requests == [PATH] * 3
        site.break_after = [10] * 9
        with pytest.raises(HarnessError, match="the connection broke off at 10 of"):
            thread(store, link(site), refresh=True)


def test_busy_server_is_asked_three_times(store: Store) -> None:
    with (
        serving(Site({}, status=503)) as site,
        pytest.raises(HarnessError, match="could not be fetched: the server answers 503"),
    ):
        thread(store, link(site))
    assert len(site.requests) == download.TRIES_FROM_START


@pytest.mark.parametrize("name", ["TIMEOUT", "DEADLINE"])
def test_slow_server_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(download, name, 0.05 if name == "TIMEOUT" else -1.0)
    says = "timed out" if name == "TIMEOUT" else "after -1 s there were only"
    with (
        serving(Site({PATH: gzip.compress(MAILS)}, silent=name == "TIMEOUT")) as site,
        pytest.raises(HarnessError, match=says),
    ):
        thread(store, link(site))
    assert len(site.requests) == (download.TRIES_FROM_START if name == "TIMEOUT" else 1)


def test_redirection_is_followed_on_the_same_server_only(store: Store) -> None:
    with serving(Site({PATH: gzip.compress(MAILS)})) as site, serving(Site({})) as other:
        other.redirects[PATH] = f"{site.address}{PATH}"
        with pytest.raises(HarnessError, match=r"redirects to http://.*, another server"):
            thread(store, link(other))
        assert site.requests == []
        site.redirects["/r" + PATH.removeprefix("/all")] = PATH
        found = Address.parse(f"{site.address}/r/{ID}")
        assert found is not None
        assert thread(store, found).path.read_bytes() == MAILS
        site.redirects[PATH] = "file:///etc/passwd"
        with pytest.raises(HarnessError, match=r"[Rr]edirection to url .file:///etc/passwd. is not allowed"):
            thread(store, link(site), refresh=True)


@pytest.mark.parametrize(
    "archive", ["http://lore.example.org/all", "file:///etc", "lore.example.org", "https:///x"]
)
def test_archive_without_tls_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch, archive: str) -> None:
    monkeypatch.setenv(ARCHIVE_VARIABLE, archive)
    with pytest.raises(UsageError, match="is not an https address"):
        thread(store, Address(ID))


def test_thread_without_network_says_what_to_do(store: Store) -> None:
    with serving(Site({})) as site:
        pass
    with pytest.raises(HarnessError, match=r"refused.* Save it as an mbox file .* PATCHPROOF_ARCHIVE"):
        thread(store, link(site))
    assert list_archive.KIND in {path.name for path in store.root.iterdir()}
