"""The connection to the guest: one SSH connection with many channels.

All keys are made for one run.  The guest accepts only the harness's key, and the
harness knows the guest's host key in advance.
"""

from __future__ import annotations

import io
import selectors
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from harness.lib.errors import HarnessError, PatchproofError

USER = "root"
_CHUNK = 65536
_WINDOW = 1 << 24  # bytes in flight, so that a large reply needs no round trips
# The cheapest secure algorithms that both ends offer; under emulation they save noticeable time.
_KEX = ("curve25519-sha256@libssh.org",)
_CIPHERS = ("aes128-gcm@openssh.com", "aes128-ctr")


class SshLostError(PatchproofError):
    """The connection broke or cannot be made: the guest or its network died."""


class SshTimeoutError(PatchproofError):
    """A command did not end in time; ``stdout`` and ``stderr`` are its output until then."""

    def __init__(self, message: str, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key: ``private`` as OpenSSH's PEM file, ``public`` as ``ssh-ed25519 AAAA...``."""

    private: str
    public: str

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new key."""
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        loaded = paramiko.Ed25519Key(file_obj=io.StringIO(pem))
        return cls(pem, f"{loaded.get_name()} {loaded.get_base64()}")

    def load(self) -> paramiko.PKey:
        """Return the key as an object of paramiko's."""
        return paramiko.Ed25519Key(file_obj=io.StringIO(self.private))


@dataclass(frozen=True)
class Completed:
    """A command that has ended.  A ``status`` of -1 means that a signal ended it."""

    status: int
    stdout: bytes
    stderr: bytes


class Stream:
    """The input and output of a running command in the guest, read line by line."""

    def __init__(self, channel: paramiko.Channel, command: str) -> None:
        self.command = command
        self._channel = channel
        self._buffer = b""

    def write(self, data: bytes, timeout: float = 10.0) -> None:
        """Write ``data`` to the command's standard input.  Raises SshLostError, SshTimeoutError."""
        self._channel.settimeout(timeout)
        try:
            self._channel.sendall(data)
        except TimeoutError as error:
            raise SshTimeoutError(f"`{self.command}` has not read its input for {timeout:.0f} s.") from error
        except OSError as error:
            raise SshLostError(f"`{self.command}` has gone away: {error}") from error

    def read_line(self, timeout: float, limit: int = 1 << 20) -> bytes:
        """Return the next line of the command's standard output, without the newline.

        Raises EOFError when the command has closed its output, SshTimeoutError after
        ``timeout`` seconds or for a line of more than ``limit`` bytes.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if len(self._buffer) > limit:
                raise SshTimeoutError(f"`{self.command}` printed more than {limit} bytes without a newline.")
            self._channel.settimeout(_seconds_left(deadline) + 0.001)
            try:
                data = self._channel.recv(_CHUNK)
            except TimeoutError as error:
                raise SshTimeoutError(
                    f"`{self.command}` printed nothing for {timeout:.0f} s.", self._buffer
                ) from error
            if not data:
                raise EOFError(f"`{self.command}` has closed its output.")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def running(self) -> bool:
        """Return whether no end of the command was reported yet."""
        return not self._channel.closed and not self._channel.exit_status_ready()

    def read_errors(self) -> bytes:
        """Return the standard error that arrived since the last call; does not wait."""
        parts = []
        while self._channel.recv_stderr_ready():
            parts.append(self._channel.recv_stderr(_CHUNK))
        return b"".join(parts)

    def end_input(self) -> None:
        """Close the command's standard input."""
        self._channel.shutdown_write()

    def wait(self, timeout: float) -> int:
        """Wait for the command's end and return its exit status, -1 for a signal.  Raises SshTimeoutError."""
        if not self._channel.status_event.wait(timeout):
            raise SshTimeoutError(f"`{self.command}` did not end within {timeout:.0f} s.")
        return self._channel.exit_status

    def close(self) -> None:
        """Close the channel; a command that reads its input sees its end."""
        self._channel.close()


class Ssh:
    """The connection to the guest's sshd at ``127.0.0.1:port``.

    Raises SshLostError if the guest does not answer, has another host key than
    ``host``, or rejects the key ``user``, within ``timeout`` seconds for each step.
    """

    def __init__(self, port: int, user: KeyPair, host: KeyPair, timeout: float) -> None:
        self.port = port
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        except OSError as error:
            raise SshLostError(f"The guest cannot be reached on port {port}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = paramiko.Transport(
            self._socket, default_window_size=_WINDOW, default_max_packet_size=_CHUNK
        )
        self._transport.daemon = True
        self._transport.banner_timeout = timeout
        self._transport.handshake_timeout = timeout
        self._transport.auth_timeout = timeout
        options = self._transport.get_security_options()
        options.kex = _KEX
        options.ciphers = _CIPHERS
        try:
            self._transport.connect(hostkey=host.load(), username=USER, pkey=user.load())
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._transport.close()
            raise SshLostError(f"The guest's sshd cannot be logged into: {error or 'it hung up'}") from error

    def alive(self) -> bool:
        """Return whether the connection still stands."""
        return self._transport.is_active()

    def run(self, argv: Sequence[str], timeout: float, stdin: bytes = b"") -> Completed:
        """Run a command in the guest to its end, with ``stdin`` as its standard input.

        Raises SshTimeoutError after ``timeout`` seconds (the command may still be
        running), SshLostError if the connection breaks.
        """
        deadline = time.monotonic() + timeout
        command = shlex.join(argv)
        channel = self._execute(command, timeout)
        writer = threading.Thread(target=_write_input, args=(channel, stdin), daemon=True)
        writer.start()
        output: tuple[list[bytes], list[bytes]] = ([], [])
        try:
            complete = self._collect(channel, output, deadline)
            if not complete or not channel.status_event.wait(_seconds_left(deadline)):
                raise SshTimeoutError(
                    f"`{command}` did not end in the guest within {timeout:.0f} s.",
                    b"".join(output[0]),
                    b"".join(output[1]),
                )
            # Without an exit status either a signal ended it or the connection is gone.
            if channel.exit_status == -1 and not self._transport.is_active():
                raise SshLostError(f"The connection broke while `{command}` was running in the guest.")
            return Completed(channel.exit_status, b"".join(output[0]), b"".join(output[1]))
        finally:
            channel.close()
            writer.join()

    def stream(self, argv: Sequence[str], timeout: float = 10.0) -> Stream:
        """Start a command in the guest and return its streams.  Raises SshLostError, SshTimeoutError."""
        command = shlex.join(argv)
        return Stream(self._execute(command, timeout), command)

    def put(
        self, content: bytes | Path, remote: PurePosixPath | str, mode: int = 0o644, timeout: float = 30.0
    ) -> None:
        """Write a file in the guest, with these permission bits.

        Raises HarnessError if the guest refuses; SshLostError, SshTimeoutError.
        """
        data = content.read_bytes() if isinstance(content, Path) else content
        # sshd serves SFTP itself; starting a program such as `cat` takes ten times as long.
        channel = self._open("sftp", timeout, lambda channel: channel.invoke_subsystem("sftp"))
        try:
            with paramiko.SFTPClient(channel) as sftp:
                with sftp.open(str(remote), "wb") as stream:
                    stream.set_pipelined(True)
                    stream.write(data)
                sftp.chmod(str(remote), mode)
        except TimeoutError as error:
            raise SshTimeoutError(
                f"{remote} could not be written in the guest within {timeout:.0f} s."
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self._transport.is_active():
                raise HarnessError(f"The file {remote} could not be written in the guest: {error}") from error
            raise SshLostError(f"The connection broke while {remote} was written in the guest.") from error

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _execute(self, command: str, timeout: float) -> paramiko.Channel:
        # `exec` leaves no shell in between, so sshd reports a signal that ends the command.
        return self._open(command, timeout, lambda channel: channel.exec_command(f"exec {command}"))

    def _open(
        self, name: str, timeout: float, request: Callable[[paramiko.Channel], object]
    ) -> paramiko.Channel:
        """Open a channel and make ``request`` on it.  Raises SshLostError, SshTimeoutError."""
        deadline = time.monotonic() + timeout
        try:
            channel = self._transport.open_session(timeout=timeout)
            channel.settimeout(timeout)
            # paramiko waits for the answer to a request without a timeout; closing the channel ends that.
            close_timer = threading.Timer(_seconds_left(deadline), channel.close)
            close_timer.daemon = True
            close_timer.start()
            try:
                request(channel)
            finally:
                close_timer.cancel()
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self._transport.is_active():  # paramiko has no error for a timeout here
                raise SshTimeoutError(f"`{name}` could not be started within {timeout:.0f} s.") from error
            raise SshLostError(
                f"`{name}` could not be started in the guest: {error or 'it hung up'}"
            ) from error
        return channel

    @staticmethod
    def _collect(channel: paramiko.Channel, output: tuple[list[bytes], list[bytes]], deadline: float) -> bool:
        """Read all output until it ends (True) or the deadline has passed (False)."""
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            while True:
                ended = channel.closed or channel.eof_received
                while channel.recv_ready():
                    output[0].append(channel.recv(_CHUNK))
                while channel.recv_stderr_ready():
                    output[1].append(channel.recv_stderr(_CHUNK))
                if ended:
                    return True
                selector.select(_seconds_left(deadline))
                if time.monotonic() >= deadline:
                    return False


def _seconds_left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _write_input(channel: paramiko.Channel, data: bytes) -> None:
    try:
        if data:
            channel.sendall(data)
        channel.shutdown_write()
    except OSError:
        pass  # the command has ended without reading all input; its status shows why
