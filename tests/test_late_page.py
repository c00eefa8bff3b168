"""Pages that the kernel is the first to touch: operations on them, on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from actors import PAGE, Client

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.actor.handles import Buffer
from harness.actor.ioctl import Argument
from harness.actor.late_page import HELD_IN, FreshPages, LatePage
from harness.actor.reply import Refused
from harness.actor.session import Wire
from harness.actor.transcript import Transcript

FIONREAD = 0x541B  # include/uapi/asm-generic/ioctls.h: writes an int, of a pipe or a socket
FIONBIO = 0x5421  # reads an int: non-blocking or not


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("actor") as one:
        yield one


@pytest.fixture
def owner(client: Client, tmp_path: Path) -> Actor:
    return Actor(Wire(client, Transcript(tmp_path / "transcript.txt")))


class TestLatePage:
    @pytest.fixture(autouse=True)
    def _faults(self) -> None:
        try:
            Path("/proc/self/stack").read_bytes()
        except OSError:
            pytest.skip("this host does not show kernel stacks")

    def test_call_is_held_until_the_page_is_there(self, owner: Actor) -> None:
        child = owner.spawn("child")
        try:
            page = LatePage.of(owner, child)
        except Refused as refused:
            pytest.skip(f"this host has no userfaultfd: {refused.errno}")
        target = child.make("eventfd", 0)
        argument = Argument([bytes(4)])
        call = Call.begin(child, lambda: page.call(target, FIONBIO, argument, present=0))
        place = call.held_in(HELD_IN)
        assert place is not None, "the call ended without its argument"
        page.release()
        assert call.outcome() == "success"


class TestLines:
    def test_argument_in_a_mapping_is_written_to_its_file(self, client: Client) -> None:
        assert client.ask(f"map buf1 length={4 * PAGE}") == "ok map1"
        reply = client.ask(f"ioctl buf1 {FIONBIO} data=01020304 in=map1 file=buf1 offset={PAGE}")
        assert reply == "ok 0x0"
        assert os.pread(client.file, 5, PAGE) == b"\x01\x02\x03\x04\x00"

    @pytest.mark.parametrize(
        "line",
        [
            "ioctl buf1 1 data=00 in=map1",
            "ioctl buf1 1 data=00 in=map1 file=map1",
            "ioctl buf1 1 data=00 in=buf1 file=buf1",
            f"ioctl buf1 1 data=0000 in=map1 file=buf1 offset={4 * PAGE - 1}",
            "lockcopy map1 sideways",
            f"lockcopy map1 folder offset={4 * PAGE}",
            "lockcopy buf1 folder",
            "regioncopy buf1 0 0 4 read map1",
        ],
    )
    def test_malformed_line_is_refused(self, client: Client, line: str) -> None:
        assert client.ask(f"map buf1 length={4 * PAGE}") == "ok map1"
        assert client.ask(line).startswith("error usage: ")

    def test_folder_is_listed_into_fresh_pages(self, owner: Actor) -> None:
        pages = FreshPages.of(owner, 2)
        length = pages.copy(1, "folder")
        assert 0 < length <= PAGE
        assert pages.mapping.load32(0) == 0
        assert pages.mapping.load(64, PAGE) != 0


def test_buffer_without_fences_is_ready(owner: Actor) -> None:
    """A memfd, which poll() reports as ready, has no fences."""
    assert owner.say("ready", Buffer(owner, "buf1", 4 * PAGE, None).name) == "read=yes write=yes"
