"""`actor --replay`: what was expected, what was recorded, and what is now."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from actors import actor

from harness.actor.steps import MEASURED, POLLED, matches
from harness.lib.paths import PROBES

MEMORY = """# transcript 2
# an id
! machine cpus=0x2
! actor 1 c
! device ram 0000:02:00.0
> make memfd length=0x1000
ok buf1 size=0x1000
> map buf1 length=0x1000
ok map1
"""


def replay(tmp_path: Path, text: str | bytes) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "transcript.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return subprocess.run([actor(), "--replay", file], capture_output=True, text=True, errors="replace")


class TestWithoutAnExpectation:
    def test_replay_reports_each_reply_that_differs(self, tmp_path: Path) -> None:
        text = f"{MEMORY}> load32 map1 0\nok 0x00000007\n> reap nobody\nerror usage: in other words\n"
        done = replay(tmp_path, text)
        assert done.stdout == (
            "line 10: > load32 map1 0\n  recorded: ok 0x00000007\n  now:      ok 0x00000000\n"
            "4 operations, 1 replies differ\n"
        )
        assert done.returncode == 2
        assert replay(tmp_path, text.replace("0007", "0000")).returncode == 0

    def test_measurement_is_no_difference(self, tmp_path: Path) -> None:
        done = replay(tmp_path, f"{MEMORY}> footprint\nok fds=77 dmabufs=3 log=1\n> fds\nok 99\n")
        assert (done.stdout, done.returncode) == ("4 operations, 0 replies differ\n", 0)

    def test_transcript_without_a_version_is_of_one_actor(self, tmp_path: Path) -> None:
        done = replay(tmp_path, "# title\n> fork f1\nok\n\n> @f1 make memfd length=4K\nok buf1 size=0x1000\n")
        assert (done.stdout, done.returncode) == ("2 operations, 0 replies differ\n", 0)

    def test_unanswered_operation_is_shown(self, tmp_path: Path) -> None:
        done = replay(tmp_path, f"{MEMORY}> load32 map1 0\n")
        assert "line 10: > load32 map1 0\n  recorded: nothing\n  now:      ok 0x00000000\n" in done.stdout
        assert done.returncode == 0

    def test_empty_file_has_no_operations(self, tmp_path: Path) -> None:
        assert replay(tmp_path, "").stdout == "0 operations, 0 replies differ\n"

    def test_operation_after_the_actors_end_is_not_answered(self, tmp_path: Path) -> None:
        done = replay(tmp_path, "> exit\nok\n> version\nok\n")
        assert "line 3: the actor does not answer any more" in done.stdout
        assert done.returncode == 2


class TestExpectation:
    def decided(
        self, tmp_path: Path, recorded: str, expected: str, asked: str = "load32 map1 0"
    ) -> list[str]:
        done = replay(tmp_path, f"{MEMORY}> {asked}\n{recorded}\n= {expected}\n> exit\nok\n")
        return [*done.stdout.splitlines(), str(done.returncode)]

    def test_recorded_reply_shows_again(self, tmp_path: Path) -> None:
        assert self.decided(tmp_path, "ok 0x00000000", "sigbus code=adrerr offset=0x0") == [
            "line 10: > load32 map1 0",
            "It shows again: the reply is the recorded one.",
            "expected: sigbus code=adrerr offset=0x0",
            "recorded: ok 0x00000000",
            "now: ok 0x00000000",
            "1",
        ]

    def test_expected_reply_conforms(self, tmp_path: Path) -> None:
        assert self.decided(tmp_path, "ok 0x00000007", "ok 0x0")[1:] == [
            "It conforms now: the reply is the expected one.",
            "expected: ok 0x0",
            "recorded: ok 0x00000007",
            "now: ok 0x00000000",
            "0",
        ]

    def test_another_reply_says_neither(self, tmp_path: Path) -> None:
        said = self.decided(tmp_path, "ok 0x00000007", "ok 0x00000008")
        assert said[1] == "It says neither: the reply is another one."
        assert said[-1] == "2"

    def test_measurement_with_an_expectation_decides(self, tmp_path: Path) -> None:
        assert self.decided(tmp_path, "ok faults=9", "ok pages=1 *", asked="touch map1")[-1] == "0"


def test_patterns_match_as_the_harness_has_them(tmp_path: Path) -> None:
    program = tmp_path / "main.c"
    program.write_text(
        '#include <stdio.h>\n#include <string.h>\n#include "pattern.h"\n'
        "int main(void) { static char line[4096]; while (fgets(line, sizeof(line), stdin)) {\n"
        'char *reply = strchr(line, 9); *reply++ = 0; reply[strcspn(reply, "\\n")] = 0;\n'
        'puts(reply_matches(line, reply) ? "y" : "n"); } return 0; }\n'
    )
    built = tmp_path / "matches"
    subprocess.run(["gcc", f"-I{PROBES}", program, PROBES / "pattern.c", "-o", built], check=True)
    patterns = [
        *("ok", "ok *", "ok 0x7", "ok 0x00000007 8", "error EINVAL", "error EINVAL map: x", "not ok *", "*"),
        *("not error EINVAL | error EPERM", "error EINVAL | ok", "ok * 1", "sigbus code=adrerr offset=0x0"),
        *("ok 0x0", "ok 7", "ok 0x", "ok 0x00000000000000000007", "ok * | error EIO", "error usage: | ok"),
    ]
    replies = [
        *("ok", "ok 0x07", "ok 7", "ok 0x7 8", "error EINVAL map: Invalid", "error EPERM map: x", "ok * 1"),
        *("sigbus code=adrerr offset=0x0", "timeout", "", "ok 0x0", "ok 0x000", "ok 0x", "ok 0x8", "error"),
        *("error usage: reap: words", "okay"),
    ]
    pairs = [(pattern, reply) for pattern in patterns for reply in replies]
    text = "".join(f"{pattern}\t{reply}\n" for pattern, reply in pairs)
    done = subprocess.run([built], input=text, capture_output=True, text=True, check=True)
    answers = dict(zip(pairs, (line == "y" for line in done.stdout.split()), strict=True))
    assert answers == {pair: matches(*pair) for pair in pairs}


class TestSteps:
    def test_each_top_level_actor_has_its_own_names(self, tmp_path: Path) -> None:
        text = f"{MEMORY}! actor 2 python\n> make memfd length=0x2000\nok buf1 size=0x2000\n! actor 1 c\n"
        text += "> seek buf1\nok 0x1000\n! end 1\n! actor 2 python\n> seek buf1\nok 0x2000\n! end 2\n"
        done = replay(tmp_path, text)
        assert (done.stdout, done.returncode) == ("5 operations, 0 replies differ\n", 0)

    def test_steps_of_host_and_guest_are_left_out(self, tmp_path: Path) -> None:
        done = replay(tmp_path, f"{MEMORY}! host word ram 0x0\nok 0x00000000\n! guest unbind 0000:02:00.0\n")
        assert done.stdout == (
            "line 10: ! host word ram 0x0: left out, it is no operation of an actor\n"
            "line 12: ! guest unbind 0000:02:00.0: left out, it is no operation of an actor\n"
            "2 steps were left out; `python -m harness reproduce` does them\n"
            "2 operations, 0 replies differ\n"
        )
        assert done.returncode == 0

    def test_expectation_of_the_host_cannot_be_replayed(self, tmp_path: Path) -> None:
        done = replay(tmp_path, f"{MEMORY}! host word ram 0x0\nok 0x00000001\n= ok 0x00000000\n")
        assert done.stdout.endswith("expected: ok 0x00000000\nrecorded: ok 0x00000001\nnow: nothing\n")
        assert done.returncode == 2

    def test_repeated_operation_is_asked_until_it_is_right(self, tmp_path: Path) -> None:
        begun = "> spawn late\nok\n> &late version\nok\n"
        done = replay(tmp_path, f"{MEMORY}{begun}> ended late\nok no\n> ended late\nok yes\n")
        assert (done.stdout, done.returncode) == ("5 operations, 0 replies differ\n", 0)


class TestRefusal:
    @pytest.mark.parametrize("text", ["ok\n", "hello\n> version\n", b"\x7fELF\x02\x01\x00\n", b"\xff\xfe\n"])
    def test_replay_of_no_transcript_is_refused(self, tmp_path: Path, text: str | bytes) -> None:
        done = replay(tmp_path, text)
        assert done.returncode == 2
        assert "line 1: a reply without an operation" in done.stderr

    @pytest.mark.parametrize("text", ["= ok\n", f"{MEMORY}= ok\n= ok\n", f"{MEMORY}ok\n"])
    def test_misplaced_line_is_refused(self, tmp_path: Path, text: str) -> None:
        done = replay(tmp_path, text)
        assert (done.stdout, done.returncode) == ("", 2)
        assert "without an operation; is this a transcript?" in done.stderr

    @pytest.mark.parametrize("number", ["0", "65", "99999999999"])
    def test_actor_beyond_the_limit_is_left_out(self, tmp_path: Path, number: str) -> None:
        done = replay(tmp_path, f"# transcript 2\n! actor {number} c\n> version\nok\n")
        assert done.returncode == 2

    def test_replay_without_a_file_is_refused(self, tmp_path: Path) -> None:
        done = subprocess.run([actor(), "--replay", tmp_path / "none"], capture_output=True, text=True)
        assert done.returncode == 2
        assert "No such file" in done.stderr


@pytest.mark.parametrize(("table", "names"), [("measured", MEASURED), ("polled", POLLED)])
def test_actor_has_the_same_names_as_the_harness(table: str, names: frozenset[str]) -> None:
    text = (PROBES / "recording.c").read_text().partition(f"{table}[] = {{")[2].partition("}")[0]
    assert set(re.findall(r'"(\w+)"', text)) == names
