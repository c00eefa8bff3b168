"""Fuzz what reads a series and its build: only documented errors leave, and no path leads out of the tree."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fuzzing import DATA, attempt, corpus, examples, hostile
from hypothesis import given
from hypothesis import strategies as st

from harness.kernel import kconfig, kconfig_why, make_output, uapi
from harness.kernel.make_output import Output
from harness.lib.command import CommandError
from harness.lib.errors import ApplyError, BuildError, HarnessError, UsageError
from harness.series import diff, mbox, tag
from harness.series.choose import choose
from harness.series.mail import Mail
from harness.series.mbox import NotASeriesError
from harness.series.unpack import UnpackError, unpack

PATCHES = corpus("series/accepted/*.patch") + corpus("series/refused/*.patch")
MAILS = [
    b"From: a <a@b>\nSubject: [PATCH v2 1/2] x: y\nMessage-ID: <1@b>\nDate: 1 Jan 1970 00:00:00\n\nT\n---\n",
    *PATCHES,
    b"".join(
        b"From x Mon Sep 17 00:00:00 2001\nFrom: a <a@b>\nSubject: [PATCH %d/3] x\nMessage-ID: <%d@b>\n"
        b"In-Reply-To: <0@b>\n\nT\n---\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
        % (one, one)
        for one in range(4)
    ),
]
HEADERS = [
    b"From x Mon Sep 17 00:00:00 2001\n",
    b"From: b <b@c>\n",
    b"Subject: [PATCH RFC v3 2/9] z\n",
    b"[PATCH ",
    b"Message-ID: <2@b>\n",
    b"In-Reply-To: <1@b>\n",
    b"References: <1@b> <2@b>\n",
    b"=?utf-8?q?=1b=5b?=",
    b"Content-Type: multipart/mixed; boundary=a\n",
    b"Content-Type: text/plain; charset=utf-7\n",
    b"--a\n",
    b"--a--\n",
    b"Content-Transfer-Encoding: base64\n",
    b"Content-Transfer-Encoding: quoted-printable\n",
    b"\n\n",
    b"Re: ",
    b"format=flowed",
    b"base-commit: " + b"0" * 40 + b"\n",
    b"Date: x\n",
    b">From ",
    b"\nFrom ",
    b" via ",
]
HUNKS = [
    b"diff --git a/x b/x\n",
    b"--- a/x\n",
    b"+++ b/x\n",
    b"@@ -1 +1 @@\n",
    b"@@ -1,2 +3,4 @@ f\n",
    b"--- /dev/null\n",
    b"rename from x\n",
    b"rename to .git/x\n",
    b"new file mode 120000\n",
    b"old mode 100644\n",
    b"index 1..2 100644\n",
    b"GIT binary patch\n",
    b"\\ No newline at end of file\n",
    b'"a/\\303"',
    b"a/../x",
    b"b//x",
    b"-- \n",
    b" \n",
    b"+\n",
]


@examples(120)
@given(hostile(MAILS, [*HEADERS, *HUNKS]))
def test_mbox_of_any_bytes_is_split_or_refused(content: bytes) -> None:
    box, error = attempt(lambda: mbox.read(content), NotASeriesError)
    if box is None:
        assert len(error) < 3000
        assert error.isprintable()
        return
    assert sum(len(mail.content) for mail in box.mails) <= len(content)
    for mail in box.mails:
        for text in (mail.subject, mail.message_id, mail.parent, mail.shown, tag.parse(mail.subject).title):
            assert text.isprintable()
            assert len(text) < 2000
        assert isinstance(
            (mail.has_diff, mail.attached, mail.is_flowed, mail.changes, mail.after_diff), tuple
        )
    with contextlib.suppress(NotASeriesError):
        choose(box.mails)


@examples(120)
@given(hostile(PATCHES, HUNKS))
def test_diff_of_any_bytes_stays_in_the_tree(content: bytes) -> None:
    files, error = attempt(lambda: diff.read("x.patch", content), ApplyError)
    if files is None:
        assert len(error) < 3000
        assert error.isprintable()
        return
    for path in (path for file in files for path in file.paths):
        assert path.isprintable()
        parts = PurePosixPath(path).parts
        assert not PurePosixPath(path).is_absolute()
        assert not {"..", ".git", "/"}.intersection(parts)
    assert sum(len(file.hunks) for file in files) <= content.count(b"@@ -")


@examples(80)
@given(
    st.sampled_from((gzip.compress, bz2.compress, lzma.compress)),
    st.lists(st.sampled_from(MAILS), max_size=4),
    st.data(),
)
def test_packed_mails_of_any_bytes_are_bounded(
    pack: Callable[[bytes], bytes], parts: list[bytes], data: st.DataObject
) -> None:
    packed = b"".join(map(pack, parts)) or pack(b"")
    content = packed[:6] + data.draw(hostile([packed[6:]]))
    unpacked, error = attempt(lambda: unpack(content, 4096), UnpackError)
    assert len(unpacked or b"") <= 4096
    assert len(error) < 1000


KCONFIG = [path.read_bytes() for path in sorted((DATA / "kbuild" / "kconfig").rglob("Kconfig*"))]
STATEMENTS = [
    b"config A\n",
    b'\tbool "x" if B\n',
    b"\tdepends on A && (B || !C)\n",
    b"\tselect D if E\n",
    b"\tdefault y if F\n",
    b"if A\n",
    b"endif\n",
    b'menu "x"\n',
    b"endmenu\n",
    b"choice\n",
    b"endchoice\n",
    b"\thelp\n",
    b'source "Kconfig"\n',
    b'source "../../etc/passwd"\n',
    b"(",
    b")",
    b"!",
    b"&& ",
    b"|| ",
    b"= ",
    b"< ",
    b"$(x ",
    b"\\\n",
    b"CONFIG_A=y\n",
    b"# CONFIG_B is not set\n",
    b'CONFIG_C="x"\n',
    b"# releases: 7.3..\n",
]


@examples(80)
@given(hostile(KCONFIG, STATEMENTS))
def test_kconfig_of_any_bytes_explains_or_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Kconfig").write_bytes(content)
        options = kconfig_why.Options(Path(folder))
        for name in ("A", "VFIO", "VFIO_PCI_DMABUF"):
            for asked in ("y", "n"):
                assert len(options.why(name, asked, {"B": "y", "VFIO": "m"})) <= 40 * len(content) + 200
        with contextlib.suppress(UsageError):
            kconfig.requested([Path(folder) / "Kconfig"], "7.3.1")
    assert len(kconfig.values(content.decode(errors="replace"))) <= len(content)


BUILDS = corpus("kbuild/*.log")
MESSAGES = [
    b"  CC      x.o\n",
    b"  HOSTCC  x\n",
    b"x.c:1:2: error: y\n",
    b"x.c:1:2: warning: y [-Wz]\n",
    b"x.c:1: note: z\n",
    b"make[1]: *** [Makefile:1: x] Error 1\n",
    b"No space left on device\n",
    b"Killed\n",
    b"ld: x\n",
    b"Kbuild:1: ",
    b"WARNING: unmet direct dependencies detected for A\n",
    b"  Depends on: B\n",
    b"In file included from x:1\n",
    b":1",
    b"                 from y:2:\n",
    b"sh: 1: gcc: not found\n",
    b"scripts/Makefile.host:1",
    b"clang",
    b"ERROR: modpost: ",
]


@examples(60)
@given(hostile(BUILDS, MESSAGES), st.sampled_from((1, 2, -9, 137)))
def test_output_of_make_blames_somebody(content: bytes, status: int) -> None:
    output = Output(Path("/source"))
    for line in content.decode(errors="replace").split("\n"):
        step = output.line(line)
        assert step.isprintable()
        assert len(step) <= make_output._LINE_LENGTH + 100
    error = output.failure(CommandError(["make"], status, None, "last"), "build")
    assert isinstance(error, BuildError | HarnessError)
    assert len(str(error)) < 100 * make_output._LINE_LENGTH
    assert str(error).replace("\n", "").isprintable()
    assert sum(len(line) for lines in output.warnings.values() for line in lines) <= 12 * len(content) + 100


C_HEADERS = corpus("headers/linux/*.h")
DEFINITIONS = [
    b"#define A 1\n",
    b"#define B (A << 3)\n",
    b"#define C _IO('x', 1)\n",
    b"enum x {\n",
    b"D = A,\n",
    b"};\n",
    b"#if 0\n",
    b"#endif\n",
    b"#else\n",
    b"/*",
    b"*/",
    b"//",
    b"\\\n",
    b"1 << 63",
    b"<< ",
    b"* ",
    b"E, ",
    b"~",
    b"0x",
    b"'a'",
]


@examples(60)
@given(hostile(C_HEADERS, DEFINITIONS))
def test_header_of_any_bytes_has_bounded_numbers(content: bytes) -> None:
    found = uapi.Definitions(content.decode(errors="replace"))
    assert len(found.names) <= len(content)
    assert sum(map(len, found.enumerators.values())) <= (uapi.BODY_LIMIT + 50) * (len(content) + 1)
    for name in sorted(found.names)[:200]:
        number = found.number(name)
        assert number is None or 0 <= number < 1 << 64


@examples(60)
@given(hostile(MAILS, [*HEADERS, *HUNKS]))
def test_text_around_a_diff_never_hides_it(noise: bytes) -> None:
    """Put lines of text before a patch: it is still seen to change its file, or the mail is refused."""
    text = b"".join(b"> %s\n" % line for line in noise.split(b"\n"))
    patch = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
    assert Mail(b"From: a\n\n" + text.replace(b"\r", b"") + patch).has_diff
    assert diff.read("x", text + patch)[-1].path == "x"
