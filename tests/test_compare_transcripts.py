"""Two transcripts of one scenario: aligned by operation, compared by the kinds of their replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.comparison_of_runs.transcripts import (
    Operation,
    first_difference,
    kind,
    operations,
)


def change(before: str, after: str) -> tuple[str, str, str] | None:
    """Return the operation and the kinds of the first change, of transcripts with ``;`` between the lines."""
    texts = (one.replace("; ", "\n") + "\n" for one in (before, after))
    found = first_difference(*(operations(text.encode()) for text in texts))
    return None if found is None else (found.after.text, *found.kinds)


@pytest.mark.parametrize(
    ("operation", "reply", "expected"),
    [
        ("map buf1", "ok map1", "ok"),
        ("map buf1", "error EINVAL map: Invalid argument", "EINVAL"),
        ("map buf1", "error usage: words", "usage"),
        ("load32 map1 0", "sigbus code=adrerr offset=0x0", "SIGBUS"),
        ("load32 map1 0", "sigbus code=objerr offset=0x0", "SIGBUS (objerr)"),
        ("@client store8 map1 0 1", "sigsegv code=maperr offset=0x0", "SIGSEGV"),
        ("loadpages map1", "ok 0x1 sigbus:adrerr:0x1000", "ok with SIGBUS"),
        ("@client loadpages map1", "ok 0x1 0x2", "ok"),
        ("compare map1 0", "ok differs offset=0x4 value=0x1", "ok: differs"),
        ("hammered ham1", "ok cpu=1,stored=77,loaded=0,sigbus=40", "ok"),
        ("watched", "ok loads=812 sigbus=40 values=0x1", "ok"),
        ("revoke dev1 buf1", "timeout", "timeout"),
        ("@a map buf1", "died a signal=9", "died"),
        ("revoke dev1 buf1", "", "no reply"),
        ("load32 map1 0", "\x1b[2J", "another reply"),
    ],
)
def test_kind_is_errno_or_signal_and_no_measurement(operation: str, reply: str, expected: str) -> None:
    assert kind(Operation(operation, reply, 1)) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("> a; ok; > b; ok", "> a; ok; > b; error EIO b: x", ("b", "ok", "EIO")),
        ("> footprint; ok fds=8", "> footprint; ok fds=9", None),
        ("# x; > a; ok", "# y; > a; ok; # z", None),
        # One side has operations that the other has not.
        ("> a; ok; > b; ok; > c; ok", "> a; ok; > x; ok; > b; ok; > c; timeout", ("c", "ok", "timeout")),
        ("> a; ok; > x; ok; > b; ok", "> a; ok; > b; error EIO b: x", ("b", "ok", "EIO")),
        # What follows an operation that only one side has is not compared with it.
        ("> a; ok; > x; ok", "> a; ok; > y; timeout", None),
        # The call that revokes is another one in another dialect, and addresses vary.
        (
            "> revoke d b via=ioctl; ok",
            "> revoke d b via=feature; error EIO r: x",
            ("revoke d b via=feature", "ok", "EIO"),
        ),
        (
            "> peek 0x7f0011223344; ok",
            "> peek 0x7f9911223344; timeout",
            ("peek 0x7f9911223344", "ok", "timeout"),
        ),
        # A step beside the actors may have a reply; a pattern is none.
        (
            "> a; ok; ! bind x; ! host word ram 0; ok 1",
            "> a; ok; ! bind x; ! host word ram 0; timeout",
            ("host word ram 0", "ok", "timeout"),
        ),
        ("> a; = error EIO; ok", "> a; ok", None),
        ("> a; ok; > died", "> a; ok; > died; ok", ("died", "no reply", "ok")),
    ],
)
def test_first_reply_of_another_kind_is_found(
    before: str, after: str, expected: tuple[str, str, str] | None
) -> None:
    assert change(before, after) == expected


LINES = st.lists(
    st.sampled_from(["> a", "> b", "> c via=ioctl", "ok", "error EIO a: b", "# c", "", "?", "! d", "= ok"])
)


@given(lines=LINES)
def test_transcript_equals_itself(lines: list[str]) -> None:
    found = operations("\n".join(lines).encode())
    assert first_difference(found, found) is None
    assert len(found) == sum(line.startswith(("> ", "! ")) for line in lines)


@given(lines=LINES, others=LINES)
def test_change_backwards_is_the_same_change(lines: list[str], others: list[str]) -> None:
    first, second = (operations("\n".join(one).encode()) for one in (lines, others))
    forward, backward = first_difference(first, second), first_difference(second, first)
    assert (forward is None) == (backward is None)


@given(content=st.binary())
def test_any_bytes_are_read_as_a_transcript(content: bytes) -> None:
    assert all(kind(one) for one in operations(content))
