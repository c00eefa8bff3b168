"""The moment and the mapping of an operation, as a transcript tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.actor.scene import Operation
from harness.actor.transcript import Transcript, latest_operation

OWNER = """open vfio 0000:02:00.0|ok dev1 bars=2:0x4000000
export dev1 bar=2 ranges=0x0:0x4000|ok buf1 size=0x4000
map buf1 length=0x4000|ok map1"""
CLIENT = """spawn client|ok
send buf1 client|ok
@client recv|ok buf1
@client map buf1 length=0x4000|ok map1"""


def played(folder: Path, *parts: str) -> Operation:
    """Write ``OPERATION|REPLY`` lines to a transcript; return the latest operation."""
    transcript = Transcript(folder / "transcript.txt")
    actor = transcript.actor("c")
    for line in "\n".join(parts).splitlines():
        operation, _, reply = line.partition("|")
        transcript.operation(operation, actor, "c")
        if reply:
            transcript.reply(reply)
    transcript.close()
    return latest_operation()


@pytest.mark.parametrize(
    ("event", "since"),
    [
        ("revoke dev1 buf1|ok", "After revoke returned"),
        ("revoke dev1 buf1|error EBADFD revoke: x", "After revoke was refused with EBADFD"),
        ("reclaim dev1 buf1 map1 0x1|ok", "After revoke returned"),
        ("write dev1 config 4 2 0x404|ok", "After the device's memory was turned off"),
        ("write dev1 config 4 2 0x406|ok", "After the device's memory was turned on"),
        ("write dev1 config 0x44 2 0x3|ok", "After the configuration space was written"),
        ("write dev1 0 4 2 0x404|ok", ""),
        ("reset dev1|ok", "After the reset returned"),
        ("lowpower dev1 enter|ok", "After the device was put into low power"),
        ("lowpower dev1 exit|ok", "After the device left low power"),
        ("close dev1|ok", "After the device was closed"),
        ("close buf1|ok", "After a descriptor was closed"),
        ("unmap map1 length=0x1000|ok", "After munmap() returned"),
        ("unmap map1|timeout", ""),
        ("load32 map1 0|ok 0x00000000", ""),
        (
            "export dev1 bar=2 ranges=0x0:0x1000|ok buf2 size=0x1000\nrevoke dev1 buf2|ok",
            "After revoke of buf2 returned",
        ),
        ("spawn client|ok\nsignal client kill|ok\nreap client|ok signal=9", "After the client ended"),
        ("fork other|ok\nreap other|ok exit=0", "After process other ended"),
        ("fork child|ok", "After fork() returned"),
        ("revoke dev1 buf1|ok\nfork child|ok", "After revoke returned and fork() returned"),
        (
            "close buf1|ok\nrevoke dev1 buf1|ok\nclose buf1|ok",
            "After revoke returned and a descriptor was closed",
        ),
        ("revoke dev1 buf1|ok\nunmap map1|ok\nreset dev1|ok", "After the reset returned"),
        (
            "revoke dev1 buf1|ok\nrevoke dev1 buf1|error EBADFD revoke: x",
            "After revoke returned and revoke was refused with EBADFD",
        ),
        ("guest unbind 0000:01:00.0|ok", "After the device was unbound"),
        (
            "lowpower dev1 enter|ok\nguest await-suspend 0000:01:00.0|ok",
            "After the device was put into low power and the device was suspended",
        ),
        ("spawn owner|ok\n&owner revoke dev1 buf1|ok", "During revoke"),
        ("&owner revoke dev1 buf1|ok\nreset dev2|ok", "During revoke"),
        ("&owner revoke dev1 buf1|ok\nended owner|ok no\nfinish owner|timeout", "During revoke"),
        ("&owner revoke dev1 buf1|ok\nfinish owner|ok", "After revoke returned"),
        ("&owner revoke dev1 buf1|ok\nfinish owner|error EBADFD x", "After revoke was refused with EBADFD"),
        ("&owner revoke dev1 buf1|ok\nsignal owner kill|ok\nreap owner|ok signal=9", "After the owner ended"),
        ("&owner write dev1 config 4 2 0x4|ok", "During the write that turns the device's memory off"),
        ("&owner load32 map1 0|ok", ""),
    ],
)
def test_moment_is_that_of_the_latest_event(tmp_path: Path, event: str, since: str) -> None:
    assert played(tmp_path, OWNER, event).since == since
    later = played(tmp_path, OWNER, event, "load32 map1 0|ok 0x00000000")
    assert (later.moment, later.since) == (since, since)


def test_moment_before_an_event_is_that_before_it(tmp_path: Path) -> None:
    asked = played(tmp_path, OWNER, "reset dev1|ok", "revoke dev1 buf1|ok")
    assert (asked.moment, asked.since) == ("After the reset returned", "After revoke returned")
    assert played(tmp_path, OWNER, "reset dev1|ok", "revoke dev1 buf1").since == "After the reset returned"


@pytest.mark.parametrize(
    ("lines", "subject"),
    [
        ("load32 map1 0", "the owner's mapping"),
        ("map buf1 length=0x4000|ok map2\nload32 map2 0", "the owner's mapping map2"),
        ("map dev1 bar=2 length=0x4000|ok map2\nload32 map2 0", "the owner's device-fd mapping map2"),
        (f"{CLIENT}\n@client loadpages map1", "the client's mapping"),
        ("fork child|ok\n@child load32 map1 0", "the child's mapping"),
        ("fork other|ok\n@other load32 map1 0", "the mapping of process other"),
        (
            "spawn owner|ok\n@owner open vfio 1|ok dev1 bars=\n@owner map dev1 bar=0|ok map1\n"
            "@owner fill map1 0",
            "the owner's device-fd mapping",
        ),
        (f"{CLIENT}\n@client hammer map1 value=1|ok ham1\n@client hammered ham1", "the client's mapping"),
        ("ready buf1", ""),
    ],
)
def test_subject_is_the_mapping_of_a_process(tmp_path: Path, lines: str, subject: str) -> None:
    assert played(tmp_path, OWNER, lines).subject == subject


def test_first_process_without_a_device_is_no_owner(tmp_path: Path) -> None:
    lines = "spawn owner|ok\n@owner open vfio 1|ok dev1 bars=\nmap buf1 length=1|ok map1\nload32 map1 0"
    assert played(tmp_path, lines).subject == "the first process's mapping"


def test_operation_in_flight_is_answered_by_its_finish(tmp_path: Path) -> None:
    begun = f"{OWNER}\n{CLIENT}\n@client &below load32 map1 0|ok"
    asked = played(tmp_path, begun, "@client finish below|sigbus code=adrerr offset=0x0")
    assert (asked.call, asked.text) == ("load32 map1 0", "@client finish below")
    assert (asked.reply, asked.line) == ("sigbus code=adrerr offset=0x0", 19)


def test_top_level_actors_have_mappings_of_their_own(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "transcript.txt")
    one, other = transcript.actor("c"), transcript.actor("python")
    for actor, line, reply in (
        (one, "open vfio 0000:02:00.0", "ok dev1 bars=2:0x4000000"),
        (one, "map dev1 bar=2 length=0x1000", "ok map1"),
        (other, "map buf1 length=0x1000", "ok map1"),
    ):
        transcript.operation(line, actor, "c" if actor == one else "python")
        transcript.reply(reply)
    transcript.operation("load32 map1 0", one, "c")
    assert latest_operation().subject == "the owner's device-fd mapping"
    transcript.operation("load32 map1 0", other, "python")
    assert latest_operation().subject == "the other process's mapping"
    transcript.close()
