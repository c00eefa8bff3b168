"""Warnings of the compilers that a tree has and its base has not."""

from __future__ import annotations

import base64
import io
import quopri
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_kernel import DMABUF, SmallKernel

from harness.kernel import kconfig, static_checks
from harness.kernel.static_checks import TOOLS, Tool, WarningCheck
from harness.lib.errors import BuildError, HarnessError
from harness.lib.progress import Progress
from harness.series.series import Patch, Series

GCC = TOOLS[0]
# Code of which -Wextra warns and -Wall does not.
EXTRA = "int more(int unused);\nint more(int unused) { return 0; }\n"


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


def bench_of(small: SmallKernel) -> WarningCheck:
    request = kconfig.fragment_text(kconfig.requested([small.fragment], "6.19"))
    return WarningCheck(small.store, Progress(small.store, io.StringIO()), request, small.log)


def patch_of(*paths: str) -> Patch:
    diffs = "".join(f"--- a/{path}\n+++ b/{path}\n@@ -1 +1,2 @@\n a\n+b\n" for path in paths)
    return Patch("0001-x.patch", f"From: a <a@b.c>\nSubject: x\n\n---\n{diffs}".encode(), "x")


def series_of(*patches: Patch) -> Series:
    return Series("mine", "Mine", "6.19", "auto", patches, {}, "a test")


def test_folders_are_those_of_changed_c_files(tmp_path: Path) -> None:
    touched = ("drivers/vfio/a.c", "drivers/vfio/pci/b.c", "include/c.h", "tools/d.c", "mm/e.c", "new/f.c")
    for folder in ("drivers/vfio/pci", "include", "tools", "mm", "net/core"):
        (tmp_path / folder).mkdir(parents=True)
    found = static_checks.folders(series_of(patch_of(*touched)), tmp_path)
    assert found == ["drivers/vfio/", "mm/"]
    added = ("net/core/new/deep/a.c", "drivers/new/b.c")  # the parent of the second is all drivers
    assert static_checks.folders(series_of(patch_of(*added)), tmp_path) == ["net/core/"]


CHECKPATCH = """
open(my $mail, '<', $ARGV[-1]) or die;
while (<$mail>) { print "$ARGV[-1]:$.: ERROR: no plain text\n" if /\r|=3D/ || /^[A-Za-z0-9+\\/]{60}/ }
exit 1
"""


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("8bit", bytes),
        ("8bit", lambda text: text.replace(b"\n", b"\r\n")),
        ("base64", base64.encodebytes),
        ("quoted-printable", quopri.encodestring),
    ],
    ids=["plain", "crlf", "base64", "quoted-printable"],
)
def test_checkpatch_reads_the_decoded_patch(
    tmp_path: Path, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "checkpatch.pl").write_text(CHECKPATCH)
    plain = patch_of("mm/a.c")
    head, body = plain.content.split(b"\n\n", 1)
    body = body.replace(b"+b", b"+int b = 1;")
    mail = head + b"\nContent-Transfer-Encoding: " + encoding.encode() + b"\n\n" + encode(body)
    assert static_checks.checkpatch([replace(plain, content=mail)], tmp_path) == [[]]


@pytest.mark.build
def test_new_warnings_leave_out_those_of_the_base(small: SmallKernel) -> None:
    bench, tree = bench_of(small), small.tree({"drivers/more.c": EXTRA})
    found = bench.new_warnings(GCC, tree, small.tree(), ["drivers/"])
    assert [line.split(" warning: ")[1] for line in found] == [
        "unused parameter 'unused' [-Wunused-parameter]"
    ]
    said = small.log.read_text()
    assert bench.new_warnings(GCC, tree, small.tree(), ["drivers/"]) == found
    assert small.log.read_text() == said  # nothing was compiled again


@pytest.mark.build
def test_checks_leave_the_build_folder_alone(small: SmallKernel) -> None:
    small.build()
    bench_of(small).new_warnings(
        GCC, small.tree({"drivers/dmabuf.c": DMABUF + "\n"}), small.tree(), ["drivers/"]
    )
    small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")})
    assert small.compiled() == ["drivers/dmabuf.o"]


@pytest.mark.build
def test_checks_of_a_broken_tree_blame_the_series(small: SmallKernel) -> None:
    with pytest.raises(BuildError, match="compilation failed"):
        bench_of(small).new_warnings(
            GCC, small.tree({"drivers/more.c": "#error\n"}), small.tree(), ["drivers/"]
        )


def test_absent_tool_is_an_error(small: SmallKernel) -> None:
    absent = Tool("absent", ("no-such-compiler",), True, ())
    assert absent.program() is None
    with pytest.raises(HarnessError, match="absent is not installed"):
        bench_of(small).new_warnings(absent, small.tree(), small.tree(), ["drivers/"])
