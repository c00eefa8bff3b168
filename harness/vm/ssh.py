"""The connection to the guest: one SSH connection with many channels.

All keys are made for one run.  The guest accepts only the harness's key, and the
harness knows the guest's host key in advance.
"""

from __future__ import annotations

import contextlib
import selectors
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import paramiko

from harness.lib import interruption
from harness.lib.errors import HarnessError, PatchproofError
from harness.lib.host import host_errors, out_of_resources
from harness.lib.interruption import Interruption
from harness.lib.text import printable
from harness.vm.ssh_keys import KeyPair
from harness.vm.ssh_limits import (
    LINE_LIMIT,
    MALFORMED,
    OUTPUT_LIMIT,
    WINDOW,
    BoundedSocket,
    bound,
    closed_after,
)

USER = "root"
_CHUNK = 65536
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


class SshOutputError(HarnessError):
    """A program in the guest printed more than is read of it."""


@dataclass(frozen=True)
class Completed:
    """A command that has ended.  A ``status`` of -1 means that a signal ended it."""

    status: int
    stdout: bytes
    stderr: bytes


class Waiter(Protocol):
    """The event of a command's end."""

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; return whether the command has ended."""


class Pipe(Protocol):
    """The standard streams of a running command: a paramiko.Channel, or a harness.vm.agent.Program.

    The methods that wait do so for the time of settimeout(), and raise TimeoutError then.
    """

    @property
    def closed(self) -> bool: ...

    @property
    def exit_status(self) -> int: ...

    @property
    def status_event(self) -> Waiter: ...

    def settimeout(self, timeout: float) -> None: ...

    def send(self, s: bytes) -> int: ...

    def recv(self, nbytes: int) -> bytes: ...

    def recv_stderr_ready(self) -> bool: ...

    def recv_stderr(self, nbytes: int) -> bytes: ...

    def exit_status_ready(self) -> bool: ...

    def shutdown_write(self) -> None: ...

    def close(self) -> None: ...


class Stream:
    """The input and output of a running command in the guest, read line by line."""

    def __init__(self, channel: Pipe, command: str) -> None:
        self.command = command
        self._channel = channel
        self._buffer = bytearray()

    def write(self, data: bytes, timeout: float = 10.0) -> None:
        """Write ``data`` to the command's standard input.  Raises SshLostError, SshTimeoutError."""
        deadline = time.monotonic() + timeout
        try:
            while data:
                sent = interruption.until(partial(self._send, data), _seconds_left(deadline))
                if not sent:
                    raise SshTimeoutError(f"`{self.command}` has not read its input for {timeout:.0f} s.")
                if not sent[0]:
                    raise EOFError("its channel is closed")
                data = data[sent[0] :]
        except MALFORMED as error:
            raise SshLostError(f"`{self.command}` has gone away: {error}") from error

    def read_line(self, timeout: float, limit: int = LINE_LIMIT) -> bytes:
        """Return the next line of the command's standard output, without the newline.

        Raises EOFError when the command has closed its output, SshTimeoutError after
        ``timeout`` seconds, SshOutputError for a line of more than ``limit`` bytes.
        """
        deadline = time.monotonic() + timeout
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > limit:
                raise SshOutputError(f"`{self.command}` printed more than {limit} bytes without a newline.")
            left = _seconds_left(deadline)
            if searched and not left:  # bytes that trickle in do not extend the deadline
                raise self._late(timeout)
            received = interruption.until(self._receive, left)
            if not received:
                raise self._late(timeout)
            if not received[0]:
                raise EOFError(f"`{self.command}` has closed its output.")
            self._buffer += received[0]
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _late(self, timeout: float) -> SshTimeoutError:
        did = "did not end its line" if self._buffer else "printed nothing"
        return SshTimeoutError(f"`{self.command}` {did} for {timeout:.0f} s.", bytes(self._buffer))

    def _send(self, data: bytes, seconds: float) -> tuple[int, ...]:
        """Return how many bytes the channel takes, nothing if it takes none within ``seconds``."""
        self._channel.settimeout(seconds + 0.001)
        with contextlib.suppress(TimeoutError):
            return (self._channel.send(data),)
        return ()

    def _receive(self, seconds: float) -> tuple[bytes, ...]:
        """Return what arrives within ``seconds``, nothing if nothing does; the end of output is b""."""
        self._channel.settimeout(seconds + 0.001)
        with contextlib.suppress(TimeoutError):
            return (self._channel.recv(_CHUNK),)
        return ()

    def running(self) -> bool:
        """Return whether no end of the command was reported yet."""
        return not self._channel.closed and not self._channel.exit_status_ready()

    def read_errors(self) -> bytes:
        """Return the standard error that arrived since the last call; does not wait."""
        parts = []
        for _ in range(WINDOW // _CHUNK):
            if not self._channel.recv_stderr_ready():
                break
            parts.append(self._channel.recv_stderr(_CHUNK))
        return b"".join(parts)

    def end_input(self) -> None:
        """Close the command's standard input.  Raises SshLostError."""
        try:
            self._channel.shutdown_write()
        except MALFORMED as error:
            raise SshLostError(f"`{self.command}` has gone away: {error}") from error

    def wait(self, timeout: float) -> int:
        """Wait for the command's end and return its exit status, -1 for a signal.  Raises SshTimeoutError."""
        if not interruption.until(self._channel.status_event.wait, timeout):
            raise SshTimeoutError(f"`{self.command}` did not end within {timeout:.0f} s.")
        return self._channel.exit_status

    def close(self) -> None:
        """Close the channel; a command that reads its input sees its end."""
        _close(self._channel)


class Ssh:
    """The connection to the guest's sshd at ``127.0.0.1:port``.

    Raises SshLostError if the guest does not answer, has another host key than
    ``host``, or rejects the key ``user``, within ``timeout`` seconds.
    """

    def __init__(self, port: int, user: KeyPair, host: KeyPair, timeout: float) -> None:
        self.port = port
        with host_errors():
            self._socket = BoundedSocket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(("127.0.0.1", port))
        except OSError as error:
            self._socket.close()
            if lacking := out_of_resources(error):
                raise lacking from error
            raise SshLostError(f"The guest cannot be reached on port {port}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = paramiko.Transport(
            self._socket, default_window_size=WINDOW, default_max_packet_size=_CHUNK
        )
        self._transport.daemon = True
        self._transport.banner_timeout = timeout
        self._transport.handshake_timeout = timeout
        self._transport.auth_timeout = timeout
        self._transport.clear_to_send_timeout = timeout
        options = self._transport.get_security_options()
        options.kex = _KEX
        options.ciphers = _CIPHERS
        try:
            with closed_after(timeout, self._transport) as late:
                interruption.call(
                    self._transport.connect, hostkey=host.load(), username=USER, pkey=user.load()
                )
        except Interruption:
            self._transport.close()
            raise
        except MALFORMED as error:
            self._transport.close()
            reason = f"it took more than {timeout:.0f} s" if late.is_set() else str(error) or "it hung up"
            raise SshLostError(f"The guest's sshd cannot be logged into: {printable(reason)}") from error
        self._socket.logged_in = True

    def alive(self) -> bool:
        """Return whether the connection still stands."""
        return self._transport.is_active()

    def run(self, argv: Sequence[str], timeout: float, stdin: bytes = b"") -> Completed:
        """Run a command in the guest to its end, with ``stdin`` as its standard input.

        Raises SshTimeoutError after ``timeout`` seconds (the command may still be running),
        SshOutputError beyond OUTPUT_LIMIT, SshLostError if the connection breaks.
        """
        deadline = time.monotonic() + timeout
        command = shlex.join(argv)
        channel = self._execute(command, timeout)
        writer = threading.Thread(target=_write_input, args=(channel, stdin), daemon=True)
        writer.start()
        output: tuple[list[bytes], list[bytes]] = ([], [])
        try:
            complete = self._collect(channel, command, output, deadline)
            if not complete or not interruption.until(channel.status_event.wait, _seconds_left(deadline)):
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
            _close(channel)
            writer.join()

    def stream(self, argv: Sequence[str], timeout: float = 10.0) -> Stream:
        """Start a command in the guest and return its streams.  Raises SshLostError, SshTimeoutError."""
        return Stream(self.channel(argv, timeout), shlex.join(argv))

    def channel(self, argv: Sequence[str], timeout: float) -> paramiko.Channel:
        """Start a command in the guest and return its channel.  Raises SshLostError, SshTimeoutError."""
        return self._execute(shlex.join(argv), timeout)

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
            with closed_after(timeout, channel) as late:
                interruption.call(_write_file, channel, data, str(remote), mode)
        except MALFORMED as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise SshTimeoutError(
                    f"{remote} could not be written in the guest within {timeout:.0f} s."
                ) from error
            if self._transport.is_active():
                reason = printable(str(error))
                raise HarnessError(
                    f"The file {remote} could not be written in the guest: {reason}"
                ) from error
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
        try:
            channel = bound(interruption.call(self._transport.open_session, timeout=timeout))
            channel.settimeout(timeout)
            # paramiko waits for the answer to a request without a timeout; closing the channel ends that.
            with closed_after(timeout, channel):
                interruption.call(request, channel)
        except MALFORMED as error:
            if self._transport.is_active():  # paramiko has no error for a timeout here
                raise SshTimeoutError(f"`{name}` could not be started within {timeout:.0f} s.") from error
            raise SshLostError(
                f"`{name}` could not be started in the guest: {printable(str(error)) or 'it hung up'}"
            ) from error
        return channel

    @staticmethod
    def _collect(
        channel: paramiko.Channel, command: str, output: tuple[list[bytes], list[bytes]], deadline: float
    ) -> bool:
        """Read all output until it ends (True) or the deadline has passed (False)."""
        room = OUTPUT_LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            while True:
                ended = channel.closed or channel.eof_received
                read = 0
                if channel.recv_ready():
                    output[0].append(channel.recv(_CHUNK))
                    read += len(output[0][-1])
                if channel.recv_stderr_ready():
                    output[1].append(channel.recv_stderr(_CHUNK))
                    read += len(output[1][-1])
                room -= read
                if room < 0:
                    raise SshOutputError(f"`{command}` printed more than {OUTPUT_LIMIT >> 20} MiB.")
                if ended and not read:
                    return True
                interruption.check()
                if not read:
                    selector.select(min(_seconds_left(deadline), interruption.SLICE))
                if time.monotonic() >= deadline:
                    return False


class LateSsh(Ssh):
    """The connection to a loaded guest, which is logged into when a method first needs it.

    Programs of the agent that the guest was saved with do without it.  Every method but alive() and
    close() may raise the errors of a login.
    """

    def __init__(self, port: int, user: KeyPair, host: KeyPair, timeout: float) -> None:
        self.port = port
        self._arguments = (port, user, host, timeout)
        self._made: paramiko.Transport | None = None
        self._closed = False

    def alive(self) -> bool:
        """Return whether the connection still stands, or may come."""
        return not self._closed and (self._made is None or self._made.is_active())

    def close(self) -> None:
        """Close the connection; there will be none if there was none."""
        self._closed = True
        if self._made is not None:
            self._made.close()

    @property
    def _transport(self) -> paramiko.Transport:
        if self._made is None:
            if self._closed:
                raise SshLostError("The connection to the guest was closed before a login.")
            super().__init__(*self._arguments)
            assert self._made is not None
        return self._made

    @_transport.setter
    def _transport(self, made: paramiko.Transport) -> None:
        self._made = made


def _seconds_left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _close(channel: Pipe) -> None:
    with contextlib.suppress(*MALFORMED):  # a connection that takes no message is gone
        channel.close()


def _write_file(channel: paramiko.Channel, data: bytes, remote: str, mode: int) -> None:
    with paramiko.SFTPClient(channel) as sftp:
        with sftp.open(remote, "wb") as stream:
            stream.set_pipelined(True)
            stream.write(data)
        sftp.chmod(remote, mode)


def _write_input(channel: paramiko.Channel, data: bytes) -> None:
    with contextlib.suppress(*MALFORMED):  # a command that ended early says so by its status
        if data:
            channel.sendall(data)
        channel.shutdown_write()
