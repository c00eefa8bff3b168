"""The way into the guest: one SSH connection, many channels.

The keys are made for one run: the guest lets in ours and nobody else, and we
know its host key before we meet it.
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
_WINDOW = 1 << 24  # bytes in flight: what a scenario prints comes in one piece
# The cheapest that both ends have and that is sound; emulated processors feel the difference.
_KEX = ("curve25519-sha256@libssh.org",)
_CIPHERS = ("aes128-gcm@openssh.com", "aes128-ctr")


class SshLostError(PatchproofError):
    """The connection is gone or cannot be made: the guest died, or its network did."""


class SshTimeoutError(PatchproofError):
    """A command did not end in time.  What it said until then is in ``stdout`` and ``stderr``."""

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
        """A new key."""
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        loaded = paramiko.Ed25519Key(file_obj=io.StringIO(pem))
        return cls(pem, f"{loaded.get_name()} {loaded.get_base64()}")

    def load(self) -> paramiko.PKey:
        """The key as paramiko wants it."""
        return paramiko.Ed25519Key(file_obj=io.StringIO(self.private))


@dataclass(frozen=True)
class Completed:
    """A command that has ended.  A ``status`` of -1 means that a signal ended it."""

    status: int
    stdout: bytes
    stderr: bytes


class Stream:
    """A running command in the guest that is talked to line by line."""

    def __init__(self, channel: paramiko.Channel, what: str) -> None:
        self.what = what
        self._channel = channel
        self._buffer = b""

    def write(self, data: bytes, timeout: float = 10.0) -> None:
        """Send ``data`` to its standard input.  Raises SshLostError, SshTimeoutError."""
        self._channel.settimeout(timeout)
        try:
            self._channel.sendall(data)
        except TimeoutError as error:
            raise SshTimeoutError(f"`{self.what}` has not read its input for {timeout:.0f} s.") from error
        except OSError as error:
            raise SshLostError(f"`{self.what}` has gone away: {error}") from error

    def read_line(self, timeout: float, limit: int = 1 << 20) -> bytes:
        """The next line of its standard output, without the newline.

        Raises EOFError when it has closed its output, SshTimeoutError after
        ``timeout`` seconds or for a line of more than ``limit`` bytes.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if len(self._buffer) > limit:
                raise SshTimeoutError(f"`{self.what}` said {limit} bytes without a newline.")
            self._channel.settimeout(_left(deadline) + 0.001)
            try:
                data = self._channel.recv(_CHUNK)
            except TimeoutError as error:
                raise SshTimeoutError(
                    f"`{self.what}` has said nothing for {timeout:.0f} s.", self._buffer
                ) from error
            if not data:
                raise EOFError(f"`{self.what}` has closed its output.")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def running(self) -> bool:
        """Whether it has not ended yet, as far as was heard."""
        return not self._channel.closed and not self._channel.exit_status_ready()

    def read_errors(self) -> bytes:
        """What it has said on its standard error since this was last asked; does not wait."""
        parts = []
        while self._channel.recv_stderr_ready():
            parts.append(self._channel.recv_stderr(_CHUNK))
        return b"".join(parts)

    def end_input(self) -> None:
        """Close its standard input."""
        self._channel.shutdown_write()

    def wait(self, timeout: float) -> int:
        """Its exit status, -1 for a signal.  Raises SshTimeoutError."""
        if not self._channel.status_event.wait(timeout):
            raise SshTimeoutError(f"`{self.what}` did not end within {timeout:.0f} s.")
        return self._channel.exit_status

    def close(self) -> None:
        """Hang up; a command that reads its input sees the end of it."""
        self._channel.close()


class Ssh:
    """The connection to the guest's sshd at ``127.0.0.1:port``.

    Raises SshLostError if the guest does not answer, is not the one whose key is
    ``host``, or does not let ``user`` in, within ``timeout`` seconds each.
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
        """Whether the connection still stands."""
        return self._transport.is_active()

    def run(self, argv: Sequence[str], timeout: float, stdin: bytes = b"") -> Completed:
        """Run a command in the guest to its end, with ``stdin`` as its input.

        Raises SshTimeoutError after ``timeout`` seconds (the command may still be
        running), SshLostError if the connection breaks.
        """
        deadline = time.monotonic() + timeout
        what = shlex.join(argv)
        channel = self._execute(what, timeout)
        feeder = threading.Thread(target=_feed, args=(channel, stdin), daemon=True)
        feeder.start()
        output: tuple[list[bytes], list[bytes]] = ([], [])
        try:
            if not self._collect(channel, output, deadline) or not channel.status_event.wait(_left(deadline)):
                raise SshTimeoutError(
                    f"`{what}` did not end in the guest within {timeout:.0f} s.",
                    b"".join(output[0]),
                    b"".join(output[1]),
                )
            # Without an exit status either a signal ended it or the connection is gone.
            if channel.exit_status == -1 and not self._transport.is_active():
                raise SshLostError(f"The connection broke while `{what}` was running in the guest.")
            return Completed(channel.exit_status, b"".join(output[0]), b"".join(output[1]))
        finally:
            channel.close()
            feeder.join()

    def stream(self, argv: Sequence[str], timeout: float = 10.0) -> Stream:
        """Start a command in the guest and talk to it.  Raises SshLostError."""
        what = shlex.join(argv)
        return Stream(self._execute(what, timeout), what)

    def put(
        self, content: bytes | Path, remote: PurePosixPath | str, mode: int = 0o644, timeout: float = 30.0
    ) -> None:
        """Write a file in the guest.

        Raises HarnessError if the guest refuses, SshLostError, SshTimeoutError.
        """
        data = content.read_bytes() if isinstance(content, Path) else content
        # sshd serves SFTP without starting a program: ten times as fast as `cat`.
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
        """Hang up."""
        self._transport.close()

    def _execute(self, what: str, timeout: float) -> paramiko.Channel:
        # Without a shell in between, a signal that ends the command is seen as one.
        return self._open(what, timeout, lambda channel: channel.exec_command(f"exec {what}"))

    def _open(
        self, what: str, timeout: float, request: Callable[[paramiko.Channel], object]
    ) -> paramiko.Channel:
        """A channel for which the guest has granted ``request``."""
        deadline = time.monotonic() + timeout
        try:
            channel = self._transport.open_session(timeout=timeout)
            channel.settimeout(timeout)
            # paramiko waits for the answer to a request for ever; a closed channel ends that.
            give_up = threading.Timer(_left(deadline), channel.close)
            give_up.daemon = True
            give_up.start()
            try:
                request(channel)
            finally:
                give_up.cancel()
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self._transport.is_active():  # paramiko has no error of its own for what takes too long
                raise SshTimeoutError(f"`{what}` could not be started within {timeout:.0f} s.") from error
            raise SshLostError(
                f"`{what}` could not be started in the guest: {error or 'it hung up'}"
            ) from error
        return channel

    @staticmethod
    def _collect(channel: paramiko.Channel, output: tuple[list[bytes], list[bytes]], deadline: float) -> bool:
        """Take all output until it ends (True) or time is up (False)."""
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            while True:
                over = channel.closed or channel.eof_received
                while channel.recv_ready():
                    output[0].append(channel.recv(_CHUNK))
                while channel.recv_stderr_ready():
                    output[1].append(channel.recv_stderr(_CHUNK))
                if over:
                    return True
                selector.select(_left(deadline))
                if time.monotonic() >= deadline:
                    return False


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _feed(channel: paramiko.Channel, data: bytes) -> None:
    try:
        if data:
            channel.sendall(data)
        channel.shutdown_write()
    except OSError:
        pass  # the command has ended without reading all of it; its status says why
