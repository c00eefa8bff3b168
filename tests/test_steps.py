"""Transcripts: what they record beside the operations, and how they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.actor.mismatch import Mismatch
from harness.actor.reply import BUS_ADRERR, Sigbus
from harness.actor.scene import Operation
from harness.actor.steps import MEASURED, Recording, Step, matches, parse
from harness.actor.transcript import Transcript, forget_operation, latest_operation
from harness.actor.wanted import wanted_reply, wrong_part
from harness.lib.errors import UsageError
from harness.lib.paths import PROBES
from harness.vm.hardware import PAGE
from harness.vm.pci_devices import Layout
from harness.vm.recorded_ram import RecordedRam
from harness.vm.word_runs import told_bytes, told_words


@pytest.fixture
def transcript(tmp_path: Path) -> Transcript:
    forget_operation()
    return Transcript(tmp_path / "transcript.txt", "a scenario")


def written(transcript: Transcript) -> Recording:
    return parse(transcript.path.read_text())


class TestTranscript:
    def test_transcript_without_a_step_is_not_written(self, transcript: Transcript) -> None:
        transcript.machine("cpus=0x2")
        assert not transcript.written
        assert not transcript.path.exists()

    def test_operations_of_two_actors_are_told_apart(self, transcript: Transcript) -> None:
        one, two = transcript.actor("c"), transcript.actor("python")
        for actor, kind in ((one, "c"), (two, "python"), (two, "python"), (one, "c")):
            transcript.operation("fds", actor, kind)
            transcript.reply("ok 3")
        operations = [step for step in written(transcript).steps if step.actor]
        assert [(step.actor, step.kind) for step in operations] == [
            (1, "c"),
            (2, "python"),
            (2, "python"),
            (1, "c"),
        ]

    def test_wanted_reply_is_inserted_after_the_reply(self, transcript: Transcript) -> None:
        actor = transcript.actor("c")
        for word in ("1", "2", "3"):
            transcript.operation(f"load32 map1 {word}", actor, "c")
            transcript.reply(f"ok {word}")
        before = transcript.path.read_text().splitlines()
        decisive = next(step for step in written(transcript).steps if step.text == "load32 map1 2")
        transcript.close()
        transcript.expect(Operation(decisive.text, decisive.line), "ok 7")
        lines = transcript.path.read_text().splitlines()
        assert lines == [*before[: decisive.line + 1], "= ok 7", *before[decisive.line + 1 :]]
        assert written(transcript).decisive == Step(decisive.text, decisive.line, 1, "c", "ok 2", "ok 7")

    def test_wanted_reply_of_a_silent_actor_is_inserted(self, transcript: Transcript) -> None:
        transcript.operation("revoke dev1 buf1", transcript.actor("c"), "c")
        latest = latest_operation()
        transcript.comment("no answer: it is stuck")
        transcript.close()
        transcript.expect(latest, "ok")
        found = written(transcript).decisive
        assert found is not None
        assert (found.reply, found.wanted) == (None, "ok")

    @pytest.mark.parametrize("operation", [Operation("fds", 3), Operation("dup buf1", 4), Operation("", 0)])
    def test_wanted_reply_elsewhere_is_left_out(self, transcript: Transcript, operation: Operation) -> None:
        transcript.operation("fds", transcript.actor("c"), "c")
        transcript.reply("ok 3")
        transcript.close()
        transcript.expect(operation, "ok 7")
        assert "= " not in transcript.path.read_text()

    def test_new_transcript_repeats_what_came_before_actors(self, transcript: Transcript) -> None:
        transcript.machine("cpus=0x2")
        transcript.device("ram", "0000:02:00.0")
        transcript.step("guest bind 0000:02:00.0 vfio-pci")
        transcript.operation("fds", transcript.actor("c"), "c")
        transcript.begin_anew()
        transcript.device("ram", "0000:02:00.0")
        transcript.operation("version", transcript.actor("c"), "c")
        found = written(transcript)
        assert (found.machine, found.devices) == ("cpus=0x2", {"ram": "0000:02:00.0"})
        assert [step.text for step in found.steps] == [
            "guest bind 0000:02:00.0 vfio-pci",
            "actor 1 c",
            "version",
        ]
        assert transcript.path.with_stem("transcript-before").exists()

    @pytest.mark.parametrize("reply", ["> fds", "! other x", "= ok", "# ok"])
    def test_hostile_reply_stays_a_reply(self, transcript: Transcript, reply: str) -> None:
        transcript.operation("fds", transcript.actor("c"), "c")
        transcript.reply(reply)
        assert written(transcript).steps[-1] == Step("fds", 4, 1, "c", f"?{reply}")


class TestHostSteps:
    def test_accesses_to_a_bar_are_recorded(self, tmp_path: Path, transcript: Transcript) -> None:
        file = tmp_path / "bar"
        file.write_bytes(bytes(4 * PAGE))
        with RecordedRam(file, "ram", transcript) as bar:
            bar.stamp(0x77, PAGE)
            bar.stamp(0x10)
            assert bar.pages(PAGE) == [0x11, 0x12, 0x13]
            bar.fill(0xA5, 0, 8)
            assert bar.word(4) == 0xA5A5A5A5
            bar.write(8, b"\x01\x02")
            assert bar.read(8, 3) == b"\x01\x02\x00"
        assert transcript.path.read_text().splitlines()[2:] == [
            "! host stamp ram 0x77 0x1000",
            "! host stamp ram 0x10",
            "! host words ram 0x1000 0x3000 0x1000",
            "ok 0x00000011+3",
            "! host fill ram 0xa5 0x0 0x8",
            "! host word ram 0x4",
            "ok 0xa5a5a5a5",
            "! host write ram 0x8 0102",
            "! host read ram 0x8 0x3",
            "ok 010200",
        ]
        latest = latest_operation()
        assert (latest.text, latest.line, latest.reply) == ("host read ram 0x8 0x3", 11, "ok 010200")

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], ""),
            ([7], "0x00000007"),
            ([7, 7, 7, 8, 9], "0x00000007*3 0x00000008+2"),
            ([7, 8, 8], "0x00000007+2 0x00000008"),
            ([0xFFFFFFFF, 0, 1], "0xffffffff+3"),
            ([3 * one for one in range(65)], "crc32=0xe8e5a25b"),
        ],
    )
    def test_words_are_told_as_runs(self, words: list[int], told: str) -> None:
        assert told_words(words) == told

    def test_many_bytes_are_told_as_runs(self) -> None:
        assert told_bytes(bytes(range(4))) == "00010203"
        assert told_bytes(b"\x5a" * 4096 + b"\x00") == "5a*4096 00*1"
        assert told_bytes(bytes(range(65))).startswith("crc32=0x")


class TestParse:
    def test_reply_and_pattern_belong_to_their_step(self) -> None:
        found = parse("# transcript 2\n# an id\n! actor 1 c\n> @a &b fds\n\nok 3\n= ok 4 | ok 5\n! end 1\n")
        assert found.steps == (
            Step("actor 1 c", 3),
            Step("@a &b fds", 4, 1, "c", "ok 3", "ok 4 | ok 5"),
            Step("end 1", 8),
        )
        assert found.steps[1].verb == "fds"
        assert found.steps[1].measured
        assert not list(found.obstacles())

    def test_step_that_needs_the_scenario_is_an_obstacle(self) -> None:
        text = "# transcript 2\n! other a debugger\n! guest dance\n! host word ram 0x0\nok 0x00000000\n"
        assert [step.text for step in parse(text).obstacles()] == ["other a debugger", "guest dance"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "no transcript of version 2"),
            ("> fds\nok 3\n", "no transcript of version 2"),
            ("# transcript 3\n", "no transcript of version 2"),
            ("# transcript 2\n> fds\n", "line 2 is an operation without an actor"),
            ("# transcript 2\nok\n", "line 2 is a reply without an operation"),
            ("# transcript 2\n! \n", "line 2 is an empty step"),
            ("# transcript 2\n! actor 1 c\n! actor 1 python\n", "line 3 is an actor of two kinds"),
            ("# transcript 2\n! actor 1 c\n> fds\nok 3\nok 4\n", "line 5 is a second reply"),
        ],
    )
    def test_other_text_is_refused_with_its_line(self, text: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            parse(text)

    @pytest.mark.parametrize(
        ("pattern", "reply", "same"),
        [
            ("ok 0x05", "ok 0x5", True),
            ("ok 0x05", "ok 0x6", False),
            ("ok 5", "ok 0x5", False),
            ("error EBADF", "error EBADF mmap: Bad file descriptor", True),
            ("error EBADF", "error EINVAL mmap: Invalid argument", False),
            ("error EBADF | error EINVAL", "error EINVAL mmap: Invalid argument", True),
            ("not error EBADF | ok", "ok", False),
            ("not error EBADF | ok", "ok 3", True),
            ("ok *", "ok", True),
            ("ok *", "ok map1", True),
            ("ok *", "okay", False),
            ("ok", "ok map1", False),
        ],
    )
    def test_pattern_matches(self, pattern: str, reply: str, same: bool) -> None:
        assert matches(pattern, reply) is same


GONE = [Sigbus(BUS_ADRERR, 0), Sigbus(BUS_ADRERR, PAGE)]


@pytest.mark.parametrize(
    ("operator", "left", "right", "reply", "wanted"),
    [
        ("==", None, GONE[1], "ok", "sigbus code=adrerr offset=0x1000"),
        ("==", GONE[1], None, "sigbus code=adrerr offset=0x1000", "ok *"),
        ("==", 0xBAD, 7, "ok 0x00000bad", "ok 0x00000007"),
        ("==", 0xBAD, 7, "ok 0xbad", "ok 0x7"),
        ("==", 10, 11, "ok 10", "ok 11"),
        ("==", [7, 8], GONE, "ok 0x00000007 0x00000008", "ok sigbus:adrerr:0x0 sigbus:adrerr:0x1000"),
        ("==", GONE, [7, 8], "ok sigbus:adrerr:0x0 sigbus:adrerr:0x1000", "ok 0x00000007 0x00000008"),
        ("==", [7, 8, 9], [7, 7, 7], "ok 0x00000007+3", "ok 0x00000007*3"),
        ("==", "success", "EINVAL", "ok map1", "error EINVAL"),
        ("==", "EBADF", "success", "error EBADF mmap: words", "ok *"),
        ("in", "EBADF", {"EINVAL", "ENODEV"}, "error EBADF mmap: words", "error EINVAL | error ENODEV"),
        ("!=", None, None, "ok", "not ok"),
        ("==", {"EMFILE": 1, "EINVAL": 9}, {"EMFILE": 10}, "ok EMFILE=1 EINVAL=9", "ok EMFILE=10"),
        ("==", "", "EBUSY", "ok", "error EBUSY"),
        ("==", 124, 250, "ok sigbus=124", "ok sigbus=250"),
        ("==", "no", "yes", "ok no", "ok yes"),
        ("==", 0xBAD, 7, "ok map1", ""),
        ("<", 10, 3, "ok 10", ""),
        ("==", True, False, "ok 1", ""),
    ],
)
def test_wanted_reply_is_that_of_the_expected_value(
    operator: str, left: object, right: object, reply: str, wanted: str
) -> None:
    assert wanted_reply(operator, left, right, Operation(reply=reply)) == wanted
    if wanted:
        assert not matches(wanted, reply)


class TestWrongPart:
    READ = tuple(Operation(call=f"loadpages map{one}", reply=f"ok 0x0000000{one}") for one in (1, 2, 2))

    def test_first_wrong_part_has_its_own_operation(self) -> None:
        assert wrong_part(([2], [2]), ([2], [3]), self.READ) == (self.READ[2], [2], [3])
        assert wrong_part([[1], [2], [2]], [[1], [5], [6]], self.READ) == (self.READ[1], [2], [5])
        assert wrong_part({"a": [2], "b": [2]}, {"a": GONE, "b": GONE}, self.READ) == (
            self.READ[1],
            [2],
            GONE,
        )

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (([1], [2]), ([2], [3])),  # the latest replies are 2 and 2
            (([2], [2]), ([2], [2], [2])),
            (([2], [2], [2], [2]), ([3], [2], [2], [2])),
            (([2],), ([3],)),
            ({"a": [2], "b": [2]}, {"b": [2], "a": [3]}),
            ("22", "23"),
            (([2], [2]), ([2], [2])),
        ],
    )
    def test_parts_of_other_replies_are_left_alone(self, left: object, right: object) -> None:
        assert wrong_part(left, right, self.READ) is None


def test_layout_survives_a_transcript() -> None:
    layout = Layout(bigram=1 << 30, display=0, rng=True, arguments=("nopat", "irqaffinity=0"), cpus=3)
    assert layout.words() == (
        "ram=0x4000000 ram2=0x4000000 bigram=0x40000000 rng=0x1 cpus=0x3 argument=nopat "
        "argument=irqaffinity=0"
    )
    assert Layout.parse(layout.words()) == layout


@pytest.mark.parametrize("words", ["nonsense=1", "cpus=two", "argument", "cpus"])
def test_layout_of_other_words_is_an_error(words: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() has a message of its own
        Layout.parse(words)


def test_measured_operations_are_those_of_the_protocol() -> None:
    text = (PROBES / "PROTOCOL.md").read_text().partition("**Measurements**")[2].partition("##")[0]
    assert {name for name in MEASURED if f"`{name}`" in text} == MEASURED


def test_mismatch_names_the_hosts_step(transcript: Transcript) -> None:
    transcript.step("host word ram 0x0")
    transcript.reply("ok 0x00000000")
    found = Mismatch("The host sees no store.", expected="7", seen="0", wanted="ok 0x00000007")
    assert (found.deviation.operation, found.deviation.verb) == ("host word ram 0x0", "host word")
