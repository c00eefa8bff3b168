"""Every prefix of a series: its new warnings, the report, and the runs of the suites."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from small_kernel import DMABUF, SmallKernel

from harness.cli import prefixes
from harness.cli.prefixes import PrefixResult
from harness.kernel import kconfig
from harness.kernel.static_checks import TOOLS, Tool, WarningCheck
from harness.kernel.tree import Tree
from harness.lib.cache import Store
from harness.lib.errors import BuildError, ExitCode
from harness.lib.progress import Progress
from harness.run.request import Request
from harness.series.series import Patch, Series

GCC = TOOLS[0]
# Code of which -Wextra warns and -Wall does not.
EXTRA = "int more(int unused);\nint more(int unused) { return 0; }\n"
CHECKPATCH = """\
use strict;
my $root = $ARGV[0]; my $mail = $ARGV[-1];
$root =~ s/^--root=//;
-d "$root/drivers" && grep({ $_ eq '--strict' } @ARGV) or die "called wrongly: @ARGV";
open(my $in, '<', $mail); my $bad = 0;
while (<$in>) { if (/unused/) { print "$mail:$.: CHECK: unused\\n"; $bad = 1; } }
exit $bad;
"""


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


def bench_of(small: SmallKernel) -> WarningCheck:
    request = kconfig.fragment_text(kconfig.requested([small.fragment], "6.19"))
    return WarningCheck(small.store, Progress(small.store, io.StringIO()), request, small.log)


def formatted(small: SmallKernel, *changes: dict[str, str]) -> Series:
    """Make a series with git format-patch; each patch writes the files of one of ``changes``."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *arguments], cwd=small.repository, check=True, capture_output=True)

    git("checkout", "--quiet", "--force", small.base.commit)
    for number, change in enumerate(changes, 1):
        for name, content in change.items():
            (small.repository / name).parent.mkdir(exist_ok=True)
            (small.repository / name).write_text(content)
        git("add", "--all")
        git("commit", "--quiet", f"--message=change {number}")
    out = small.folder / "out"
    git("format-patch", "--quiet", f"--output-directory={out}", small.base.commit)
    paths = sorted(out.iterdir())
    patches = (Patch(path.name, path.read_bytes(), f"[PATCH] change {n}") for n, path in enumerate(paths, 1))
    return Series("mine", "Mine", "6.19", "auto", tuple(patches), {}, "a test")


@pytest.mark.build
def test_prefix_has_only_its_new_warnings(small: SmallKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    (small.repository / "scripts").mkdir()
    base = small.tree({"scripts/checkpatch.pl": CHECKPATCH})
    monkeypatch.setattr(
        small, "base", type(small.base)("6.19.6", "6.19", "a test", base.commit, base.repository)
    )
    monkeypatch.setattr(prefixes, "TOOLS", (GCC,))
    tested = formatted(
        small,
        {"drivers/dmabuf.c": DMABUF + "\n"},
        {"drivers/more.c": EXTRA},
        {"drivers/more.c": "#error\n"},
        {"drivers/more.c": "int more(void);\nint more(void) { return 0; }\n"},
    )
    bench = bench_of(small)
    rows = prefixes.check(bench.store, bench.progress, tested, small.base, bench)
    assert [(row.count, row.subject) for row in rows] == [(n, f"change {n}") for n in (1, 2, 3, 4)]
    assert [len(row.findings["gcc"]) for row in rows] == [0, 1, 2, 0]
    assert [len(row.findings["checkpatch"]) > 0 for row in rows] == [False, True, True, False]
    assert rows[1].findings["checkpatch"][0].startswith("0002-change-2.patch:")
    assert [row.good for row in rows] == [True, False, False, True]
    assert prefixes.exit_code(rows) is ExitCode.SERIES
    assert prefixes.check(bench.store, bench.progress, tested, small.base, bench, 3) == rows[2:]


def test_show_lists_findings_and_absent_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "TOOLS", (Tool("absent", ("no-such-compiler",), True, ()),))
    rows = [
        PrefixResult(1, "first", {"checkpatch": [], "gcc": []}, "3 conforms; all as expected"),
        PrefixResult(
            2, "second", {"checkpatch": [], "gcc": ["a.c:1: warning: odd"]}, "1 violates", ExitCode.HARNESS
        ),
    ]
    stream = io.StringIO()
    prefixes.show(rows, stream)
    assert stream.getvalue().splitlines() == [
        "   1  first: no warnings; 3 conforms; all as expected",
        "!  2  second: 1 gcc; 1 violates",
        "        gcc: a.c:1: warning: odd",
        "Not run, as not installed: absent.",
    ]
    assert prefixes.exit_code(rows[:1]) is ExitCode.OK
    assert prefixes.exit_code(rows) is ExitCode.SERIES


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((3, 1), 1), ((3, 0), 0), ((3, 3), 3), ((2, 1, 0), 1), ((0, 2, 3), 2), ((1, 130), 130)],
)
def test_exit_code_of_prefixes_is_the_most_telling(codes: tuple[int, ...], expected: int) -> None:
    rows = [PrefixResult(number, "change", {}, "", ExitCode(code)) for number, code in enumerate(codes, 1)]
    assert prefixes.exit_code(rows) == expected


def test_prefix_whose_run_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -KILL $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    rows = [PrefixResult(1, "first"), PrefixResult(2, "second")]
    prefixes.run(rows, Request(series="mine", results=tmp_path / "results"), [])
    assert [row.code for row in rows] == [ExitCode.HARNESS] * 2
    assert rows[0].outcome == "the run did not begin; its process ended with the status -9"


def test_compiler_that_fails_on_the_base_blames_no_patch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> list[str]:
        raise BuildError("The compilation failed with 1 error.")

    monkeypatch.setattr(WarningCheck, "_warnings", fail)
    check = WarningCheck(cast(Store, None), Progress(), "", Path("log"))
    assert not prefixes._compiles(check, TOOLS[0], cast(Tree, None), ["drivers/"])
    assert "not checked with gcc, which fails on the base: The compilation" in capsys.readouterr().err


def test_prefixes_run_the_suites_with_the_users_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >>{seen}\n[ "$5" = --patches=2 ] && exit 130\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    rows = [PrefixResult(1, "first"), PrefixResult(2, "second"), PrefixResult(3, "third")]
    asked = Request(series="mine", results=tmp_path / "results", variants="one")
    prefixes.run(rows, asked, ["-k"])
    assert seen.read_text().splitlines() == [
        f"-m harness run --series=mine --patches={n} --results={tmp_path}/results/prefix-{n} "
        "--variants=one -k"
        for n in (1, 2)
    ]
    assert [row.code for row in rows] == [ExitCode.OK, ExitCode.INTERRUPTED, ExitCode.OK]
    assert rows[0].outcome == "the run did not begin"


def test_interrupted_prefixes_terminate_their_run(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\ntrap 'echo in order >{tmp_path}/end; exit 130' TERM\necho $$ >{tmp_path}/pid\n"
        "while :; do sleep 0.1; done\n"
    )
    program.chmod(0o755)
    script = (
        "import signal, sys; from pathlib import Path; from harness.cli import prefixes;"
        "from harness.run.request import Request;"
        # A shell's background job ignores SIGINT, and its children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"sys.executable = {str(program)!r};"
        f"prefixes.run([prefixes.PrefixResult(1, 'first')], "
        f"Request(series='mine', results=Path({str(tmp_path)!r})), [])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, stderr=subprocess.PIPE
    ) as us:
        limit = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        os.kill(us.pid, signal.SIGINT)
        try:
            us.communicate(timeout=60)
        finally:
            us.kill()
    assert (tmp_path / "end").read_text() == "in order\n"
