"""A git am that fails: through the patch, through its mail, or through this host."""

from __future__ import annotations

import base64
import dataclasses
import io
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_kernel import CORE, make_base

from harness.kernel import apply
from harness.kernel.base import Base
from harness.kernel.tree import Tree
from harness.lib import git
from harness.lib.cache import Store
from harness.lib.errors import ApplyError, ExitCode, HarnessError, UsageError
from harness.lib.progress import Progress
from harness.series import mailinfo
from harness.series.series import Patch, Series

CORE_C = "drivers/vfio/pci/core.c"
DIFF = f"""\
diff --git a/{CORE_C} b/{CORE_C}
--- a/{CORE_C}
+++ b/{CORE_C}
@@ -7,7 +7,7 @@
 int line_7;
 int line_8;
 int line_9;
-int line_10;
+int one;
 int line_11;
 int line_12;
 int line_13;
"""
FAILING = DIFF.replace("line_8", "line_eight")


def mail(diff: str, *, author: str = "Dev <dev@example.org>", headers: str = "") -> bytes:
    return f"From: {author}\nSubject: [PATCH] change\n{headers}\nWhy.\n---\n{diff}-- \n2.47\n".encode()


def in_base64(diff: str) -> bytes:
    head = "From: Dev <dev@example.org>\nSubject: [PATCH] change\nMIME-Version: 1.0\n"
    head += 'Content-Type: text/plain; charset="utf-8"\nContent-Transfer-Encoding: base64\n\n'
    return head.encode() + base64.encodebytes(diff.encode())


@pytest.fixture(scope="session")
def base_made_once(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(base_made_once: Base, tmp_path: Path) -> Base:
    repository = shutil.copytree(base_made_once.repository, tmp_path / "base.git")
    return dataclasses.replace(base_made_once, repository=repository)


def applied(base: Base, folder: Path, *mails: bytes) -> Tree:
    patches = tuple(Patch(f"{at:04}-change.patch", one, "change") for at, one in enumerate(mails, 1))
    series = Series("test", "a test", "6.19", "auto", patches, {}, "a test")
    store = Store(folder / "cache")
    return apply.apply_series(store, Progress(store, io.StringIO()), base, series, folder / "log")


def content(tree: Tree, path: str = CORE_C) -> str:
    return tree.content(path).decode()


def put_first_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Put a git first on PATH that does ``case``, the arms of a shell's case, and else calls the real one."""
    real = shutil.which("git")
    (folder / "bin").mkdir()
    program = folder / "bin" / "git"
    program.write_text(f'#!/bin/sh\ncase $1 in\n{case}\nesac\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")


STATE = "mkdir -p .git/rebase-apply; echo 1 >.git/rebase-apply/next; echo 1 >.git/rebase-apply/last"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (f"am) {STATE}; kill -9 $$;;", r"git am was killed by signal 9 at the patch 0001-change\.patch"),
        ("am) kill -9 $$;;", "git am was killed by signal 9"),
        ("am) exit 137;;", "git am was killed by signal 9"),
        ("am) kill -XFSZ $$;;", "git am was killed by signal 25"),
        (f"am) {STATE}; echo 'error: patch failed: Makefile:1'; exit 1;;", "git am failed on this host"),
        ("am) echo 'fatal: Out of memory, malloc failed' >&2; exit 128;;", "Out of memory"),
        ("am) echo 'error: unable to write file: Disk quota exceeded' >&2; exit 1;;", "Disk quota exceeded"),
        (
            "am) echo 'error: insufficient permission for adding an object' >&2; exit 128;;",
            r"insufficient permission(.|\n)*log: ",
        ),
        ("am|apply) echo 'fatal: unable to read 12ab: Input/output error' >&2; exit 128;;", "Input/output"),
        ("am) exit 1;; apply) kill -9 $$;;", "git apply was killed by signal 9"),
        ("am) exit 0;;", "made only 0 commits of 1 patches"),
        ("am) exit 1;; read-tree) exit 128;;", "read-tree HEAD` exited with 128"),
        ("mailinfo) kill -9 $$;;", "mailinfo .* was killed by signal 9"),
        ("mailsplit) echo 'fatal: cannot write: No space left on device' >&2; exit 128;;", "No space left"),
        ("var) echo 'fatal: unable to fork' >&2; exit 128;; am) exit 1;;", "git var failed on this host"),
    ],
)
def test_fault_of_the_host_is_no_fault_of_the_series(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, says: str
) -> None:
    put_first_on_path(tmp_path, monkeypatch, case)
    mailinfo.forget()
    with pytest.raises(HarnessError, match=says) as failure:
        applied(base, tmp_path, mail(DIFF))
    assert failure.value.exit_code is ExitCode.HARNESS
    assert "does not apply" not in str(failure.value)


def test_full_disk_for_temporary_files_is_no_damaged_patch(base: Base, tmp_path: Path) -> None:
    mailinfo.forget()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))  # as a quota
    try:
        with pytest.raises(HarnessError, match=r"has no room for \d+ KiB of temporary files \(File"):
            applied(base, tmp_path, mail(DIFF))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(applied(base, tmp_path, mail(DIFF))) == CHANGED


def test_damaged_object_is_no_fault_of_the_series(base: Base, tmp_path: Path) -> None:
    objects = base.repository / "objects"
    blob = git.resolve(base.repository, f"{base.commit}:{CORE_C}")
    assert blob is not None
    loose = objects / blob[:2] / blob[2:]
    loose.chmod(0o644)
    loose.write_bytes(loose.read_bytes()[:20])
    with pytest.raises(HarnessError, match="git apply failed on this host") as failure:
        applied(base, tmp_path, mail(DIFF))
    assert "does not apply" not in str(failure.value)


def test_failed_git_am_of_a_wrong_patch_blames_the_patch(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_first_on_path(tmp_path, monkeypatch, "am) exit 1;;")
    with pytest.raises(ApplyError, match=rf"does not apply to 6\.19\.6: {CORE_C}, hunk 1 of 1 \(line 7\)"):
        applied(base, tmp_path, mail(FAILING))


@pytest.mark.parametrize(
    ("author", "date", "words"),
    [
        ("dev at example.org (Dev)", "", "empty ident name"),
        ('"." <dev@example.org>', "", "disallowed characters"),
        ("Dev <dev@example.org>", "Date: some day\n", "invalid date format: some day"),
    ],
)
def test_mail_without_an_author_is_refused_in_gits_words(
    base: Base, tmp_path: Path, author: str, date: str, words: str
) -> None:
    with pytest.raises(UsageError, match=rf"patch 0001-change\.patch names no author .*{words}"):
        applied(base, tmp_path, mail(DIFF, author=author, headers=date))


def test_mail_without_an_author_that_fails_does_not_apply(base: Base, tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match="does not apply"):
        applied(base, tmp_path, mail(FAILING, author="dev at example.org (Dev)"))


# --- CR LF


CHANGED = CORE.replace("int line_10;", "int one;")
WITH_CR = "crlf.txt"
NEW_FILE = f"diff --git a/{WITH_CR} b/{WITH_CR}\nnew file mode 100644\n--- /dev/null\n+++ b/{WITH_CR}\n"
NEW_FILE += "@@ -0,0 +1,2 @@\n+one\r\n+two\r\n"
EDIT = f"diff --git a/{WITH_CR} b/{WITH_CR}\n--- a/{WITH_CR}\n+++ b/{WITH_CR}\n@@ -1,2 +1,2 @@\n one\r\n"
EDIT += "-two\r\n+three\r\n"


@pytest.mark.parametrize(
    "one",
    [
        mail(DIFF),
        mail(DIFF).replace(b"\n", b"\r\n"),
        in_base64("Why.\n---\n" + DIFF),
        in_base64(f"Why.\n---\n{DIFF}".replace("\n", "\r\n")),
        in_base64(f"Why.\n---\n{DIFF}".replace("\n", "\r\n")).replace(b"\n", b"\r\n"),
    ],
    ids=["plain", "DOS", "base64", "CR in base64", "CR in base64, DOS"],
)
def test_cr_of_a_mail_server_is_removed(base: Base, tmp_path: Path, one: bytes) -> None:
    assert content(applied(base, tmp_path, one)) == CHANGED


@pytest.mark.parametrize("encode", [mail, lambda diff: in_base64(f"Why.\n---\n{diff}")])
def test_cr_of_a_file_is_kept(base: Base, tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    tree = applied(base, tmp_path, encode(NEW_FILE), encode(EDIT))
    assert content(tree, WITH_CR) == "one\r\nthree\r\n"


def test_mails_with_and_without_cr_make_one_series(base: Base, tmp_path: Path) -> None:
    server = in_base64(f"Why.\n---\n{DIFF}".replace("\n", "\r\n"))
    tree = applied(base, tmp_path, mail(NEW_FILE), server, mail(EDIT))
    assert (content(tree), content(tree, WITH_CR)) == (CHANGED, "one\r\nthree\r\n")
    with pytest.raises(ApplyError, match=r"patch 0003-change\.patch is already in the base"):
        applied(base, tmp_path, mail(NEW_FILE), server, mail(DIFF))
