"""Refused operations of the series' interface, in lines of the actors' protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.actor.actor import Actor
from harness.actor.interface import refusal
from harness.actor.session import Wire
from harness.actor.transcript import Transcript

EINVAL = "error EINVAL map: Invalid argument"
ENOTTY = "error ENOTTY ioctl: Inappropriate ioctl for device"


@pytest.mark.parametrize(
    ("line", "reply", "expected"),
    [
        ("map buf1 length=0x1000 prot=rw", EINVAL, "map buf1 length=0x1000 prot=rw: EINVAL"),
        ("@a @b map buf2 length=0x1000", EINVAL, "map buf2 length=0x1000: EINVAL"),
        ("revoke dev1 buf1 via=feature", ENOTTY, "revoke dev1 buf1 via=feature: ENOTTY"),
        ("memattr dev1 buf1 wc", ENOTTY, "memattr dev1 buf1 wc: ENOTTY"),
        ("reclaim dev1 buf1 map1 0x1", ENOTTY, "reclaim dev1 buf1 map1 0x1: ENOTTY"),
        ("cycle dev1 bar=2 length=0x1000 count=9", EINVAL, "cycle dev1 bar=2 length=0x1000 count=9: EINVAL"),
        ("probe dev1 14 set", ENOTTY, "probe dev1 14 set: ENOTTY"),
        ("export dev1 bar=2 ranges=0x0:0x1000 flags=0x10000000", EINVAL, "export dev1 bar=2"),
        ("ioctl dev1 0x3b75 data=00", ENOTTY, "ioctl dev1 0x3b75 data=00: ENOTTY"),
        ("together dev1 revoke bar=0 length=0x1000 count=1", ENOTTY, "together dev1 revoke"),
    ],
)
def test_refusal_of_the_series_interface_is_named(line: str, reply: str, expected: str) -> None:
    assert refusal(line, reply).startswith(expected)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("map buf1 length=0x1000", "ok map1"),
        ("load32 map1 0x0", "sigbus code=adrerr offset=0x0"),
        ("map dev1 bar=2 length=0x1000", EINVAL),
        ("export dev1 bar=2 ranges=", "error EINVAL export: Invalid argument"),
        ("export dev1 bar=2 ranges=0x0:0x1000 flags=0", "error EMFILE export: Too many open files"),
        ("ioctl dev1 0x3b75 data=00", "error EINVAL ioctl: Invalid argument"),
        ("together dev1 export bar=0 length=0x1000 count=1", "error EINVAL export"),
        ("mapfile map1", "error EPERM open"),
    ],
)
def test_other_operations_are_no_refusal(line: str, reply: str) -> None:
    assert refusal(line, reply) == ""


class Answers:
    """A channel that answers every line with ``reply``."""

    def __init__(self, reply: str) -> None:
        self.reply = reply

    def write(self, data: bytes, timeout: float) -> None: ...

    def read_line(self, timeout: float, limit: int) -> bytes:
        return self.reply.encode()

    def read_errors(self) -> bytes:
        return b""

    def end_input(self) -> None: ...

    def wait(self, timeout: float) -> int:
        return 0

    def close(self) -> None: ...


def test_transcript_keeps_the_refused_operations(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "transcript.txt")
    actor = Actor(Wire(Answers(EINVAL), transcript))
    for line in ("map buf1 length=1", "map buf1 length=1", "revoke dev1 buf1", "map dev1 length=1"):
        actor.raw(line)
    assert list(transcript.refused) == ["map buf1 length=1: EINVAL", "revoke dev1 buf1: EINVAL"]
