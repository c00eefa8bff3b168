"""What a scenario says when it sees something other than it expects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from actors import PAGE, Client
from test_scene import CLIENT, OWNER, played

from harness.actor.actor import Actor
from harness.actor.expect import (
    Comparison,
    require_data,
    require_equal,
    require_gone,
    require_no_page,
    require_pages,
    require_refusal,
)
from harness.actor.handles import Buffer, Mapping
from harness.actor.mismatch import Mismatch
from harness.actor.reply import Sigbus, Sigsegv
from harness.actor.session import Wire
from harness.actor.transcript import Transcript

GONE = [Sigbus("adrerr", page * 0x1000) for page in range(4)]
WORDS = "0x00000010 0x00000011 sigbus:adrerr:0x2000 sigbus:adrerr:0x3000"
REVOKED = "revoke dev1 buf1|ok"


@pytest.mark.parametrize(
    ("lines", "operator", "seen", "expected", "sentence", "wanted"),
    [
        (
            f"{CLIENT}\n{REVOKED}\n@client loadpages map1|ok {WORDS}",
            *("==", [0x10, 0x11, *GONE[2:]], GONE),
            "After revoke returned, 2 of 4 pages of the client's mapping could still be read.",
            "ok sigbus:adrerr:0x0 sigbus:adrerr:0x1000 sigbus:adrerr:0x2000 sigbus:adrerr:0x3000",
        ),
        (
            f"loadpages map1|ok {WORDS}",
            *("==", [0x10, 0x11, *GONE[2:]], [0x10, 0x11, 0x12, 0x13]),
            "2 of 4 pages of the owner's mapping could not be read.",
            "ok 0x00000010 0x00000011 0x00000012 0x00000013",
        ),
        (
            "loadlist map1 0x0|ok 0x00000007",
            *("==", [7], [8]),
            "The only place of the owner's mapping had the wrong content.",
            "ok 0x00000008",
        ),
        (
            f"{REVOKED}\nload32 map1 0x8|ok 0x000010ed",
            *("==", 0x10ED, Sigbus("adrerr", 8)),
            "After revoke returned, a load at 0x8 of the owner's mapping succeeded.",
            "sigbus code=adrerr offset=0x8",
        ),
        (
            "load8 map1 0x8|sigsegv code=accerr offset=0x8",
            *("==", Sigsegv("accerr", 8), 1),
            "A load at 0x8 of the owner's mapping ended in SIGSEGV.",
            "ok 0x01",
        ),
        (
            f"{REVOKED}\nstore32 map1 0 0xbad|ok",
            *("==", None, Sigbus("adrerr", 0)),
            "After revoke returned, a store at 0x0 of the owner's mapping succeeded.",
            "sigbus code=adrerr offset=0x0",
        ),
        (
            "stamp map1|sigbus code=adrerr offset=0x1000",
            *("is", Sigbus("adrerr", 0x1000), None),
            "A store to every page of the owner's mapping ended in SIGBUS.",
            "ok *",
        ),
        (
            f"{REVOKED}\nmap buf1 length=0x4000|ok map2",
            *("==", "success", "ENODEV"),
            "After revoke returned, mmap() was not refused.",
            "error ENODEV",
        ),
        (
            f"{REVOKED}\nrevoke dev1 buf1|error EINVAL revoke: x",
            *("==", "EINVAL", "EBADFD"),
            "After revoke returned, revoke was refused with EINVAL.",
            "error EBADFD",
        ),
        (
            "&owner revoke dev1 buf1|ok\nfinish owner|error EIO revoke: x",
            *("==", "EIO", "success"),
            "Revoke was refused.",
            "ok *",
        ),
        (
            f"{REVOKED}\nload32 map1 0|ok 0x00000001",
            *("==", 7, 8),
            "After revoke returned, expected 8, but saw 7.",
            "",
        ),
        (
            "pagetable map1|ok 0x0-0x2000:pte:USR",
            *("==", ((0, 0x2000),), ((0, 0x4000),)),
            "The page table of the owner's mapping was not as expected.",
            "",
        ),
        (
            "madvise map1 hugepage|ok\npagetable map1|ok 0x0-0x2000:pte:USR",
            *("==", "write-back", "uncached-minus"),
            "After madvise() returned, the page table of the owner's mapping was not as expected.",
            "",
        ),
        (
            "touch map1|ok pages=4 faults=4",
            *("==", 4, 1),
            "Touching the owner's mapping took the wrong number of page faults.",
            "",
        ),
        (
            "host word ram 0x10|ok 0x00000007",
            *("==", 7, 8),
            "The device's memory, as the host sees it, had the wrong content.",
            "ok 0x00000008",
        ),
        (
            "wakeups dev1|ok 0",
            *("==", 0, 1),
            "The number of wakeups of the device was wrong.",
            "ok 1",
        ),
        (
            "fds|ok 5",
            *("==", 5, 4),
            "Expected 4, but saw 5.",
            "ok 4",
        ),
    ],
)
def test_sentence_names_moment_and_mapping(
    tmp_path: Path, lines: str, operator: str, seen: object, expected: object, sentence: str, wanted: str
) -> None:
    latest = played(tmp_path, OWNER, lines)
    found = Comparison.of(operator, seen, expected).mismatch()
    assert str(found) == sentence
    assert (found.deviation.wanted, found.deviation.line) == (wanted, latest.line)


def test_sentence_of_a_message_has_the_moment(tmp_path: Path) -> None:
    played(tmp_path, OWNER, REVOKED)
    with pytest.raises(Mismatch, match=r"^After revoke returned, the register was lost\.$") as raised:
        require_equal(0, 1, "the register was lost")
    assert (raised.value.deviation.expected, raised.value.deviation.seen) == ("1", "0")


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("actor") as one:
        yield one


@pytest.fixture
def mapping(client: Client, tmp_path: Path) -> Mapping:
    """A mapping of four pages, which faults beyond the first ``client.shrink(n)`` pages."""
    owner = Actor(Wire(client, Transcript(tmp_path / "transcript.txt")))
    made = owner.map(Buffer(owner, "buf1", 4 * PAGE, None))
    made.stamp(seed=0x10)
    return made


def sentence_of(attempt: Callable[[], object]) -> str:
    """Return the sentence with which an attempt fails, its period left out."""
    with pytest.raises(Mismatch) as raised:
        attempt()
    return str(raised.value).removesuffix(".")


def test_require_gone_refuses_another_signal(client: Client, mapping: Mapping) -> None:
    client.shrink(1)
    mapping.unmap(0, PAGE)
    client.shrink(0)
    assert sentence_of(partial(require_gone, mapping)) == (
        "After munmap() returned, 1 of 4 pages of the owner's mapping raised the wrong signal"
    )


def test_require_gone_accepts_sigbus_alone(client: Client, mapping: Mapping) -> None:
    wrong = partial(require_gone, mapping)
    assert sentence_of(wrong) == "All 4 pages of the owner's mapping could be read"
    client.shrink(1)
    assert sentence_of(wrong) == "1 of 4 pages of the owner's mapping could be read"
    client.shrink(0)
    require_gone(mapping)


def test_require_pages_looks_at_each_mapping(mapping: Mapping) -> None:
    right = [0x10, 0x11, 0x12, 0x13]
    require_pages(right, mapping, mapping)
    wrong = [*right[:3], 0x99]
    assert sentence_of(partial(require_pages, wrong, mapping)) == (
        "1 of 4 pages of the owner's mapping had the wrong content"
    )
    other = mapping.actor.map(Buffer(mapping.actor, "buf1", 4 * PAGE, None), length=PAGE)
    assert "map2" in sentence_of(partial(require_pages, [0], other))


def test_require_data_refuses_a_fault(client: Client, mapping: Mapping) -> None:
    require_data(mapping)
    client.shrink(0)
    assert (
        sentence_of(partial(require_data, mapping)) == "A load at 0x0 of the owner's mapping ended in SIGBUS"
    )


def test_require_refusal_returns_the_errno(mapping: Mapping) -> None:
    assert require_refusal(partial(mapping.advise, "99")) == "EINVAL"
    assert sentence_of(partial(require_refusal, partial(mapping.protect, "r"))) == (
        "After madvise() was refused with EINVAL, mprotect() was not refused"
    )


class Replies:
    """A channel that answers each line with the next of these replies."""

    def __init__(self, *replies: bytes) -> None:
        self._replies = iter(replies)

    def write(self, data: bytes, timeout: float) -> None:
        pass

    def read_line(self, timeout: float, limit: int) -> bytes:
        return next(self._replies)

    def read_errors(self) -> bytes:
        return b""

    def end_input(self) -> None:
        pass

    def wait(self, timeout: float) -> int:
        return 0

    def close(self) -> None:
        pass


def test_require_no_page_says_how_many_are_left(tmp_path: Path) -> None:
    replies = Replies(b"ok", b"ok 0x0-0x2000:pte:USR,RW,PCD,NX", b"ok")
    actor = Actor(Wire(replies, Transcript(tmp_path / "transcript.txt")))
    mapping = Mapping(actor, "map1", 4 * PAGE)
    actor.say("revoke", "dev1", "buf1")
    with pytest.raises(Mismatch) as raised:
        require_no_page(mapping)
    assert str(raised.value) == (
        "After revoke returned, the page table still had 2 of 4 pages of the owner's mapping."
    )
    assert raised.value.deviation.seen == "0x0 to 0x2000 by pte (NX PCD RW USR)"
    require_no_page(mapping)
