"""Call traces with source lines, by the scripts of a real kernel tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.kernel import apply, base
from harness.klog import decode
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.lib.progress import Progress

SOURCE = """\
int counter;

int inner(int n)
{
	counter += n;
	return counter;
}

int outer(int n)
{
	return inner(n) + 1;
}
"""
TRACE = """\
[    3.187397] WARNING: a.c:5 at inner+0x3/0x12, CPU#1: sh/45
[    3.187400] RIP: 0010:inner+0x3/0x12
[    3.187402] Call Trace:
[    3.187404]  <TASK>
[    3.187406]  outer+0x5/0x9
[    3.187408]  </TASK>
[    3.187410] ---[ end trace 0000000000000000 ]---"""


def image(folder: Path, *options: str) -> Path:
    """Compile an ELF file with two functions in place of a kernel."""
    (folder / "a.c").write_text(SOURCE)
    shape = ["-O1", "-fno-inline", "-nostdlib", "-static", "-no-pie", "-Wl,-e,outer"]
    subprocess.run(["gcc", *options, *shape, "a.c", "-o", "vmlinux"], cwd=folder, check=True)
    return folder / "vmlinux"


def none(path: str) -> bytes:
    raise HarnessError(f"There is no {path}.")


@pytest.mark.vm  # for the kernel source, not for a machine
def test_decoded_frames_have_their_lines(tmp_path: Path) -> None:
    store = Store()
    progress = Progress(store)
    source = apply.apply_series(store, progress, base.fetch(store, progress), None, tmp_path / "apply.log")
    text = decode.add_source_lines(TRACE, image(tmp_path, "-g"), source.content)
    assert text.startswith("# decoded by scripts/decode_stacktrace.sh of the tree under test\n")
    assert "RIP: 0010:inner (" in text
    assert f"outer ({tmp_path}/a.c:11)" in text
    assert text.endswith("---[ end trace 0000000000000000 ]---\n")


@pytest.mark.parametrize(
    ("options", "known", "why"),
    [
        (("-g",), True, "There is no scripts/decode_stacktrace.sh."),
        ((), True, "built without line numbers (`--kconfig vmimage/kconfig/lines.config` asks for them)"),
        ((), False, "the kernel was built elsewhere"),
    ],
)
def test_trace_that_cannot_be_decoded_says_why(
    tmp_path: Path, options: tuple[str, ...], known: bool, why: str
) -> None:
    vmlinux = image(tmp_path, *options) if known else None
    text = decode.add_source_lines(TRACE, vmlinux, none)
    assert text.startswith("# not decoded: ")
    assert why in text.splitlines()[0]
    assert text.endswith(f"\n{TRACE}\n")
