"""What a hostile guest makes the harness keep: transcripts, recent replies, files of splats, threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.actor import transcript as transcripts
from harness.actor.transcript import Transcript, recent_operations
from harness.guest.answers import is_count, understood
from harness.guest.slabs import Slabs
from harness.lib import page_table
from harness.lib.errors import HarnessError
from harness.run.error_to_verdict import LOST, observation_of
from harness.verdict.verdict import Verdict
from harness.vm.ssh import SshOutputError


@pytest.fixture
def transcript(tmp_path: Path) -> Transcript:
    made = Transcript(tmp_path / "transcript.txt")
    made.actor("c")
    return made


def answer(transcript: Transcript, reply: str, times: int) -> None:
    for _ in range(times):
        transcript.operation("load32 map1 0x0", 1, "c")
        transcript.reply(reply)


class TestTranscript:
    def test_replies_without_end_end_the_scenario(
        self, transcript: Transcript, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transcripts, "LIMIT", 1 << 20)
        with pytest.raises(HarnessError, match="longer than 1 MiB together"):
            answer(transcript, "ok " + "x" * 100_000, 20)
        transcript.close()
        assert transcript.path.stat().st_size < (1 << 20) + 10_000
        assert "left out: a reply of 100003 characters" in transcript.path.read_text()

    def test_few_long_replies_are_kept_for_the_report(
        self, transcript: Transcript, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transcripts, "_KEPT_LENGTH", 100_000)
        answer(transcript, "ok " + "x" * 30_000, 20)
        assert len(recent_operations()) == 3
        answer(transcript, "ok", 10)
        assert len(recent_operations()) == 13

    def test_reply_that_imitates_a_step_is_marked(self, transcript: Transcript) -> None:
        for mark in ("> map buf1", "! guest unbind x", "= ok", "# conforms"):
            answer(transcript, mark, 1)
        transcript.close()
        lines = transcript.path.read_text().splitlines()
        assert [line for line in lines if line.startswith("?")] == [
            "?> map buf1",
            "?! guest unbind x",
            "?= ok",
            "?# conforms",
        ]


class TestAnswers:
    def test_output_beyond_its_limit_is_no_violation(self) -> None:
        error = SshOutputError("`x` printed more than 64 MiB.")
        assert observation_of(error, "").verdict is Verdict.HARNESS_ERROR
        assert isinstance(error, LOST)  # so the machine is given up

    @pytest.mark.parametrize("text", ["", "-1", "1.0", "9" * 5000, "\u0661", " 1", "1e3"])
    def test_text_that_is_no_count_is_refused(self, text: str) -> None:
        assert not is_count(text)

    @pytest.mark.parametrize("text", ["slabinfo - version: 2.1\n#\nx\n", "slabinfo - version: 2.1\n#\nx y\n"])
    def test_nonsense_of_the_guest_is_a_harness_error(self, text: str) -> None:
        with pytest.raises(HarnessError, match="/proc/slabinfo cannot be understood"):
            Slabs.parse(text)

    def test_page_table_without_end_ends_at_its_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(page_table, "MAX_SPANS", 2)
        span = "0x0-0x1000:pte:RW "
        assert len(page_table.PageTable.parse(span * 2).spans) == 2
        with pytest.raises(ValueError, match="at most 2 spans"):
            page_table.PageTable.parse(span * 3)

    def test_error_of_an_answer_shows_it_harmless(self) -> None:
        with pytest.raises(HarnessError) as caught, understood("list of devices"):
            raise ValueError("\x1b[2J")
        assert "\x1b" not in str(caught.value)
