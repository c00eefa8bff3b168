"""Programs in the guest, started by vmimage/agent.c; each has a TCP connection as its input and output."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paramiko

from harness.lib import interruption
from harness.lib.host import host_errors, out_of_resources
from harness.lib.text import printable
from harness.vm.ssh import Ssh, SshLostError, SshTimeoutError, Stream
from harness.vm.ssh_limits import MALFORMED, WINDOW

PATH = "/run/patchproof/agent"  # where vmimage/init.c installs it
#: Bytes of data in one frame (vmimage/agent.c, CHUNK).
FRAME_LIMIT = 1 << 16
SECRET = 32  # bytes
_HEAD = struct.Struct("<cII")
_STATUS = struct.Struct("<i")
_END_SECONDS = 1.0  # from the end of a program's output until its end is known
_LOOK_SECONDS = 0.02


class Program:
    """The streams of a program that the agent has started; a harness.vm.ssh.Pipe.

    ``exit_status`` is -N after signal N, and -1 before the end.
    """

    def __init__(self, agent: Agent, number: int, connection: socket.socket) -> None:
        self.closed = False
        self.exit_status = -1
        self._agent = agent
        self._number = number
        self._connection = connection
        self._errors = bytearray()
        self._ended = False

    def settimeout(self, timeout: float) -> None:
        """Set the longest wait, in seconds above 0, of the methods that raise TimeoutError."""
        self._connection.settimeout(timeout)

    def send(self, s: bytes) -> int:
        """Send a part of ``s`` to standard input; return its length.  Raises TimeoutError, SshLostError."""
        try:
            return self._connection.send(s)
        except TimeoutError:
            self._agent.require(self._number)
            raise
        except OSError as error:
            self._require_ended(error)
            return len(s)  # as it is with a program that ends a moment later

    def recv(self, nbytes: int) -> bytes:
        """Return what was printed, b"" at the end of the output.  Raises TimeoutError, SshLostError."""
        try:
            return self._connection.recv(nbytes)
        except TimeoutError:
            self._agent.require(self._number)
            raise
        except OSError as error:
            self._require_ended(error)
            return b""

    def shutdown_write(self) -> None:
        """Close standard input.  Raises SshLostError."""
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._require_ended(error)

    def recv_stderr_ready(self) -> bool:
        """Return whether there is standard error to read."""
        return bool(self._errors)

    def recv_stderr(self, nbytes: int) -> bytes:
        """Return standard error that has arrived; does not wait."""
        data = bytes(self._errors[:nbytes])
        del self._errors[:nbytes]
        return data

    def exit_status_ready(self) -> bool:
        """Return whether the program has ended, as far as is known now, or the agent is lost."""
        try:
            return self.wait(0.0)
        except SshLostError:
            return True

    @property
    def status_event(self) -> Program:
        """The object whose wait() waits for the exit status."""
        return self

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the program; return whether it has ended.  Raises SshLostError."""
        return self._agent.receive(lambda: self._ended, timeout, self._number)

    def close(self) -> None:
        """Close all streams of the program, which may still run."""
        self.closed = True
        self._connection.close()
        self._agent.forget(self._number)

    def take(self, letter: bytes, data: bytes) -> None:
        """Take in a frame of the agent.  Raises ValueError if it is none of vmimage/agent.c."""
        if letter == b"R":
            self._errors += data
        elif letter == b"X" and len(data) == _STATUS.size:
            (self.exit_status,) = _STATUS.unpack(data)
            self._ended = True
        else:
            raise ValueError(f"a frame {letter!r} of {len(data)} bytes")
        if len(self._errors) > WINDOW:
            raise ValueError(f"more than {WINDOW >> 20} MiB of one program that nobody has read")

    def _require_ended(self, error: OSError) -> None:
        """Raise SshLostError unless the program has ended, which resets its connection."""
        if not self.wait(_END_SECONDS):
            raise SshLostError(f"The connection to a program in the guest broke: {error}") from error


@dataclass(frozen=True)
class Handover:
    """An agent that runs in a snapshot: its ``secret``, and the ``numbers`` that its programs have had."""

    secret: bytes
    numbers: int


class _Link(socket.socket):
    """A connection to an agent that was taken over, in place of a channel of SSH."""

    def recv_stderr_ready(self) -> bool:
        """Return whether there is standard error to read: never."""
        return False

    def recv_stderr(self, nbytes: int) -> bytes:
        """Return standard error, which does not come this way."""
        return b""[:nbytes]


class Agent:
    """The agent of a guest, used by one thread; started for the first program, and again once it was lost.

    ``port`` is the port of 127.0.0.1 that leads to AGENT_PORT.  A frame that cannot be understood ends it,
    and so do WINDOW bytes of standard error that nobody reads.  Its programs are lost then: every
    use of their streams raises SshLostError.
    """

    def __init__(self, ssh: Ssh, port: int) -> None:
        self._ssh = ssh
        self._port = port
        self._handover: Handover | None = None
        self._channel: paramiko.Channel | _Link | None = None
        self._session: object = None  # the channel of SSH that has started the agent
        self._secret = b""
        self._listening = False
        self._numbers = 0
        self._programs: dict[int, Program] = {}
        self._received = bytearray()
        self._lost = "it was not started"

    def alive(self) -> bool:
        """Return whether the connection to the guest still stands; call it when a program has gone away."""
        if not self._ssh.alive():
            return False
        if not isinstance(self._channel, _Link):
            return self._session is None or not self._ends_soon()
        with contextlib.suppress(SshLostError):
            self._take_in(_END_SECONDS)
        return self._channel is not None or (self._session is not None and not self._ends_soon())

    def _ends_soon(self) -> bool:
        """Return whether the login ends within a moment: it learns later than others that QEMU has gone."""
        deadline = time.monotonic() + _END_SECONDS
        while self._ssh.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def handover(self) -> Handover | None:
        """Return what it takes to take over this agent in a snapshot; None if none runs."""
        return None if self._channel is None else Handover(self._secret, self._numbers)

    def take_over(self, handover: Handover) -> None:
        """Use the agent of the snapshot that the guest was loaded from; its programs are killed."""
        self._handover = handover

    def stream(self, argv: Sequence[str], timeout: float) -> Stream:
        """Start a program in the guest and return its streams.  Raises SshLostError, SshTimeoutError.

        A program that cannot be started ends with the status 127, and says why on standard error.
        """
        return self._start(b"S", argv, timeout)

    def fork(self, template: Sequence[str], timeout: float) -> Stream:
        """Fork a program in the guest from a running one, which the first call starts by these words.

        The agent adds a word to them (vmimage/agent.c).  All calls must give the same words.
        Otherwise as stream().
        """
        return self._start(b"T", template, timeout)

    def receive(self, arrived: Callable[[], bool], seconds: float, number: int | None = None) -> bool:
        """Take in frames until ``arrived()``, at most ``seconds``; return whether it is so.

        Raises SshLostError, also if the agent does not know the program ``number``, if given.
        """
        deadline = time.monotonic() + seconds
        while not arrived():
            if number is not None:
                self.require(number)
            left = max(deadline - time.monotonic(), 0.0)
            if not self._take_in(left) or not left:
                return arrived()
        return True

    def require(self, number: int) -> None:
        """Raise SshLostError unless the agent has this program, and is connected."""
        if self._channel is not None and not self._ssh.alive():
            raise SshLostError("The agent in the guest is gone: the SSH connection broke.")
        if self._channel is None or number not in self._programs:
            raise SshLostError(f"The agent in the guest is gone: {self._lost}.")

    def forget(self, number: int) -> None:
        """Drop what arrives of a program from now on."""
        self._programs.pop(number, None)

    def _start(self, letter: bytes, argv: Sequence[str], timeout: float) -> Stream:
        command = shlex.join(argv)
        deadline = time.monotonic() + timeout
        if self._channel is None:
            self._begin(timeout)
        self._wait_until_listening(command, timeout, deadline)
        if not isinstance(self._channel, _Link):
            self._leave_ssh(deadline - time.monotonic())
            self._wait_until_listening(command, timeout, deadline)
        self._numbers += 1
        words = b"".join(word.encode() + b"\0" for word in argv)
        order = self._secret + _HEAD.pack(letter, self._numbers, len(words)) + words
        try:
            connection = self._connect(order, deadline - time.monotonic())
        except OSError as error:
            if lacking := out_of_resources(error):
                raise lacking from error
            raise SshLostError(f"`{command}` could not be started in the guest: {error}") from error
        program = self._programs[self._numbers] = Program(self, self._numbers, connection)
        return Stream(program, command)

    def _wait_until_listening(self, command: str, timeout: float, deadline: float) -> None:
        """Wait until the agent takes connections.  Raises SshLostError, SshTimeoutError."""
        if not interruption.until(
            lambda seconds: self.receive(lambda: self._listening, seconds), deadline - time.monotonic()
        ):
            raise SshTimeoutError(f"`{command}` could not be started within {timeout:.0f} s.")

    def _leave_ssh(self, timeout: float) -> None:
        """Have the frames come over a connection of their own.  Raises SshLostError.

        sshd holds a small frame back until the one before is acknowledged, which takes 40 ms.
        """
        session = self._channel
        self._listening = False
        try:
            self._channel = self._connect(self._secret + _HEAD.pack(b"C", 0, 0), timeout)
        except OSError as error:
            raise self._lose(str(error)) from error
        self._session = session  # without a reference it would be closed

    def _connect(self, order: bytes, timeout: float) -> _Link:
        """Return a connection that begins with ``order``.  Raises OSError, HarnessError."""
        with host_errors():
            connection = _Link(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(timeout, 0.001))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect(("127.0.0.1", self._port))
            connection.sendall(order)  # fits into the buffer of a new connection
        except OSError:
            connection.close()
            raise
        return connection

    def _begin(self, timeout: float) -> None:
        """Start the agent, and tell it a new secret; or take over the one of a snapshot."""
        if self._handover is not None:
            handover, self._handover = self._handover, None
            self._secret, self._numbers = handover.secret, handover.numbers
            try:
                self._channel = self._connect(self._secret + _HEAD.pack(b"C", 0, 0), timeout)
            except OSError as error:
                raise self._lose(str(error)) from error
            return
        channel = self._ssh.channel([PATH], timeout)
        self._session = None
        self._secret = secrets.token_bytes(SECRET)
        self._received.clear()
        self._listening = False
        self._channel = channel
        try:
            channel.settimeout(timeout)
            channel.sendall(self._secret)  # fits into the window of a new channel
        except MALFORMED as error:
            raise self._lose(str(error)) from error

    def _take_in(self, seconds: float) -> bool:
        """Take in what arrives within ``seconds``; return false if nothing does.  Raises SshLostError."""
        if self._channel is None:
            raise SshLostError(f"The agent in the guest is gone: {self._lost}.")
        try:
            self._channel.settimeout(max(seconds, 0.001))
            data = self._channel.recv(FRAME_LIMIT)
        except TimeoutError:
            return False
        except MALFORMED as error:
            raise self._lose(str(error)) from error
        if not data:
            said = b""
            with contextlib.suppress(*MALFORMED):
                said = self._channel.recv_stderr(200) if self._channel.recv_stderr_ready() else b""
            raise self._lose(f"its channel is closed {printable(said.strip())}".rstrip())
        self._received += data
        try:
            self._take_frames()
        except ValueError as error:
            raise self._lose(f"it sent {error}") from error
        return True

    def _take_frames(self) -> None:
        """Give each whole frame to its program.  Raises ValueError."""
        at = 0
        while len(self._received) - at >= _HEAD.size:
            letter, number, length = _HEAD.unpack_from(self._received, at)
            if length > FRAME_LIMIT:
                raise ValueError(f"a frame of {length} bytes")
            end = at + _HEAD.size + length
            if end > len(self._received):
                break
            if letter == b"L":
                self._listening = True
            elif (program := self._programs.get(number)) is not None:
                program.take(letter, bytes(self._received[at + _HEAD.size : end]))
            at = end
        del self._received[:at]

    def _lose(self, reason: str) -> SshLostError:
        """End the agent, and return the error that tells why."""
        self._lost = printable(reason)
        self._programs.clear()
        if self._channel is not None:
            with contextlib.suppress(*MALFORMED):  # a connection that takes no message is gone
                self._channel.close()
        self._channel = None
        return SshLostError(f"The agent in the guest is gone: {self._lost}.")
