"""The output of make: the culprit of a failure, its lines, and warnings by object."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness.kernel.make_output import Output, without_position
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, ExitCode, HarnessError

DATA = Path(__file__).parent / "data" / "kbuild"
SOURCE = Path("/cache/workbench/src")


def recorded(name: str) -> Output:
    """Read the recorded output of a build as that of a running one."""
    output = Output(SOURCE)
    for line in (DATA / f"{name}.log").read_text().splitlines():
        output.line(line)
    return output


# Recorded build, the error that it is, and a line that the error must show.
FAILURES = [
    (
        "compile-error",
        BuildError,
        "vfio_pci_dmabuf.c:20:1: error: expected specifier-qualifier-list before 'static'",
    ),
    (
        "undefined-reference",
        BuildError,
        "vfio_pci_dmabuf.c:(.text+0x721): undefined reference to `vfio_nowhere'",
    ),
    ("kconfig-syntax", BuildError, 'drivers/vfio/pci/Kconfig:58: unknown statement "confg"'),
    ("no-rule", BuildError, "No rule to make target 'drivers/vfio/pci/not_there.o'"),
    ("missing-header", BuildError, "fatal error: linux/not-there.h: No such file or directory"),
    ("no-space-configure", HarnessError, "No space left on device"),
    ("no-space-compile", HarnessError, "pci.c:6726:1: fatal error: closing dependency file"),
    ("no-space-ar", HarnessError, "reason: No space left on device"),
    ("no-space-fixdep", HarnessError, "fixdep: not all data was written"),
    ("compiler-killed", HarnessError, "Killed signal terminated program cc1"),
    ("no-memory", HarnessError, "cc1: out of memory"),
    ("no-flex", HarnessError, "flex: not found"),
]


@pytest.mark.parametrize(("name", "kind", "line"), FAILURES, ids=[name for name, *_ in FAILURES])
def test_failure_names_the_culprit_and_its_lines(
    name: str, kind: type[BuildError | HarnessError], line: str
) -> None:
    log = Path("build.log")
    error = recorded(name).failure(CommandError(["make"], 2, log, "the tail"), "build")
    assert type(error) is kind
    assert error.exit_code == (ExitCode.SERIES if kind is BuildError else ExitCode.HARNESS)
    assert line in error.tail
    assert error.log == log


def test_failure_without_a_known_line_shows_the_tail() -> None:
    error = Output(SOURCE).failure(CommandError(["make"], 2, None, "something odd"), "build")
    assert isinstance(error, BuildError)
    assert error.tail == "something odd"


def test_failure_of_a_killed_make_is_a_harness_error() -> None:
    error = recorded("compile-error").failure(CommandError(["make"], -signal.SIGKILL, None, ""), "build")
    assert isinstance(error, HarnessError)


def test_failure_shows_ten_errors_and_counts_the_rest() -> None:
    output = Output(SOURCE)
    for number in range(25):
        output.line(f"drivers/a.c:{number}:1: error: no")
    error = output.failure(CommandError(["make"], 2, None, ""), "build")
    assert error.message == "The build failed with 25 errors."
    assert error.tail.splitlines()[-1] == "... and 15 more errors"


def test_error_directive_cannot_blame_the_machine() -> None:
    output = Output(SOURCE)
    output.line("drivers/a.c:1:2: error: #error foo: No space left on device")
    assert isinstance(output.failure(CommandError(["make"], 2, None, ""), "build"), BuildError)


def test_warnings_belong_to_the_object_that_was_made() -> None:
    output = recorded("warning")
    assert output.warnings["drivers/vfio/pci/vfio_pci_dmabuf.o"] == [
        "drivers/vfio/pci/vfio_pci_dmabuf.c:363:12: warning: 'unused_thing' defined but not used "
        "[-Wunused-function]"
    ]
    assert output.warnings["vmlinux.o"] == []


def test_unplaced_forgets_lines_and_offsets() -> None:
    assert without_position("drivers/a.c:363:12: warning: odd") == "drivers/a.c: warning: odd"
    assert (
        without_position("vmlinux.o: warning: objtool: f+0x1f: odd") == "vmlinux.o: warning: objtool: f: odd"
    )
