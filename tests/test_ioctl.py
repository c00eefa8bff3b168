"""Raw ioctl arguments, the footprint of calls, and unusual mappings and processes."""

from __future__ import annotations

import struct
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from actors import PAGE, Client

from harness.actor import mm
from harness.actor.actor import Actor
from harness.actor.footprint import Footprint, FootprintChanges
from harness.actor.handles import Buffer, Device, Mapping
from harness.actor.ioctl import GET, Abi, Anchor, Argument, call, creation, feature, hold
from harness.actor.processes import Segment, dump, leave, orphan, receive, segments, seized, send
from harness.actor.reply import ActorDiedError, Refused
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError
from harness.vm.ssh import Completed

FIONBIO = termios.FIONBIO  # takes an int, of any file


@pytest.fixture(params=["actor", "python"])
def owner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Actor]:
    with Client(request.param) as client:
        yield Actor(Wire(client, Transcript(tmp_path / "transcript.txt", "a title")))


@pytest.fixture
def c_owner(tmp_path: Path) -> Iterator[Actor]:
    with Client("actor") as client:
        yield Actor(Wire(client, Transcript(tmp_path / "transcript.txt", "a title")))


def buffer_of(owner: Actor) -> Buffer:
    return Buffer(owner, "buf1", 4 * PAGE, None)


class TestArgument:
    def test_feature_has_its_size(self, c_owner: Actor) -> None:
        argument = feature(GET | 11, bytes(4), buffer_of(c_owner))
        assert argument.parts[0] == struct.pack("=II", 16, GET | 11)
        assert argument.text() == f"10000000{(GET | 11).to_bytes(4, 'little').hex()},00000000,buf1"

    def test_feature_takes_another_size(self) -> None:
        assert feature(0, b"abc", argsz=7).parts[0] == struct.pack("=II", 7, 0)

    def test_creation_packs_its_fields(self) -> None:
        data = creation([(0x1000, 0x2000)], region=2, open_flags=3, flags=4, nr_ranges=9)
        assert struct.unpack("=IIIIQQ", data) == (2, 3, 4, 9, 0x1000, 0x2000)
        assert struct.unpack("=IIII", creation([], region=1, open_flags=0))[3] == 0

    @pytest.mark.parametrize(
        ("length", "text"),
        [(0, ""), (3, "616263"), (6, "616263646566"), (7, "616263646566"), (99, "616263646566,buf1,67")],
    )
    def test_cut_keeps_descriptors_whole(self, c_owner: Actor, length: int, text: str) -> None:
        cut = Argument([b"abcdef", buffer_of(c_owner), b"g"]).cut(length)
        assert (cut.text(), cut.guard) == (text, True)

    def test_anchor_has_a_name(self, c_owner: Actor) -> None:
        assert Argument([Anchor(Device(c_owner, "dev1", "", {}), 1)]).text() == "dev1/1"


class TestCalls:
    def test_call_returns_or_is_refused(self, owner: Actor) -> None:
        buffer = buffer_of(owner)
        assert call(owner, buffer, FIONBIO, Argument([bytes(4)], guard=True)) == 0
        for target, argument, errno in (
            (buffer, Argument([bytes(3)], guard=True), "EFAULT"),
            (buffer, 1, "EFAULT"),
            (-1, Argument([bytes(4)]), "EBADF"),
        ):
            with pytest.raises(Refused) as refused:
                call(owner, target, FIONBIO, argument)
            assert refused.value.errno == errno

    def test_footprint_names_leftovers(self, owner: Actor) -> None:
        first = Footprint(3, 0, 0)
        assert first.until(Footprint(3, 0, 0)) == ""
        assert first.until(Footprint(4, 2, 0)) == "1 descriptor and 2 DMABUFs"
        assert first.until(Footprint(3, 0, 5)) == "5 records in the kernel log"
        if "dmabufs=" not in owner.say("footprint"):
            with pytest.raises(HarnessError, match=r"could not count .*; its reply was: fds=\d+"):
                FootprintChanges(owner)

    def test_abi_has_its_numbers(self, owner: Actor) -> None:
        assert Abi.of(owner).export == 11
        device = Device(owner, "dev1", "", {})
        with pytest.raises(Refused):
            hold(device, 999)


class TestMappings:
    @pytest.fixture
    def mapping(self, c_owner: Actor) -> Mapping:
        mapping = c_owner.map(buffer_of(c_owner))
        assert mapping.stamp(seed=7) is None
        return mapping

    def test_remap_moves_and_duplicate_doubles(self, mapping: Mapping) -> None:
        moved = mm.remap(mapping, mapping.length, "maymove,fixed")
        assert moved.pages() == mm.duplicate(moved).pages() == [7, 8, 9, 10]
        assert mm.remap(moved, 2 * PAGE).pages() == [7, 8]

    def test_put_over_and_map_at_place_pages(self, c_owner: Actor, mapping: Mapping) -> None:
        buffer = buffer_of(c_owner)
        mm.map_over(mapping, buffer, PAGE, PAGE, 3 * PAGE)
        assert mapping.pages() == [7, 10, 9, 10]
        with pytest.raises(Refused):
            mm.map_over(mapping, buffer, PAGE, PAGE, 0, replacing=False)
        mm.remap_file_page(mapping, 0, 2 * PAGE, PAGE)
        assert mapping.pages() == [7, 10, 7, 10]
        assert mm.map_at(buffer, 1 << 44, PAGE, 2 * PAGE).pages() == [9]

    def test_lock_counts_as_locked(self, c_owner: Actor, mapping: Mapping) -> None:
        mm.lock(mapping)
        assert mm.Memory.of(c_owner).locked == 16
        mm.lock_all(c_owner, "none")
        assert mm.Memory.of(c_owner).locked == 0
        mm.sync(mapping, "sync")

    def test_shared_files_sum_by_name(self, owner: Actor) -> None:
        owner.map(buffer_of(owner))
        owner.map(buffer_of(owner), PAGE)
        assert mm.shared_files(owner, lambda name: name.startswith("/usr/")) == {"/memfd:buffer": 5 * PAGE}

    @pytest.mark.parametrize("via", ["mem", "ptrace", "vm"])
    def test_debugger_peeks_and_pokes(self, c_owner: Actor, mapping: Mapping, via: str) -> None:
        debugger = mm.Debugger(mapping, c_owner.fork("child"), via)
        try:
            assert debugger.peek(PAGE) == 8
        except Refused as refused:
            pytest.skip(f"this host forbids it: {refused}")
        debugger.poke(PAGE + 8, 5)
        assert mapping.load32(PAGE + 8) == 5


class TestRelations:
    def test_sent_descriptor_outlives_its_sender(self, owner: Actor) -> None:
        child = owner.spawn("child")
        buffer = buffer_of(owner)
        send(buffer, child)
        buffer.close()
        assert receive(child, buffer).seek() == 4 * PAGE

    def test_orphan_goes_on(self, c_owner: Actor) -> None:
        child = c_owner.fork("child")
        orphan(child)
        assert replace(buffer_of(c_owner), actor=child).seek() == 4 * PAGE

    def test_seized_actor_goes_on_later(self, c_owner: Actor) -> None:
        child = c_owner.fork("child")
        try:
            with seized(c_owner, child):
                pass
        except Refused as refused:
            pytest.skip(f"this host forbids it: {refused}")
        assert child.say("version")

    def test_leave_of_an_absent_namespace_is_an_error(self, c_owner: Actor) -> None:
        child = c_owner.spawn("child", uid=65534)
        with pytest.raises(HarnessError, match="namespaces"):
            leave(child, "net")

    def test_dump_reads_the_segments_of_a_core(self) -> None:
        host = RecordedGuest()
        found = dump(host, DyingActor())
        assert host.pattern == "core\n"
        assert host.written == ["/run/core-of-an-actor", "core"]
        assert found == [Segment(37 * PAGE, 0x1000)]

    @pytest.mark.parametrize("core", [b"", b"\x7fELF\x02", b"\x7fELF\x01" + bytes(100), b"no ELF" * 40])
    def test_segments_of_no_core_dump_are_an_error(self, core: bytes) -> None:
        with pytest.raises(HarnessError, match="core dump"):
            segments(core)


class DyingActor(Actor):
    """An actor that dies of every operation, as a real one that leaves a core dump."""

    def __init__(self) -> None:
        self.name = "child"

    def say(self, *words: object, **options: object) -> str:
        raise ActorDiedError(f"The actor ended while it did `{words[0]}`.")


class RecordedGuest(Guest):
    """A guest whose files are values, and whose core dump has one segment."""

    def __init__(self) -> None:
        self.pattern = "core\n"
        self.written: list[str] = []

    def read(self, path: str) -> str:
        return self.pattern

    def write(self, path: str, text: str) -> None:
        self.written.append(text)

    def script(self, text: str, *arguments: str, seconds: float | None = None) -> Completed:
        return Completed(0, b"", b"")

    def run(self, argv: object, stdin: bytes = b"") -> Completed:
        header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        note = struct.pack("<IIQQQQQQ", 4, 0, 0, 0, 0, 100, 0, 0)
        load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, 0x1000, 37 * PAGE, PAGE)
        return Completed(0, header + note + load, b"")
