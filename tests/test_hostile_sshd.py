"""The connection to a guest whose sshd lies: every wait ends, and no answer takes all memory."""

from __future__ import annotations

import socket
import struct
import time

import paramiko
import pytest
from hostile_sshd import PIECE, ignores_window, listening, sshd

from harness.guest.shell import Shell
from harness.lib.errors import HarnessError
from harness.vm import ssh_limits
from harness.vm.ssh import Ssh, SshLostError, SshOutputError, SshTimeoutError, Stream
from harness.vm.ssh_keys import KeyPair

PATIENCE = 20.0  # seconds; reached only by a wall that does not stand
SOON = 0.5  # seconds of a deadline that has to end a wait


def log_in(port: int, timeout: float) -> Ssh:
    return Ssh(port, KeyPair.generate(), KeyPair.generate(), timeout)


def begin_key_exchange(transport: paramiko.Transport) -> None:
    """Have a server begin another key exchange, and never say a word again."""
    transport._send_kex_init()  # type: ignore[attr-defined]
    transport.packetizer.close()


def write_on(stream: Stream) -> None:
    for _ in range(1 << 20):
        stream.write(b"x")


class TestBeforeTheLogin:
    def test_endless_banner_ends_at_its_limit(self) -> None:
        sent = []

        def serve(connection: socket.socket) -> None:
            for _ in range(64 * ssh_limits.HANDSHAKE_LIMIT // len(PIECE)):
                sent.append(connection.send(b"x" * len(PIECE)))

        with listening(serve) as port, pytest.raises(SshLostError, match="bytes before the login"):
            log_in(port, PATIENCE)
        assert sum(sent) < 32 * ssh_limits.HANDSHAKE_LIMIT  # what the buffers of the sockets took

    def test_banner_that_trickles_ends_by_deadline(self) -> None:
        def serve(connection: socket.socket) -> None:
            while True:
                connection.send(b"x")
                time.sleep(0.01)

        with listening(serve) as port, pytest.raises(SshLostError, match="took more than"):
            log_in(port, SOON)

    def test_banner_lines_without_end_end_by_limit(self) -> None:
        def serve(connection: socket.socket) -> None:
            while True:
                connection.sendall(b"not ssh\r\n" * 1000)

        with listening(serve) as port, pytest.raises(SshLostError):
            log_in(port, PATIENCE)

    def test_banner_with_escapes_is_shown_harmless(self) -> None:
        def serve(connection: socket.socket) -> None:
            connection.sendall(b"SSH-\x1b]0;owned\x07-x\r\n")
            connection.recv(100)

        with listening(serve) as port, pytest.raises(SshLostError) as caught:
            log_in(port, PATIENCE)
        assert "owned" in str(caught.value)
        assert "\x1b" not in str(caught.value)

    @pytest.mark.parametrize("size", [0xFFFFFFF4, 0x7FFFFFFC, 12])
    def test_packet_of_a_lying_size_is_a_lost_connection(self, size: int) -> None:
        def serve(connection: socket.socket) -> None:
            connection.sendall(b"SSH-2.0-x\r\n" + struct.pack(">I", size) + PIECE)
            while connection.recv(1 << 16):
                pass

        with listening(serve) as port, pytest.raises(SshLostError):
            log_in(port, SOON)

    def test_another_host_key_is_refused(self) -> None:
        with sshd() as server, pytest.raises(SshLostError, match="Bad host key"):
            Ssh(server.port, server.user, KeyPair.generate(), PATIENCE)


class TestRun:
    def test_output_without_end_ends_at_its_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.vm.ssh.OUTPUT_LIMIT", 8 << 20)

        def answer(channel: paramiko.Channel) -> None:
            while True:
                channel.sendall(PIECE)

        with sshd(answer) as server, pytest.raises(SshOutputError, match="printed more than 8 MiB"):
            server.connect().run(["true"], PATIENCE)

    def test_output_that_never_pauses_ends_by_deadline(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            while True:
                channel.sendall(b"x" * 50)

        with sshd(answer) as server, pytest.raises(SshTimeoutError, match="did not end in the guest"):
            server.connect().run(["true"], SOON)

    def test_window_that_is_ignored_ends_the_connection(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            ignores_window(channel)
            for _ in range(4 * ssh_limits.WINDOW // len(PIECE)):
                channel.sendall(PIECE)
            channel.send_exit_status(0)
            channel.close()

        with sshd(answer) as server:
            guest = server.connect()
            stream = guest.stream(["true"], PATIENCE)
            stream.wait(PATIENCE)  # nobody reads
            assert not guest.alive()

    @pytest.mark.parametrize("ending", ["eof without status", "status without eof", "nothing"])
    def test_command_without_a_whole_end_ends_by_deadline(self, ending: str) -> None:
        def answer(channel: paramiko.Channel) -> None:
            channel.sendall(b"so far")
            if ending == "eof without status":
                channel.shutdown_write()
            if ending == "status without eof":
                channel.send_exit_status(0)
            time.sleep(PATIENCE)

        with sshd(answer) as server, pytest.raises(SshTimeoutError) as caught:
            server.connect().run(["true"], SOON)
        assert caught.value.stdout == b"so far"

    def test_input_that_is_never_taken_ends_by_deadline(self) -> None:
        with sshd(lambda channel: time.sleep(PATIENCE)) as server, pytest.raises(SshTimeoutError):
            server.connect().run(["true"], SOON, bytes(1 << 26))

    def test_unconfirmed_command_is_a_timeout(self) -> None:
        with sshd(confirm=False) as server, pytest.raises(SshTimeoutError, match="could not be started"):
            server.connect().run(["true"], SOON)

    def test_key_exchange_without_end_ends_by_deadline(self) -> None:
        with sshd() as server:
            guest = server.connect(SOON)
            stream = guest.stream(["true"], PATIENCE)
            begin_key_exchange(server.transports[0])
            with pytest.raises((SshLostError, SshTimeoutError)):
                write_on(stream)
            stream.close()
            guest.close()


class TestStream:
    def test_line_that_trickles_ends_by_deadline(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            while True:
                channel.sendall(b"x")
                time.sleep(0.0005)

        with sshd(answer) as server, pytest.raises(SshTimeoutError, match="did not end its line") as caught:
            server.connect().stream(["true"], PATIENCE).read_line(SOON)
        assert caught.value.stdout.startswith(b"x")

    def test_line_without_end_ends_at_its_limit(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            while True:
                channel.sendall(PIECE)

        with sshd(answer) as server, pytest.raises(SshOutputError, match="without a newline"):
            server.connect().stream(["true"], PATIENCE).read_line(PATIENCE, 1 << 20)

    def test_write_into_a_window_that_trickles_ends_by_deadline(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            while channel.recv(1):
                time.sleep(0.01)

        with sshd(answer) as server, pytest.raises(SshTimeoutError, match="has not read its input"):
            server.connect().stream(["true"], PATIENCE).write(bytes(1 << 25), SOON)

    def test_lines_without_end_end_a_script_by_deadline(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            while True:
                channel.sendall(b"x\n" * 1000)

        with sshd(answer) as server, pytest.raises(SshTimeoutError, match="did not end in the guest"):
            Shell(server.connect()).run("true", [], SOON)

    def test_lines_without_end_end_a_script_at_its_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.guest.shell.OUTPUT_LIMIT", 1 << 20)

        def answer(channel: paramiko.Channel) -> None:
            while True:
                channel.sendall(b"x" * 9999 + b"\n")

        with sshd(answer) as server, pytest.raises(SshOutputError, match="printed more than"):
            Shell(server.connect()).run("true", [], PATIENCE)

    def test_script_with_a_status_that_is_no_number_is_an_error(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            text = b""
            while b"printf" not in text:
                text += channel.recv(1 << 16)
            nonce = text.partition(b"printf '\\n")[2].partition(b"\\n")[0]
            channel.sendall(b"\n%s\n\n%s %s\n" % (nonce, nonce, b"9" * 5000))

        with sshd(answer) as server, pytest.raises(HarnessError, match="reported no exit status"):
            Shell(server.connect()).run("true", [], PATIENCE)


class TestPut:
    @pytest.mark.parametrize(
        "packets",
        [
            b"",  # says nothing and goes
            struct.pack(">IB", 1 << 23, 2) + PIECE,  # a version of 8 MiB that never comes
            struct.pack(">IB", 5, 2) + b"\0\0\0\3" + struct.pack(">IB", 2, 101) + b"\0",  # a short status
            struct.pack(">IB", 5, 2) + b"\0\0\0\3" + struct.pack(">IBI", 5, 200, 1),  # an unknown kind
            struct.pack(">IB", 5, 2) + b"\0\0\0\3" + struct.pack(">IBIII", 13, 101, 1, 99, 1 << 30),
            struct.pack(">IB", 5, 7) + b"\0\0\0\3",  # no version
            b"\xff" * 4096,
        ],
    )
    def test_server_that_lies_is_an_error_of_the_harness(self, packets: bytes) -> None:
        def answer(channel: paramiko.Channel) -> None:
            channel.recv(9)  # the client's version: the channel is up
            channel.sendall(packets)
            channel.close()

        with sshd(answer) as server, pytest.raises(HarnessError, match="could not be written"):
            server.connect().put(b"content", "/tmp/x", timeout=PATIENCE)

    def test_answer_that_trickles_ends_by_deadline(self) -> None:
        def answer(channel: paramiko.Channel) -> None:
            channel.sendall(struct.pack(">IB", 1 << 20, 2))
            while True:
                channel.sendall(b"x")
                time.sleep(0.01)

        with sshd(answer) as server, pytest.raises(SshTimeoutError, match="could not be written"):
            server.connect().put(b"content", "/tmp/x", timeout=SOON)

    def test_reason_with_escapes_is_shown_harmless(self) -> None:
        reason = b"\x1b[2Jowned"

        def answer(channel: paramiko.Channel) -> None:
            body = struct.pack(">BIII", 101, 1, 4, len(reason)) + reason + struct.pack(">I", 0)
            channel.sendall(struct.pack(">IB", 5, 2) + b"\0\0\0\3")
            channel.sendall(struct.pack(">I", len(body)) + body)
            time.sleep(PATIENCE)

        with sshd(answer) as server, pytest.raises(HarnessError, match="owned") as caught:
            server.connect().put(b"content", "/tmp/x", timeout=PATIENCE)
        assert "\x1b" not in str(caught.value)
