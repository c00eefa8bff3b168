"""Files of the guest in steps, done by the guest's program on this host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_shell import LocalConnection

from harness.guest import files
from harness.guest.files import Files, Step, StepFailedError
from harness.lib.errors import HarnessError
from harness.lib.paths import VMIMAGE
from harness.vm.image import CFLAGS
from harness.vm.ssh import SshTimeoutError

PATIENCE = 20.0
SOON = 0.3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, compiled as for the guest."""
    made = tmp_path_factory.mktemp("files") / "files"
    subprocess.run(["gcc", *CFLAGS, "-o", made, VMIMAGE / "files.c"], check=True)
    return str(made)


@pytest.fixture
def connection() -> Iterator[LocalConnection]:
    made = LocalConnection()
    yield made
    for one in made.started:
        one.close()


@pytest.fixture
def guest_files(connection: LocalConnection, program: str) -> Files:
    return Files(connection, program)  # type: ignore[arg-type]


def test_steps_are_done_in_order(guest_files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    steps = [
        files.read(str(path)),
        files.write(str(path), "a b  c"),
        files.read(str(path)),
        files.present(str(path)),
        files.absent(f"{path}2"),
        files.read(f"{path}2", may_lack=True),
        files.write(f"{path}2", "x", may_lack=True),
    ]
    assert guest_files.do(steps, PATIENCE) == [b"before", b"", b"a b  c\n", b"", b"", None, None]
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"\\n\n\\\t!=-\0", b"x\n" * 100_000])
def test_content_arrives_as_it_is(guest_files: Files, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert guest_files.do([files.read(str(path))] * 2, PATIENCE) == [content] * 2


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (files.read("/nonexistent"), "/nonexistent: No such file or directory"),
        (files.read("/"), "/: Is a directory"),
        (files.write("/nonexistent", "x"), "/nonexistent: No such file or directory"),
        (files.write("/dev/full", "x"), "/dev/full: No space left on device"),
        (files.present("/nonexistent"), "/nonexistent: No such file or directory"),
        (files.absent("/dev/null"), "/dev/null: File exists"),
        (Step("x /dev/null"), "/dev/null: Invalid argument"),
        (Step(""), ": Invalid argument"),
    ],
)
def test_step_that_fails_ends_the_steps(
    guest_files: Files, connection: LocalConnection, tmp_path: Path, step: Step, reason: str
) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    for _ in range(2):
        with pytest.raises(StepFailedError) as caught:
            guest_files.do([files.present("/dev/null"), step, files.write(str(path), "after")], PATIENCE)
        assert caught.value.reason == reason
    assert path.read_text() == "before"
    assert len(connection.started) == 1


@pytest.mark.parametrize("word", ["/a\tb", "/a\nb"])
def test_step_with_a_separator_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="no tabs and newlines"):
        files.read(word)


def test_step_that_hangs_costs_one_program(
    guest_files: Files, connection: LocalConnection, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SshTimeoutError, match="did not end in the guest within"):
        guest_files.do([files.read(str(tmp_path / "fifo"))], SOON)
    assert guest_files.do([files.present("/dev/null")], PATIENCE) == [b""]
    assert len(connection.started) == 2


@pytest.mark.parametrize("reply", ["x", "=", "=a\\t=b\\t=c\\t", "?\\t=\\t", "=\\\\x\\t=\\t", "=\\t=\\tx", ""])
def test_reply_of_another_kind_is_an_error(connection: LocalConnection, tmp_path: Path, reply: str) -> None:
    liar = tmp_path / "liar"
    liar.write_text(f"#!/bin/sh\nread x; printf '{reply}\\n'; sleep 1\n")
    liar.chmod(0o755)
    guest_files = Files(connection, str(liar))  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match="program for files answered"):
        guest_files.do([files.present("/dev/null")] * 2, PATIENCE)


def test_program_that_ends_is_an_error(connection: LocalConnection) -> None:
    with pytest.raises(HarnessError, match="program for files ended while it ran `p /dev/null`"):
        Files(connection, "true").do([files.present("/dev/null")], PATIENCE)  # type: ignore[arg-type]
