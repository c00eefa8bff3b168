"""git under a hostile user's configuration, environment and surrounding repository."""

from __future__ import annotations

import base64
import dataclasses
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from small_kernel import CORE, make_base

from harness.kernel import apply, static_checks
from harness.kernel.base import Base
from harness.lib.cache import Store
from harness.lib.progress import Progress
from harness.series import mailinfo
from harness.series.series import Patch, Series

# A message that scissors would cut, a name outside ASCII, a trailing blank, and CR LF in a file.
MAIL = """\
From: J\u00fcrgen <j@example.org>
Subject: [PATCH] [x] change
MIME-Version: 1.0
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: 8bit

First.

-- >8 --

# Second.
---
diff --git a/drivers/vfio/pci/core.c b/drivers/vfio/pci/core.c
--- a/drivers/vfio/pci/core.c
+++ b/drivers/vfio/pci/core.c
@@ -7,7 +7,7 @@
 int line_7;
 int line_8;
 int line_9;
-int line_10;
+int one; \n int line_11;
 int line_12;
 int line_13;
""".encode()
# The CRs are of the file: the header of the hunk has none.
WITH_CR = base64.encodebytes(
    b"Why.\n---\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-one\r\n+two\r\n"
)
WITH_CR = MAIL.partition(b"Content-T")[0] + b"Content-Transfer-Encoding: base64\n\n" + WITH_CR
CHANGED = CORE.replace("int line_10;", "int one; ")

CONFIGURATION = """\
[am]
	threeWay = true
	keepcr = true
	messageid = true
[apply]
	whitespace = fix
	ignoreWhitespace = change
[core]
	autocrlf = true
	whitespace = tab-in-indent
	hooksPath = {folder}/hooks
	attributesFile = {folder}/attributes
	editor = false
	fsmonitor = {folder}/hooks/applypatch-msg
	excludesFile = {folder}/attributes
	notesRef = nowhere
[mailinfo]
	scissors = true
	quotedCr = strip
[i18n]
	commitEncoding = ISO-8859-1
	logOutputEncoding = ISO-8859-1
[commit]
	gpgsign = true
	cleanup = strip
	template = {folder}/attributes
[gpg]
	program = false
[user]
	useConfigOnly = true
[init]
	templateDir = {folder}/template
	defaultBranch = other
	defaultObjectFormat = sha256
[diff]
	noprefix = true
	external = false
[filter "upper"]
	smudge = tr a-z A-Z
	clean = tr a-z A-Z
[rerere]
	enabled = true
[extensions]
	partialClone = nowhere
"""


@pytest.fixture(scope="session")
def base_made_once(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


def commit_of(base: Base, folder: Path) -> str:
    repository = shutil.copytree(base.repository, folder / "base.git")
    series = Series("x", "x", "6.19", "auto", (Patch("0001-x.patch", MAIL, "x"),), {}, "a test")
    store = Store(folder / "cache")
    progress = Progress(store, io.StringIO())
    own = dataclasses.replace(base, repository=repository)
    tree = apply.apply_series(store, progress, own, series, folder / "log")
    assert tree.content("drivers/vfio/pci/core.c").decode() == CHANGED
    tree.check_out(folder / "src", progress)
    assert (folder / "src/drivers/vfio/pci/core.c").read_bytes() == CHANGED.encode()
    return tree.commit


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this process a user's settings that break git am, and a repository around the temporary files."""
    for name in ("hooks", "template/hooks"):
        for hook in ("applypatch-msg", "pre-applypatch", "post-applypatch", "commit-msg", "pre-commit"):
            path = tmp_path / name / hook
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\nexit 1\n")
            path.chmod(0o755)
    (tmp_path / "attributes").write_text("* text eol=crlf filter=upper\n")
    text = CONFIGURATION.format(folder=tmp_path)
    (tmp_path / "config/git").mkdir(parents=True)
    (tmp_path / "config/git/attributes").write_text("* text eol=crlf filter=upper\n")
    for path in (tmp_path / ".gitconfig", tmp_path / "config/git/config"):
        path.write_text(text)
    temporary = tmp_path / "around" / "tmp"
    temporary.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(temporary.parent)], check=True)
    with (temporary.parent / ".git/config").open("a") as own:
        own.write(text.split("[extensions]")[0])
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for variable, value in {
        "HOME": tmp_path,
        "XDG_CONFIG_HOME": tmp_path / "config",
        "TMPDIR": temporary,
        "GIT_CONFIG_GLOBAL": tmp_path / ".gitconfig",
        "GIT_CONFIG_SYSTEM": tmp_path / ".gitconfig",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "apply.whitespace",
        "GIT_CONFIG_VALUE_0": "error-all",
        "GIT_CONFIG_PARAMETERS": "'am.threeway=true' 'mailinfo.scissors=true'",
        "GIT_DIR": "/nowhere",
        "GIT_WORK_TREE": "/nowhere",
        "GIT_INDEX_FILE": "/nowhere",
        "GIT_OBJECT_DIRECTORY": "/nowhere",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/nowhere",
        "GIT_COMMON_DIR": "/nowhere",
        "GIT_NAMESPACE": "other",
        "GIT_TEMPLATE_DIR": tmp_path / "template",
        "GIT_ATTR_SOURCE": "HEAD",
        "GIT_AUTHOR_NAME": "somebody",
        "GIT_COMMITTER_DATE": "@1700000000 +0100",
        "GIT_TRACE": tmp_path / "trace",
        "GIT_TRACE2_EVENT": tmp_path / "trace",
        "GIT_EXEC_PATH": "/nowhere",
        "GIT_EDITOR": "false",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_PAGER": "false",
        "LANGUAGE": "de",
        "TZ": "Asia/Tokyo",
        "EMAIL": "somebody@example.org",
    }.items():
        monkeypatch.setenv(variable, str(value))
    return tmp_path


def test_apply_sees_nothing_of_a_hostile_user(
    base_made_once: Base, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    commit = commit_of(base_made_once, tmp_path / "plain")
    decoded = mailinfo.decode("x", WITH_CR)
    assert decoded.patch.endswith(b"-one\r\n+two\r\n")
    mailinfo.forget()
    hostile: Path = request.getfixturevalue("hostile")
    assert commit_of(base_made_once, tmp_path / "again") == commit
    assert mailinfo.decode("x", WITH_CR) == decoded
    assert not (hostile / "hook-ran").exists()
    assert not (hostile / "trace").exists()


def test_checkpatch_reads_no_configuration_of_the_user(hostile: Path) -> None:
    (hostile / ".checkpatch.conf").write_text("--ignore ALL\n")
    script = hostile / "source/scripts/checkpatch.pl"
    script.parent.mkdir(parents=True)
    script.write_text('print "\\n", -e "$ENV{HOME}/.checkpatch.conf" ? "ignored" : "checked";')
    (found,) = static_checks.checkpatch([Patch("0001-x.patch", MAIL, "x")], script.parent.parent)
    assert found == ["0001-x.patch:checked"]
