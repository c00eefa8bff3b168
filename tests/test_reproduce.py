"""`reproduce`: which scenario is meant, what a try says about a claim, and tries on a real machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import SUITES, Built, run

from harness.actor.reply import DeadlineError
from harness.actor.steps import Step, parse
from harness.cli import reproduce
from harness.cli.parser import parse as parse_command
from harness.cli.reproduce import find
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError, PatchproofError, UsageError
from harness.run.claim import LEFTOVER, Claim, Kind
from harness.run.player import without_waiting
from harness.run.reproduce import Outcome, Played, decide, needs_of
from harness.verdict.record import Complaint, Entry, Record, Result
from harness.verdict.verdict import Kind as EntryKind
from harness.verdict.verdict import Verdict

WARNING = Complaint("warning", "WARNING: at a()", "f1", "")
OTHER = Complaint("warning", "WARNING: at b()", "f2", "")
SAME_PLACE = replace(WARNING, fingerprint="f3", place="f1")
LOST = Complaint("lost", "messages lost", "f1", "", fault=False)


def result(
    name: str = "a", verdict: Verdict = Verdict.CONFORMS, reason: str = "", *complaints: Complaint
) -> Result:
    return Result(Entry(name, EntryKind.SCENARIO, name), verdict, reason, ended=True, complaints=complaints)


def record(*names: str) -> Record:
    return Record("a run", tuple(map(result, names)))


class TestFind:
    RUN = record("suites/a.py::test_one[c]", "suites/a.py::test_one[python]", "suites/b.py::test_two")

    @pytest.mark.parametrize("name", ["two", "3", "suites/b.py::test_two"])
    def test_scenario_is_found_by_part_or_number(self, name: str) -> None:
        assert find(self.RUN, name).entry.id == "suites/b.py::test_two"

    def test_id_that_is_part_of_another_is_found(self) -> None:
        assert find(record("a", "ab"), "a").entry.id == "a"

    def test_several_are_listed_with_their_numbers(self) -> None:
        with pytest.raises(UsageError, match=r"2 scenarios; choose one:\n +1  .*\[c\]\n +2  .*\[python\]$"):
            find(self.RUN, "one")

    def test_long_list_is_cut(self) -> None:
        with pytest.raises(UsageError, match=r"\n  and 4 more$"):
            find(record(*(f"x{number}" for number in range(12))), "x")

    @pytest.mark.parametrize("name", ["three", "4", "0"])
    def test_unknown_scenario_is_a_sentence(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"no scenario '{name}'.*from 1 to 3"):
            find(self.RUN, name)


FIRST = Step("load32 map1 0", 3, 1, "c", "ok 0x1")
DECISIVE = Step("map buf1", 7, 1, "c", "ok map1", "error EBADF")
UNKNOWN = replace(DECISIVE, wanted="")


def said(
    kind: Kind,
    *played: tuple[Step, str | None],
    before: Result | None = None,
    now: Result | None = None,
    error: PatchproofError | None = None,
) -> Outcome:
    recording = parse("# transcript 2\n")
    claim = Claim(kind, "", recording, line=DECISIVE.line if kind in (Kind.REPLY, Kind.SILENCE) else 0)
    done = [Played(*one) for one in played]
    return decide(claim, before or result(), done, now or result(), error)[0]


class TestDecide:
    @pytest.mark.parametrize(
        ("played", "outcome"),
        [
            ([(FIRST, "ok 0x1"), (DECISIVE, "error EBADF mmap: x")], Outcome.CONFORMS),
            ([(FIRST, "ok 0x01"), (DECISIVE, "ok map1")], Outcome.SHOWN),
            ([(FIRST, "ok 0x2"), (DECISIVE, "ok map1")], Outcome.SHOWN),
            ([(FIRST, "ok 0x2"), (DECISIVE, "error EIO mmap: x")], Outcome.SHOWN),
            ([(FIRST, "sigbus code=adrerr offset=0x0"), (DECISIVE, "ok map1")], Outcome.SHOWN),
            ([(FIRST, "sigbus code=adrerr offset=0x0"), (DECISIVE, "error EIO mmap: x")], Outcome.UNSAID),
            ([(FIRST, "sigbus code=adrerr offset=0x0"), (UNKNOWN, "ok map1")], Outcome.UNSAID),
            ([(FIRST, "ok 0x1"), (DECISIVE, "error EIO mmap: x")], Outcome.SHOWN),
            ([(FIRST, "ok 0x1"), (UNKNOWN, "ok map1")], Outcome.SHOWN),
            ([(FIRST, "ok 0x1"), (UNKNOWN, "error EBADF mmap: x")], Outcome.UNSAID),
            ([(FIRST, "ok 0x1")], Outcome.UNSAID),
            ([(FIRST, "ok 0x1"), (DECISIVE, None)], Outcome.UNSAID),
            ([], Outcome.UNSAID),
        ],
    )
    def test_reply_is_expected_or_recorded(
        self, played: Sequence[tuple[Step, str | None]], outcome: Outcome
    ) -> None:
        assert said(Kind.REPLY, *played) is outcome

    def test_deadline_is_missed_again_or_kept(self) -> None:
        late = DeadlineError("map buf1", 10, answered=False)
        assert said(Kind.SILENCE, (DECISIVE, None), error=late) is Outcome.SHOWN
        assert said(Kind.SILENCE, (DECISIVE, "timeout")) is Outcome.SHOWN
        assert said(Kind.SILENCE, (DECISIVE, "ok map1")) is Outcome.CONFORMS
        assert said(Kind.SILENCE, (FIRST, None), error=late) is Outcome.UNSAID

    @pytest.mark.parametrize(
        ("now", "outcome"),
        [
            ([WARNING], Outcome.SHOWN),
            ([OTHER, SAME_PLACE], Outcome.SHOWN),
            ([OTHER], Outcome.UNSAID),
            ([LOST], Outcome.CONFORMS),
            ([], Outcome.CONFORMS),
        ],
    )
    def test_complaint_is_the_same_by_its_place(self, now: list[Complaint], outcome: Outcome) -> None:
        before = result("a", Verdict.VIOLATES, "", WARNING)
        assert said(Kind.COMPLAINT, before=before, now=result("a", Verdict.VIOLATES, "", *now)) is outcome

    def test_complaint_that_was_not_reached_is_unsaid(self) -> None:
        error = HarnessError("The guest is gone.")
        assert said(Kind.COMPLAINT, before=result("a", Verdict.VIOLATES, "", WARNING), error=error) is (
            Outcome.UNSAID
        )

    def test_death_and_leftovers_are_told_by_the_verdict(self) -> None:
        assert said(Kind.DEATH, now=result("a", Verdict.KERNEL_DIED)) is Outcome.SHOWN
        assert said(Kind.DEATH) is Outcome.CONFORMS
        left = result("a", Verdict.VIOLATES, f"2 {LEFTOVER}")
        assert said(Kind.LEFTOVER, now=left) is Outcome.SHOWN
        assert said(Kind.LEFTOVER) is Outcome.CONFORMS
        assert said(Kind.LEFTOVER, now=result("a", Verdict.VIOLATES, "taint")) is Outcome.UNSAID

    def test_scenario_that_conformed_has_the_same_replies(self) -> None:
        counter = Step("footprint", 4, 1, "c", "ok fds=6 dmabufs=1 log=0")
        assert said(Kind.CONFORMS, (FIRST, "ok 0x1"), (counter, "ok fds=9")) is Outcome.CONFORMS
        assert said(Kind.CONFORMS, (FIRST, "ok 0x2")) is Outcome.UNSAID
        assert said(Kind.CONFORMS, (FIRST, None)) is Outcome.UNSAID
        assert said(Kind.CONFORMS, (FIRST, "ok 0x1"), now=result("a", Verdict.VIOLATES)) is Outcome.UNSAID


def test_polls_are_left_out_but_for_the_last() -> None:
    polls = [Step("read dev1 0 0x98 8", line, 1, "c", f"ok {line}") for line in (3, 5, 7)]
    other = replace(polls[0], actor=2, line=9)
    load = replace(FIRST, line=11)
    assert without_waiting((*polls, other, load, load)) == [polls[-1], other, load, load]


def test_machine_of_a_transcript_is_its_layout() -> None:
    text = "# transcript 2\n! machine ram=0x1000 cpus=0x2\n! actor 1 c\n> timeline\nok buf1\n"
    needs = needs_of(Claim(Kind.CONFORMS, text, parse(text)), result())
    assert (needs.layout.ram, needs.layout.display, needs.fresh, needs.taints) == (
        *(4096, 0, True),
        frozenset({14}),
    )
    damaged = parse(text.replace("cpus", "cats"))
    with pytest.raises(UsageError, match="does not tell the machine"):
        needs_of(Claim(Kind.CONFORMS, text, damaged), result())


class TestKernel:
    @pytest.mark.parametrize(
        ("facts", "said"),
        [
            ({}, "built no kernel"),
            (
                {"kernel": "ab" * 32, "selection": ["--series", "x y", "--mutant=m", "-k", "z"]},
                r"python -m harness build --series 'x y' --mutant m$",
            ),
            ({"kernel": "../x", "selection": "damaged"}, "not in the cache any more"),
        ],
    )
    def test_kernel_that_is_gone_has_its_command(
        self, tmp_path: Path, facts: dict[str, object], said: str
    ) -> None:
        with pytest.raises(UsageError, match=said):
            reproduce._kernel(Store(tmp_path), facts)

    def test_kernel_that_changed_is_refused(self, tmp_path: Path) -> None:
        image = bytearray(0x1000)
        image[0x202:0x206] = b"HdrS"
        (tmp_path / "bzImage").write_bytes(image)
        (tmp_path / "linux").mkdir()
        (tmp_path / "linux/vfio.h").touch()
        selection = ["--kernel", "bzImage", "--headers", "."]
        facts = {"kernel": "ab" * 32, "selection": selection, "directory": str(tmp_path)}
        with pytest.raises(UsageError, match="another file now"):
            reproduce._kernel(Store(tmp_path / "cache"), facts)


@pytest.mark.parametrize("times", ["0", "-1", "x", "1001"])
def test_number_of_tries_is_checked(times: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command(["reproduce", "results", "x", f"--times={times}"])
    assert "a number from 1 to 1000" in capsys.readouterr().err


def test_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    args = parse_command(["reproduce", str(tmp_path), "x"])
    with pytest.raises(PatchproofError, match="plan"):
        args.command(args)


@pytest.mark.vm
class TestOnAMachine:
    """A suite that finds what is not so, on the reference kernel, and its scenarios done again."""

    @pytest.fixture(scope="class")
    @classmethod
    def results(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("again")
        built = Built(folder)
        arguments: list[str | Path] = [
            *built.arguments,
            "--no-base",
            "--selftests",
            "none",
            "--results",
            folder / "results",
        ]
        code, output = run("run", *arguments, SUITES / "again.py", mark=folder)
        assert code == ExitCode.SERIES, output
        return folder / "results" / "latest"

    def again(self, results: Path, name: str, folder: Path, *more: str) -> tuple[int, list[str]]:
        arguments: list[str | Path] = ["reproduce", results, name, *more, "--accel", "tcg"]
        code, output = run(*arguments, mark=folder)
        return code, [re.sub(r"^Console .*", "", line) for line in output.splitlines()]

    def test_wrong_reply_shows_again(self, results: Path, tmp_path: Path) -> None:
        code, lines = self.again(results, "reply_is_wrong", tmp_path, "--times", "3")
        assert code == ExitCode.SERIES
        assert lines[-5:-2] == ["expected: ok 0x00000077", "recorded: ok 0x00000010", "now: ok 0x00000010"]
        assert lines[-1] == "It shows again. The reply is that of the run."

    def test_wrong_word_of_the_host_shows_again(self, results: Path, tmp_path: Path) -> None:
        code, lines = self.again(results, "host_sees", tmp_path)
        assert code == ExitCode.SERIES
        assert lines[-3:-2] == ["now: ok 0xa5a5a5a5"]

    def test_expected_reply_conforms_now(self, results: Path, tmp_path: Path) -> None:
        """The transcript says that the run saw another word, as if the kernel had been repaired."""
        copy = tmp_path / "results"
        shutil.copytree(results.resolve(), copy, symlinks=True)
        (path,) = (copy / "transcripts").glob("test_reply_is_wrong*")
        text = path.read_text().replace("ok 0x00000010\n= ok 0x00000077", "ok 0x00000099\n= ok 0x10")
        path.write_text(text)
        code, lines = self.again(copy, "reply_is_wrong", tmp_path)
        assert code == ExitCode.OK, lines
        assert lines[-1] == "It conforms now. The reply is the expected one."

    def test_complaint_of_the_kernel_shows_again(self, results: Path, tmp_path: Path) -> None:
        code, lines = self.again(results, "kernel_complains", tmp_path)
        assert code == ExitCode.SERIES
        assert lines[-1] == "It shows again. The kernel complained of the same, in the same place."

    def test_two_actors_host_and_guest_do_it_again(self, results: Path, tmp_path: Path) -> None:
        code, lines = self.again(results, "everything", tmp_path)
        assert code == ExitCode.OK, lines
        assert lines[-1] == "It conforms now. All replies are those of the run, which conformed."

    def test_step_of_the_scenario_alone_is_said(self, results: Path, tmp_path: Path) -> None:
        code, lines = self.again(results, "alone_can", tmp_path)
        assert code == ExitCode.HARNESS
        assert "does what only the harness can do: a debugger holds processor 1" in lines[-1]
