"""Actors as scenarios see them: values, exceptions, transcripts, and replies that break the protocol."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actors import HEADERS, PAGE, Client, Local, actor
from hypothesis import given
from hypothesis import strategies as st

from harness.actor import build
from harness.actor.actor import Actor, NotOfferedError, Survivors
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.reply import (
    BUS_ADRERR,
    SEGV_ACCERR,
    SEGV_MAPERR,
    ActorDiedError,
    DeadlineError,
    Refused,
    Sigbus,
    Sigsegv,
    Vma,
    judge,
)
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.lib.cache import Store
from harness.lib.errors import BuildError, HarnessError

KINDS = ["actor", "python"]


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(request.param) as one:
        yield one


@pytest.fixture
def transcript(tmp_path: Path) -> Transcript:
    return Transcript(tmp_path / "transcripts/test.txt", "a title")


@pytest.fixture
def owner(client: Client, transcript: Transcript) -> Actor:
    return Actor(Wire(client, transcript))


@pytest.fixture
def buffer(owner: Actor) -> Buffer:
    return Buffer(owner, "buf1", 4 * PAGE, None)


class TestActor:
    def test_replies_are_values(self, owner: Actor, buffer: Buffer) -> None:
        mapping = owner.map(buffer)
        assert mapping == Mapping(owner, "map1", 4 * PAGE)
        assert mapping.store32(8, 0xFEDCBA98) is None
        assert mapping.load32(8) == 0xFEDCBA98
        assert mapping.load(16, 10) == 0xFEDC
        assert mapping.stamp(7) is None
        assert mapping.pages() == [7, 8, 9, 10]
        assert buffer.seek() == 4 * PAGE

    def test_faults_are_values(self, client: Client, owner: Actor, buffer: Buffer) -> None:
        readonly, mapping = owner.map(buffer, prot="r"), owner.map(buffer)
        assert readonly.store32(4, 1) == Sigsegv(SEGV_ACCERR, 4)
        mapping.unmap(PAGE, PAGE)
        assert mapping.load32(PAGE) == Sigsegv(SEGV_MAPERR, PAGE)
        assert mapping.load32(PAGE) != Sigbus(SEGV_MAPERR, PAGE)
        client.shrink(0)
        assert mapping.load32(3 * PAGE + 8) == Sigbus(BUS_ADRERR, 3 * PAGE + 8)
        assert readonly.pages(2 * PAGE) == [Sigbus(BUS_ADRERR, page * PAGE) for page in (2, 3)]
        assert mapping.stamp() == Sigbus(BUS_ADRERR, 0)

    def test_refusal_has_its_errno(self, owner: Actor, buffer: Buffer) -> None:
        with pytest.raises(Refused, match="EINVAL") as caught:
            owner.map(buffer, length=0)
        assert caught.value.errno == "EINVAL"
        assert caught.value.operation == "map buf1 length=0 prot=rw"

    def test_wrong_line_is_a_harness_error(self, owner: Actor) -> None:
        with pytest.raises(HarnessError, match="does not name a buffer"):
            Buffer(owner, "buf9", 0, None).seek()

    def test_client_maps_a_given_buffer(self, owner: Actor, buffer: Buffer) -> None:
        client = owner.spawn("client")
        theirs = owner.give(buffer, client)
        client.map(theirs).store32(0, 77)
        assert owner.map(buffer).load32(0) == 77
        client.exit()
        with pytest.raises(ActorDiedError, match="exit=0"):
            theirs.seek()
        assert owner.reap(client) == "exit=0"

    def test_operation_past_its_deadline_is_an_error(self, owner: Actor) -> None:
        client = owner.spawn("client")
        with pytest.raises(DeadlineError, match="within 1 s") as caught:
            client.say("recv", deadline=1)
        assert caught.value.answered
        client.exit()

    def test_revoke_of_a_buffer_without_a_device_is_an_error(self, owner: Actor, buffer: Buffer) -> None:
        with pytest.raises(HarnessError, match="which device"):
            owner.revoke(buffer)


class TestPlaces:
    """Operations about places in a mapping, and ranges of an export."""

    @pytest.fixture
    def mapping(self, transcript: Transcript) -> Iterator[Mapping]:
        with Client("actor") as client:
            owner = Actor(Wire(client, transcript))
            yield owner.map(Buffer(owner, "buf1", 4 * PAGE, None))

    def test_at_loads_in_the_asked_order(self, mapping: Mapping) -> None:
        mapping.stamp(seed=0x20)
        mapping.protect("none", PAGE, PAGE)
        assert mapping.at((3 * PAGE, 0, 3 * PAGE)) == [0x23, 0x20, 0x23]
        assert mapping.at([PAGE + 4]) == [Sigsegv(SEGV_ACCERR, PAGE + 4)]

    def test_touch_counts_faults(self, mapping: Mapping) -> None:
        mapping.stamp()
        mapping.advise("dontneed")
        assert mapping.touch(offset=PAGE, length=PAGE) == 1
        assert mapping.touch(value=9, offset=PAGE, length=PAGE) == 0
        assert mapping.pages() == [0, 9, 2, 3]
        mapping.protect("none", 2 * PAGE)
        assert mapping.touch() == Sigsegv(SEGV_ACCERR, 2 * PAGE)

    def test_buffer_and_mapping_end_with_their_block(self, mapping: Mapping) -> None:
        owner = mapping.actor
        with Buffer(owner, "buf1", 4 * PAGE, None).dup() as other, owner.map(other, PAGE) as second:
            assert second.load32(0) == 0
        with pytest.raises(HarnessError, match="does not name"):
            second.load32(0)
        with pytest.raises(HarnessError, match="does not name"):
            other.seek()

    def test_buffer_tells_its_descriptors_state(self, mapping: Mapping) -> None:
        buffer = Buffer(mapping.actor, "buf1", 4 * PAGE, None)
        assert buffer.closes_on_exec()
        assert buffer.fdinfo()["pos"] == "0"
        with pytest.raises(Refused, match="ENOTTY"):
            buffer.ioctl(0x40086200, b"\3\0\0\0\0\0\0\0")
        buffer.ioctl(0x541B, bytes(4))

    def test_exec_forgets_the_names(self, mapping: Mapping) -> None:
        mapping.actor.comment("now it replaces itself")
        assert mapping.actor.exec() == Survivors(0, ())
        with pytest.raises(HarnessError, match="does not name"):
            mapping.load32(0)

    def test_export_joins_equal_ranges(self, owner: Actor, client: Client) -> None:
        device = Device(owner, "dev1", "0000:01:00.0", {2: 8 * PAGE})
        one, other = Range(0, PAGE), Range(PAGE, 2 * PAGE)
        for ranges, said in (
            ([one, other, one], "0x0:0x1000,0x1000:0x2000,0x0:0x1000"),
            ([other, *[one] * 3, other], "0x1000:0x2000,0x0:0x1000*3,0x1000:0x2000"),
            ([], ""),
            (None, "0x0:0x8000"),
        ):
            with pytest.raises(HarnessError, match=rf"`export dev1 bar=2 ranges={re.escape(said)}`"):
                owner.export(device, 2, ranges)


class TestForkedActor:
    def test_forked_actor_adopts_a_mapping(self, transcript: Transcript) -> None:
        with Client("actor") as client:
            owner = Actor(Wire(client, transcript))
            mapping = owner.map(Buffer(owner, "buf1", 4 * PAGE, None))
            child = owner.fork("child")
            assert child.adopt(mapping).store32(0, 5) is None
            assert mapping.load32(0) == 5
            assert mapping.fill(0x1234, length=PAGE) is None
            assert child.adopt(mapping).differs(0x1234) == "offset=0x1000 value=0x00000000"
            assert mapping.differs(0x1234, length=PAGE) == ""
            (vma,) = owner.vmas(mapping)
            assert (vma.start, vma.end, vma.permissions, vma.file_offset) == (0, 4 * PAGE, "rw-s", 0)
            assert {"rd", "wr", "sh"} <= vma.flags
            assert owner.minor_faults() > 0


class TestTranscript:
    def test_transcript_holds_lines_and_replies(
        self, owner: Actor, buffer: Buffer, transcript: Transcript
    ) -> None:
        mapping = owner.map(buffer)
        mapping.store32(PAGE, 0x10000)
        assert transcript.path.read_text() == (
            "# transcript 2\n# a title\n! actor 1 c\n"
            "> map buf1 length=0x4000 prot=rw\nok map1\n> store32 map1 0x1000 0x10000\nok\n"
        )

    def test_transcript_can_be_replayed(self, tmp_path: Path) -> None:
        transcript = Transcript(tmp_path / "t.txt", "two lines\nof title")
        with Actor(Wire(Local([str(actor())]), transcript)) as owner:
            owner.spawn("client").say("fds")
            owner.raw("nonsense \x07\u00e9")
        done = subprocess.run([actor(), "--replay", transcript.path], capture_output=True, text=True)
        assert done.stdout == "3 operations, 0 replies differ\n"

    def test_transcript_escapes_control_characters(self, tmp_path: Path) -> None:
        transcript = Transcript(tmp_path / "t.txt")
        transcript.reply("ok\r> reset dev1\x1b[2J\x85\udc80")
        assert transcript.path.read_bytes() == b"# transcript 2\nok?> reset dev1?[2J\xc2\x85\\udc80\n"


def test_deadline_on_a_slow_kernel_is_scaled(owner: Actor, transcript: Transcript) -> None:
    owner.slowdown = 2.5
    child = owner.spawn("child")
    child.say("version")
    child.say("version", deadline=3)
    asked = [line for line in transcript.path.read_text().splitlines() if line.startswith("> @child")]
    assert asked == ["> @child version deadline=0x19", "> @child version deadline=8"]


@pytest.mark.parametrize(
    ("option", "operate"),
    [
        ("VFIO_GROUP", lambda actor: actor.open("0000:00:02.0")),
        ("VFIO_DEVICE_CDEV", lambda actor: actor.open("0000:00:02.0", "cdev")),
        ("UDMABUF", lambda actor: actor.make("udmabuf", PAGE)),
        ("DMABUF_HEAPS_SYSTEM", lambda actor: actor.make("heap", PAGE)),
    ],
)
def test_operation_without_its_option_is_not_offered(
    owner: Actor, option: str, operate: Callable[[Actor], object]
) -> None:
    owner.absent = lambda name: f"needs CONFIG_{name}, which the base lacks" if name == option else ""
    with pytest.raises(NotOfferedError, match=f"needs CONFIG_{option}, which the base lacks"):
        operate(owner)
    with pytest.raises(NotOfferedError):
        operate(owner.spawn("child"))
    assert owner.make("memfd", PAGE).size == PAGE


class TestSilence:
    """Programs that do not answer as an actor does."""

    def silent(self, script: str, transcript: Transcript, margin: float = 0.2) -> tuple[Actor, Local]:
        program = Local(["sh", "-c", script])
        return Actor(Wire(program, transcript, margin)), program

    def test_silent_actor_is_a_deadline_error(self, transcript: Transcript) -> None:
        one, program = self.silent("cat >/dev/null", transcript)
        with pytest.raises(DeadlineError, match="the actor did not answer") as caught:
            one.say("version", deadline=1)
        assert not caught.value.answered
        with pytest.raises(DeadlineError) as again:
            one.say("version")
        assert again.value is caught.value
        assert "# no answer: " in transcript.path.read_text()
        program.close()

    def test_actor_that_ends_has_its_status_and_errors(self, transcript: Transcript) -> None:
        one, program = self.silent("read line; echo out of luck >&2; exit 7", transcript, margin=10)
        with pytest.raises(ActorDiedError, match="exit status 7; standard error: out of luck"):
            one.say("version")
        program.close()

    def test_actor_killed_by_a_signal_is_reported(self, transcript: Transcript) -> None:
        one, program = self.silent("read line; kill -SEGV $$", transcript, margin=10)
        with pytest.raises(ActorDiedError, match="killed by a signal"):
            one.say("version")
        program.close()

    @pytest.mark.parametrize(
        "reply",
        ["", "no", "okay", "OK", "\x1b[2J", "error", "error usage: you", "error EINVAL", "error 22 x: y"],
    )
    def test_reply_outside_the_protocol_is_an_error(self, reply: str, transcript: Transcript) -> None:
        one, program = self.silent(f"read line; printf '%s\\n' '{reply}'; cat >/dev/null", transcript)
        with pytest.raises(HarnessError, match="did not understand"):
            one.say("version")
        program.close()

    @pytest.mark.parametrize(
        ("reply", "ask"),
        [
            ("ok", lambda one: one.open("0000:01:00.0")),
            ("ok dev1 bars=0:zero", lambda one: one.open("0000:01:00.0")),
            ("ok dev1 bars=0", lambda one: one.open("0000:01:00.0")),
            ("ok size=0x1", lambda one: Device(one, "dev1", "", {}).region(0)),
            ("ok 0x0-0x1000:pte", lambda one: one.page_table(Mapping(one, "map1", PAGE))),
            ("ok a,b", lambda one: one.vmas(Mapping(one, "map1", PAGE))),
            ("ok", lambda one: one.minor_faults()),
            ("ok zero", lambda one: Mapping(one, "map1", PAGE).load32(0)),
            ("ok 1 sigill:a:b", lambda one: Mapping(one, "map1", PAGE).pages()),
            ("ok 1 sigbus:a", lambda one: Mapping(one, "map1", PAGE).pages()),
            ("ok 1 x:y", lambda one: Mapping(one, "map1", PAGE).pages()),
            ("sigbus code=adrerr offset=0x0", lambda one: one.minor_faults()),
        ],
    )
    def test_reply_to_another_question_is_an_error(
        self, reply: str, ask: object, transcript: Transcript
    ) -> None:
        one, program = self.silent(f"read line; echo '{reply}'; cat >/dev/null", transcript)
        assert callable(ask)
        with pytest.raises(HarnessError, match="answer"):
            ask(one)
        program.close()


class TestJudge:
    @given(st.text())
    def test_judge_of_any_text_has_a_named_error(self, reply: str) -> None:
        with contextlib.suppress(Refused, HarnessError, DeadlineError, ActorDiedError):
            judge("op", reply, 10)

    @pytest.mark.parametrize(
        ("reply", "value"),
        [
            ("ok", ""),
            ("ok a b", "a b"),
            ("sigbus code=adrerr offset=0x10", Sigbus("adrerr", 16)),
            ("sigsegv code=maperr address=0x7f0000000000", Sigsegv("maperr", None)),
            ("sigbus code=128 offset=-1", Sigbus("128", None)),
        ],
    )
    def test_judge_of_a_reply_is_its_value(self, reply: str, value: object) -> None:
        assert judge("op", reply, 10) == value

    def test_errno_without_a_name_is_kept(self) -> None:
        with pytest.raises(Refused) as caught:
            judge("op", "error E524 memattr: Unknown error 524", 10)
        assert caught.value.errno == "E524"

    def test_vma_is_parsed(self) -> None:
        word = "0x0-0x1000,rw-s,0x20000000000,/dev/vfio\\0402,rd+wr+??"
        flags = frozenset({"rd", "wr", "??"})
        assert Vma.parse(word) == Vma(0, PAGE, "rw-s", 0x20000000000, "/dev/vfio\\0402", flags)


class TestBuild:
    def headers(self, folder: Path, vfio: str = "") -> Path:
        """Copy the headers of the tests, with the text ``vfio`` before linux/vfio.h."""
        target = folder / "include"
        shutil.copytree(HEADERS, target)
        known = target / "linux/vfio.h"
        known.write_text(vfio + known.read_text())
        return target

    def test_actor_is_built_once_per_headers(self, tmp_path: Path) -> None:
        store, log = Store(tmp_path / "cache"), tmp_path / "log"
        first = build.build_actor(store, self.headers(tmp_path / "a"), log)
        assert subprocess.run([first, "--help"], capture_output=True).returncode == 0
        assert build.build_actor(store, self.headers(tmp_path / "b"), log) == first
        assert log.read_text().count("$ make") == 1
        offered = self.headers(tmp_path / "c", "#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE 13\n")
        second = build.build_actor(store, offered, log)
        said = subprocess.run([second], input=b"version\n", capture_output=True).stdout
        assert second != first
        assert b"revoke=feature" in said

    def test_headers_that_do_not_compile_blame_the_series(self, tmp_path: Path) -> None:
        headers = self.headers(tmp_path, "this is not C\n")
        with pytest.raises(BuildError, match="does not compile against") as caught:
            build.build_actor(Store(tmp_path / "cache"), headers, tmp_path / "log")
        assert "vfio.h" in caught.value.tail
        assert list((tmp_path / "cache/probe").iterdir()) == []

    def test_headers_that_are_too_old_are_a_harness_error(self, tmp_path: Path) -> None:
        headers = self.headers(tmp_path)
        (headers / "linux/vfio.h").write_text("/* before there was VFIO */\n")
        with pytest.raises(HarnessError, match="Are the headers in") as caught:
            build.build_actor(Store(tmp_path / "cache"), headers, tmp_path / "log")
        assert "error:" in caught.value.tail

    def test_folder_without_headers_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(HarnessError, match=r"holds no linux/vfio\.h"):
            build.build_actor(Store(tmp_path / "cache"), tmp_path, tmp_path / "log")
