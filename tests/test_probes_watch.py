"""The watch of a mapping, descriptors that are opened again, and operations that need a device."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from actors import PAGE, Client

from harness.actor.reply import Watched


@pytest.fixture
def client() -> Iterator[Client]:
    """The C actor with a memfd of four pages as buf1, mapped as map1."""
    with Client("actor") as one:
        assert one.ask(f"map buf1 length={4 * PAGE}") == "ok map1"
        yield one


def watched(client: Client) -> Watched:
    said = client.ask("watched")
    assert said.startswith("ok "), said
    return Watched.parse(said.removeprefix("ok "))


def put(client: Client, page: int, value: int) -> None:
    os.pwrite(client.file, value.to_bytes(4, "little"), page * PAGE)


class TestWatch:
    def test_watch_sees_the_first_value_and_the_last(self, client: Client) -> None:
        put(client, 1, 0xAAAA)
        assert client.ask(f"watch map1 offset={PAGE} length=4") == "ok"
        put(client, 1, 0xBBBB)
        seen = watched(client)
        assert seen.values == {0xAAAA, 0xBBBB}
        assert (seen.sigbus, seen.sigsegv, seen.more) == (0, 0, False)
        assert seen.loads >= 2

    def test_watch_loads_every_page_of_its_part(self, client: Client) -> None:
        for page in range(4):
            put(client, page, 0x100 + page)
        assert client.ask(f"watch map1 offset={PAGE}") == "ok"
        assert watched(client).values == {0x101, 0x102, 0x103}

    def test_watch_goes_on_after_sigbus(self, client: Client) -> None:
        assert client.ask("watch map1") == "ok"
        client.shrink(1)
        seen = watched(client)
        assert seen.sigbus >= 3
        assert seen.loads >= 5

    def test_watch_goes_on_after_munmap(self, client: Client) -> None:
        assert client.ask("watch map1") == "ok"
        assert client.ask("unmap map1") == "ok"
        assert watched(client).sigsegv >= 4

    def test_watch_reports_more_values_than_it_keeps(self, client: Client) -> None:
        assert client.ask("unmap map1") == "ok"
        os.truncate(client.file, 20 * PAGE)
        assert client.ask(f"map buf1 length={20 * PAGE}") == "ok map2"
        for page in range(20):
            put(client, page, page)
        assert client.ask("watch map2") == "ok"
        seen = watched(client)
        assert seen.more
        assert seen.values == set(range(16))

    def test_watch_outlives_a_deadline_of_the_actor(self, client: Client) -> None:
        """The timer's signal goes to the thread that serves the lines, not to the watch."""
        assert client.ask("watch map1") == "ok"
        assert client.ask("recv deadline=1") == "timeout"
        put(client, 0, 0xC0DE)
        assert 0xC0DE in watched(client).values

    def test_watch_twice_or_never_is_refused(self, client: Client) -> None:
        assert client.ask("watched").startswith("error usage: ")
        assert client.ask("watch map1") == "ok"
        assert client.ask("watch map1").startswith("error usage: ")
        assert client.ask("fork child") == "ok"
        assert client.ask("@child watched").startswith("error usage: ")
        assert client.ask("@child watch map1") == "ok"
        assert client.ask("@child watched").startswith("ok loads=")
        watched(client)
        assert client.ask("watch map1") == "ok"

    @pytest.mark.parametrize("part", ["offset=2", "length=2", "length=0", f"length={PAGE + 2}"])
    def test_watch_of_part_of_a_word_is_refused(self, client: Client, part: str) -> None:
        assert client.ask(f"watch map1 {part}").startswith("error usage: ")


@pytest.mark.parametrize("said", ["", "loads=1", "loads=x sigbus=0 sigsegv=0 values=", "loads=1 sigbus=0"])
def test_malformed_watch_reply_is_refused(said: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        Watched.parse(said)


class TestReopen:
    def test_reopened_descriptor_outlives_the_first(self, client: Client) -> None:
        assert client.ask("reopen buf1") == "ok buf2"
        assert client.ask("close buf1") == "ok"
        assert client.ask("seek buf2") == f"ok {4 * PAGE:#x}"

    def test_path_descriptor_cannot_be_mapped(self, client: Client) -> None:
        assert client.ask("reopen buf1 open_flags=path") == "ok buf2"
        assert client.ask(f"map buf2 length={PAGE}").startswith("error EBADF ")

    def test_reopen_with_unknown_flags_is_refused(self, client: Client) -> None:
        assert client.ask("reopen buf1 open_flags=sideways").startswith("error usage: ")


@pytest.mark.parametrize("operation", ["cycle", "outlive"])
def test_cycle_without_a_device_is_refused(client: Client, operation: str) -> None:
    assert client.ask(f"{operation} buf1 bar=0 length=4096 count=1").startswith("error usage: ")
    assert client.ask(f"{operation} dev1 bar=0 length=4096").startswith("error usage: ")


def test_together_without_device_or_threads_is_refused(client: Client) -> None:
    tail = "bar=0 length=4096 count=1"
    assert client.ask(f"together buf1 export {tail} threads=2").startswith("error usage: ")
    assert client.ask(f"together dev1 export {tail}").startswith("error usage: ")
