"""Limits on what the guest's sshd can send: paramiko trusts its server with all memory and all time."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Protocol

import paramiko
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from paramiko.buffered_pipe import BufferedPipe

#: Bytes of one reply, up to its newline: a word for each page of a 1 GiB BAR, also if each is a fault.
LINE_LIMIT = 1 << 24
#: Bytes of the output of one command or script, standard error included.
OUTPUT_LIMIT = 64 << 20
#: Bytes that sshd may send before the login has succeeded: its banner, key exchange and messages.
HANDSHAKE_LIMIT = 1 << 20
#: Bytes of one SSH packet, as in OpenSSH (packet.c, PACKET_MAX_SIZE).
PACKET_LIMIT = 256 << 10
#: Bytes of one channel that wait to be read, the window that sshd is told.
WINDOW = 1 << 24

#: All that paramiko raises for what a server sends; a malformed message has no error class of its own.
MALFORMED = (
    paramiko.SSHException,
    paramiko.SFTPError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    InvalidTag,
    UnsupportedAlgorithm,
)


class Closable(Protocol):
    """A connection that another thread can close; a paramiko.Transport or Channel is one."""

    def close(self) -> None:
        """Close it, which ends every wait for it."""


class BoundedSocket(socket.socket):
    """A socket that takes HANDSHAKE_LIMIT bytes until ``logged_in``, and no packet above PACKET_LIMIT."""

    logged_in = False
    _received = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return up to ``size`` bytes.  Raises OSError beyond a limit, which ends the connection."""
        if size > PACKET_LIMIT:
            raise OSError(errno.EMSGSIZE, f"sshd announced a packet of {size} bytes")
        data = super().recv(size, flags)
        if not self.logged_in:
            self._received += len(data)
            if self._received > HANDSHAKE_LIMIT:
                raise OSError(errno.EMSGSIZE, f"sshd sent more than {HANDSHAKE_LIMIT} bytes before the login")
        return data


class _BoundedPipe(BufferedPipe):  # type: ignore[type-arg]
    """The bytes of a channel that wait to be read; more than the WINDOW ends the connection."""

    def feed(self, data: bytes | str) -> None:
        if len(self) + len(data) > WINDOW:
            raise paramiko.SSHException("sshd sent more than the window of a channel allows")
        super().feed(data)


def bound(channel: paramiko.Channel) -> paramiko.Channel:
    """Return a new channel, which from now on keeps to its window."""
    channel.in_buffer, channel.in_stderr_buffer = _BoundedPipe(), _BoundedPipe()
    return channel


@contextlib.contextmanager
def closed_after(seconds: float, what: Closable) -> Iterator[threading.Event]:
    """Close ``what`` if the body is not done in time; yield an event that tells whether that happened.

    paramiko has waits without a deadline, and its timeouts begin anew with each byte.
    """
    late = threading.Event()

    def close() -> None:
        late.set()
        what.close()

    timer = threading.Timer(seconds, close)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
