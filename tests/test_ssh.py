"""Commands in a real guest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
import real

from harness.lib.errors import HarnessError
from harness.vm import machine
from harness.vm.machine import Machine
from harness.vm.ssh import Ssh, SshLostError, SshOutputError, SshTimeoutError
from harness.vm.ssh_keys import KeyPair

pytestmark = pytest.mark.vm

PATIENCE = 60.0  # seconds; nothing here takes more than a few


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine.boot(
        real.base_kernel().bzimage,
        real.guest_image(),
        run_dir=tmp_path_factory.mktemp("run"),
        accelerator=real.accelerator(),
    ) as booted:
        yield booted


def test_run_passes_arguments_unchanged(guest: Machine) -> None:
    argv = ["printf", "%s|", "a b", "", "$HOME", "it's", '"', "*", "ä\n", ";reboot"]
    done = guest.ssh.run(argv, PATIENCE)
    assert done.status == 0
    assert done.stdout.decode() == "".join(f"{one}|" for one in argv[2:])


def test_run_separates_status_output_and_errors(guest: Machine) -> None:
    done = guest.ssh.run(["sh", "-c", "echo out; echo err >&2; exit 7"], PATIENCE)
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_run_of_a_killed_command_has_status_minus_one(guest: Machine) -> None:
    assert guest.ssh.run(["sh", "-c", "kill -9 $$"], PATIENCE).status == -1


def test_run_with_megabytes_both_ways_does_not_block(guest: Machine) -> None:
    data = bytes(range(256)) * 16384
    program = """
import os
while piece := os.read(0, 65536):
    for fd in (1, 2):
        rest = piece
        while rest:
            rest = rest[os.write(fd, rest) :]
"""
    done = guest.ssh.run(["python3", "-c", program], PATIENCE, data)
    assert done.stdout == data
    assert done.stderr == data


def test_run_with_unread_input_is_no_error(guest: Machine) -> None:
    assert guest.ssh.run(["true"], PATIENCE, bytes(1 << 25)).status == 0


def test_run_past_its_timeout_keeps_the_output(guest: Machine) -> None:
    with pytest.raises(SshTimeoutError, match=r"did not end in the guest within 1 s") as caught:
        guest.ssh.run(["sh", "-c", "echo so far; sleep 100"], 1.0)
    assert caught.value.stdout == b"so far\n"
    assert guest.ssh.run(["true"], PATIENCE).status == 0


def test_run_with_closed_output_is_given_up(guest: Machine) -> None:
    with pytest.raises(SshTimeoutError):
        guest.ssh.run(["sh", "-c", "exec >&- 2>&-; sleep 100"], 1.0)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_put_writes_content_and_mode(guest: Machine, tmp_path: Path, size: int) -> None:
    local = tmp_path / "file"
    local.write_bytes(bytes(range(251)) * (size // 251) + bytes(size % 251))
    guest.ssh.put(local, "/tmp/it's here", 0o751)
    done = guest.ssh.run(["sh", "-c", 'cat "/tmp/it\'s here"; stat -c %a "/tmp/it\'s here" >&2'], PATIENCE)
    assert done.stdout == local.read_bytes()
    assert done.stderr == b"751\n"


def test_put_to_a_missing_folder_is_an_error(guest: Machine) -> None:
    with pytest.raises(HarnessError, match=r"/nowhere/x could not be written.*No such file"):
        guest.ssh.put(b"x", "/nowhere/x")


def test_stream_is_read_line_by_line(guest: Machine) -> None:
    stream = guest.ssh.stream(["sh", "-c", "while read x; do echo got $x; echo note >&2; done; exit 3"])
    for number in range(3):
        stream.write(b"%d\n" % number)
        assert stream.read_line(PATIENCE) == b"got %d" % number
    with pytest.raises(SshTimeoutError, match="printed nothing"):
        stream.read_line(0.2)
    stream.write(b"more\n")
    assert stream.read_line(PATIENCE) == b"got more"
    stream.end_input()
    with pytest.raises(EOFError):
        stream.read_line(PATIENCE)
    assert stream.wait(PATIENCE) == 3
    assert stream.read_errors() == b"note\n" * 4
    stream.close()


def test_stream_refuses_an_endless_line(guest: Machine) -> None:
    stream = guest.ssh.stream(["sh", "-c", "tr '\\0' x </dev/zero"])
    with pytest.raises(SshOutputError, match="without a newline"):
        stream.read_line(PATIENCE)
    stream.close()


def test_streams_work_in_parallel(guest: Machine) -> None:
    streams = [guest.ssh.stream(["cat"]) for _ in range(30)]
    for number, stream in enumerate(streams):
        stream.write(b"%d\n" % number)
    assert [int(stream.read_line(PATIENCE)) for stream in streams] == list(range(30))
    for stream in streams:
        stream.close()


def test_stopped_guest_is_a_timeout(guest: Machine) -> None:
    guest.monitor.execute("stop")
    try:
        with pytest.raises(SshTimeoutError, match="could not be started within 1 s"):
            guest.ssh.run(["true"], 1.0)
        with pytest.raises(SshTimeoutError, match="could not be started within 1 s"):
            guest.ssh.put(b"x", "/tmp/x", timeout=1.0)
    finally:
        guest.monitor.execute("cont")
    assert guest.ssh.run(["true"], PATIENCE).status == 0


def test_guest_stopped_after_channel_open_is_a_timeout(
    guest: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    exec_command = paramiko.Channel.exec_command

    def stop_and_execute(channel: paramiko.Channel, line: str) -> None:
        guest.monitor.execute("stop")
        exec_command(channel, line)

    try:
        with monkeypatch.context() as stopping:
            stopping.setattr(paramiko.Channel, "exec_command", stop_and_execute)
            with pytest.raises(SshTimeoutError, match="could not be started within 2 s"):
                guest.ssh.run(["true"], 2.0)
    finally:
        guest.monitor.execute("cont")
    assert guest.ssh.run(["true"], PATIENCE).status == 0


def test_guest_with_another_key_is_not_trusted(guest: Machine) -> None:
    with pytest.raises(SshLostError, match="cannot be logged into"):
        Ssh(guest.ssh.port, guest.user_key, KeyPair.generate(), PATIENCE)


def test_login_with_another_key_is_refused(guest: Machine) -> None:
    with pytest.raises(SshLostError, match="cannot be logged into"):
        Ssh(guest.ssh.port, KeyPair.generate(), guest.host_key, PATIENCE)


def test_port_without_a_listener_is_an_error() -> None:
    with pytest.raises(SshLostError, match="cannot be reached on port 1"):
        Ssh(1, KeyPair.generate(), KeyPair.generate(), 1.0)


def test_ssh_line_works_without_a_question(guest: Machine) -> None:
    done = subprocess.run(
        [*guest.ssh_line.split(), "-o", "BatchMode=yes", "uname", "-r"],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.decode().strip() == real.base_kernel().release
    assert (guest.run_dir / "id_ed25519").stat().st_mode & 0o077 == 0


def test_broken_connection_is_lost(guest: Machine) -> None:
    other = Ssh(guest.ssh.port, guest.user_key, guest.host_key, PATIENCE)
    parent = other.run(["sh", "-c", "echo $PPID"], PATIENCE).stdout.decode().strip()
    with pytest.raises(SshLostError, match="broke"):
        other.run(["sh", "-c", f"kill -9 {parent}; sleep 100"], PATIENCE)
    assert not other.alive()
    assert guest.ssh.alive()
    other.close()
