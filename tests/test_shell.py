"""The guest's persistent shell, with a real shell on the host."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from actors import Local

from harness.guest.shell import Shell
from harness.lib.errors import HarnessError
from harness.vm.ssh import SshLostError, SshTimeoutError


class LocalProgram(Local):
    """A program that close() kills together with its children, as the end of an SSH channel does."""

    def close(self) -> None:
        for pid in [*children(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().close()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


class LocalConnection:
    """A connection that starts its programs on this host in place of the guest."""

    def __init__(self) -> None:
        self.started: list[LocalProgram] = []
        self.connected = True

    def stream(self, argv: Sequence[str], timeout: float) -> LocalProgram:
        self.started.append(LocalProgram(list(argv)))
        return self.started[-1]

    def alive(self) -> bool:
        return self.connected


@pytest.fixture
def connection() -> Iterator[LocalConnection]:
    connection = LocalConnection()
    yield connection
    for program in connection.started:
        program.close()


@pytest.fixture
def shell(connection: LocalConnection, tmp_path: Path) -> Shell:
    return Shell(connection, str(tmp_path / "errors"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("printf a", (0, b"a", b"")),
        ("echo a; echo; echo b", (0, b"a\n\nb\n", b"")),
        ("echo out; echo why >&2; exit 3", (3, b"out\n", b"why\n")),
        ("set -e; false; echo no", (1, b"", b"")),
        ("kill -9 $(exec sh -c 'echo $PPID')", (137, b"", b"")),
        ("cat; cd /; x=1", (0, b"", b"")),
        ('printf "%s|" "$@"', (0, b"a b|c'd|$HOME|", b"")),
    ],
)
def test_script_has_its_own_status_and_output(
    shell: Shell, script: str, said: tuple[int, bytes, bytes]
) -> None:
    done = shell.run(script, ["a b", "c'd", "$HOME"], 10)
    assert (done.status, done.stdout, done.stderr) == said


def test_shell_serves_scripts_that_do_not_interfere(connection: LocalConnection, shell: Shell) -> None:
    shell.run("cd /; umask 0; x=1; set -f; exec 1>&-", [], 10)
    assert shell.run('echo "$x$#"', [], 10).stdout == b"0\n"
    assert len(connection.started) == 1


def test_script_that_hangs_costs_one_shell(connection: LocalConnection, shell: Shell) -> None:
    with pytest.raises(SshTimeoutError, match="begins with `sleep 1000`"):
        shell.run("sleep 1000", [], 0.2)
    assert shell.run("echo on", [], 10).stdout == b"on\n"
    assert len(connection.started) == 2


def test_ended_shell_differs_from_a_lost_guest(connection: LocalConnection, shell: Shell) -> None:
    with pytest.raises(HarnessError, match="The guest's shell ended while it ran `kill"):
        shell.run("kill -9 $$", [], 10)
    connection.connected = False
    with pytest.raises(SshLostError):
        shell.run("kill -9 $$", [], 10)
