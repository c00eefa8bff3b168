"""Texts of strangers, each made to take all time or memory: mails, headers, Kconfig, the output of make.

A reader that is slow, or whose stack overflows, makes the tests of a mebibyte here run for hours, or fail.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import main
from harness.journal import writer
from harness.kernel import kconfig_why, make_output, uapi
from harness.kernel.make_output import Output
from harness.lib import command, errors
from harness.lib.errors import ApplyError, HarnessError, PatchproofError
from harness.lib.progress import Progress
from harness.lib.text import printable
from harness.series import diff, unpack
from harness.series.mail import Mail

MANY = 200_000
LIMIT = 1 << 20
OWNED = "\x1b]0;owned\x07\x9b2J\u202e"


class TestUnpack:
    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_file_of_empty_parts_ends_at_its_limit(self, pack: Callable[[bytes], bytes]) -> None:
        with pytest.raises(unpack.UnpackError, match="more than 10000 parts"):
            unpack.unpack(pack(b"") * MANY, LIMIT)

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_bomb_ends_at_its_limit(self, pack: Callable[[bytes], bytes]) -> None:
        with pytest.raises(unpack.UnpackError, match="more than 1 MiB of mails"):
            unpack.unpack(pack(bytes(20 * LIMIT)), LIMIT)

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_parts_up_to_the_limit_are_joined(self, pack: Callable[[bytes], bytes]) -> None:
        assert unpack.unpack(pack(b"a") * 1000, LIMIT) == b"a" * 1000


class TestMail:
    @pytest.mark.parametrize(
        "header",
        [
            b"From: " + b"(" * MANY,
            b'Content-Type: multipart/mixed; boundary=a; b="' + b";" * MANY,
            b"Content-Type: multipart/mixed;" + b" a*1=x;" * MANY,
            b"Subject: " + b"=?utf-8?q?x?= " * (MANY // 14),
            b"Subject: " + b"[PATCH " * (MANY // 7),
            b"References: " + b"<" * MANY,
        ],
    )
    def test_header_without_end_is_read(self, header: bytes) -> None:
        mail = Mail(header + b"\nX: y\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n")
        assert len(mail.subject) <= 400
        assert len(mail.message_id) <= 250
        assert mail.sender == mail.sender.lower()
        assert isinstance(mail.has_diff, bool)

    def test_hunk_of_5000_digits_is_no_hunk(self) -> None:
        mail = Mail(b"From: a\n\n--- a/x\n+++ b/x\n@@ -1," + b"9" * 5000 + b" +1 @@\n-x\n")
        assert b"9999" not in mail.changes

    def test_hunk_of_5000_digits_is_refused(self) -> None:
        patch = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,%s +1 @@\n-x\n" % (b"9" * 5000)
        with pytest.raises(ApplyError, match="a number of no file"):
            diff.read("x", patch)


class TestKconfig:
    @pytest.mark.parametrize("piece", ["(", "!", "!(", "$(", '"', "A && (", "A=", "9" * 5000 + "<"])
    @pytest.mark.parametrize("length", [1900, 1 << 20])
    def test_condition_of_any_depth_is_evaluated(self, piece: str, length: int) -> None:
        condition = piece * (length // len(piece))
        assert isinstance(kconfig_why.holds(condition, {}), bool)
        assert all(len(part) <= 2 * length for part in kconfig_why._conjuncts(condition))

    def test_files_that_include_each_other_without_end_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "Kconfig").write_text('config A\n\tbool "a"\nsource "K0"\n')
        for number in range(2000):
            (tmp_path / f"K{number}").write_text(f'source "K{number + 1}"\n')
        assert kconfig_why.Options(tmp_path).why("A", "y", {}).startswith("nothing in its Kconfig entry")

    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "../../../etc/passwd", "/etc/passwd"])
    def test_file_of_an_impossible_name_is_left_out(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "Kconfig").write_text(f'source "{name}"\nconfig A\n\tbool\n')
        assert kconfig_why.Options(tmp_path).why("root", "y", {}) == "this tree has no such option"


class TestHeaders:
    def test_enumerators_after_a_long_one_are_short(self) -> None:
        names = ",".join(f"E{number}" for number in range(10_000))
        found = uapi.Definitions(f"enum x {{ A = {'1+' * 100_000}1, {names} }};")
        assert sum(map(len, found.enumerators.values())) < 10_000 * 500
        assert found.number("E9") is None

    @pytest.mark.parametrize(
        "piece", ["#if 0\n", "/*", '"', '"\\', "'\\", "enum {", "#define a b\n", "(", "\\\n", "enum x {a,"]
    )
    def test_header_of_a_mebibyte_is_read(self, piece: str) -> None:
        text = piece * (LIMIT // len(piece))
        assert len(uapi.Definitions(text).names) < 10
        assert len(uapi.identifiers(text)) < 10


class TestMake:
    def read(self, *lines: str) -> Output:
        output = Output(Path("/source"))
        for line in lines:
            output.line(line)
        return output

    def size(self, output: Output) -> int:
        return sum(len(line) for lines in output.warnings.values() for line in lines)

    def test_line_of_a_mebibyte_is_cut(self) -> None:
        output = self.read("x.c:1:2: warning: " + "y" * LIMIT, "  CC " + "z" * LIMIT)
        assert self.size(output) <= 2 * make_output._LINE_LENGTH

    def test_warnings_without_end_end_at_their_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(make_output, "MAX_WARNINGS", 100)
        output = self.read(*(f"x.c:{number}: warning: y" for number in range(1000)))
        assert sum(map(len, output.warnings.values())) == 100
        assert output.warnings[""][-1].startswith("warning: there are more than")

    def test_unmet_dependency_without_end_is_cut(self) -> None:
        output = self.read(
            "WARNING: unmet direct dependencies detected for A", *["  - B [=y] && C [=n]"] * 10_000
        )
        assert self.size(output) < 2 * make_output._LINE_LENGTH

    def test_errors_without_end_end_at_their_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(make_output, "MAX_ERRORS", 10)
        lines = [f"x.c:{number}: error: y" for number in range(1000)]
        output = self.read(*lines, "make: *** [x] Error 1")
        failed = output.failure(command.CommandError(["make"], 2, None, ""), "build")
        assert failed.message == "The build failed with 10 errors."

    def test_step_with_escapes_is_shown_harmless(self) -> None:
        assert "\x1b" not in Output(Path("/source")).line("  CC \x1b]0;owned\x07")

    @pytest.mark.parametrize("piece", [":1", "Kbuild", "cc", "clang", "a/", "[tools/bu", ".-", '"', "a:1: "])
    def test_lines_of_a_mebibyte_are_matched(self, piece: str) -> None:
        line = (piece * 1000)[:1000]
        assert self.size(self.read(*[line] * 100)) == 0


class TestCommand:
    def test_output_without_end_ends_the_program(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(command, "OUTPUT_LIMIT", 1 << 20)
        log = tmp_path / "log"
        with pytest.raises(HarnessError, match="printed more than 1 MiB"):
            command.run(["yes"], log=log)
        assert log.stat().st_size < 2 << 20


class TestTerminal:
    def test_error_with_escapes_is_shown_harmless(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(_: object) -> None:
            raise HarnessError(f"It said {OWNED}.", tail=f"{OWNED}\nlast")

        monkeypatch.setattr(main, "_parse", fail)
        assert main.main([]) == 2
        said = capsys.readouterr().err
        assert "owned" in said
        assert said.replace("\n", "").isprintable()

    def test_progress_with_escapes_is_shown_harmless(self) -> None:
        stream = io.StringIO()
        progress = Progress(stream=stream)
        progress.say(OWNED)
        with progress.stage("build") as stage:
            stage.note(OWNED)
        assert "owned" in stream.getvalue()
        assert stream.getvalue().replace("\n", "").isprintable()

    def test_error_of_a_mebibyte_is_cut(self) -> None:
        error = PatchproofError("x" * LIMIT, tail="y" * LIMIT + "last")
        assert len(str(error)) < errors.MESSAGE_LIMIT + 2 * errors.TAIL_LIMIT
        assert error.tail.endswith("last")

    @pytest.mark.parametrize("piece", ["x", "\x1b", "\U0001f600", "\udc80"])
    def test_printable_reads_no_more_than_it_shows(self, piece: str) -> None:
        assert printable(piece * (16 << 20), 50) == printable(piece * 60, 50)
        assert len(printable(piece.encode(errors="surrogateescape") * (16 << 20), 50)) == 50


def test_journal_keeps_no_more_than_its_limit() -> None:
    assert len(writer._shortened("x" * LIMIT)) <= writer.EVIDENCE_LIMIT + 100
