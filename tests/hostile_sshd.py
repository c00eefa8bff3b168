"""A sshd on loopback that lies: each attack is a way to answer, carried out by paramiko's server."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import paramiko
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from harness.vm.ssh import Ssh
from harness.vm.ssh_keys import KeyPair

Answer = Callable[[paramiko.Channel], None]
PIECE = bytes(1 << 15)


class Server(paramiko.ServerInterface):
    """A server that accepts the login; ``answer`` gets the channel of each command in a thread of its own."""

    def __init__(self, answer: Answer, confirm: bool = True) -> None:
        self._answer = answer
        self._confirm = confirm

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_unless_gone, args=(self._answer, channel), daemon=True).start()
        return self._confirm

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        threading.Thread(target=_unless_gone, args=(self._answer, channel), daemon=True).start()
        return self._confirm


def _unless_gone(answer: Answer, channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        answer(channel)


@dataclass
class Sshd:
    """A listening hostile sshd; ``sent`` counts the bytes that it could send, at most ``most``."""

    port: int
    host: KeyPair
    user: KeyPair
    sent: int = 0
    transports: list[paramiko.Transport] = field(default_factory=list)

    def connect(self, timeout: float = 20.0) -> Ssh:
        """Log in, as the harness does."""
        return Ssh(self.port, self.user, self.host, timeout)


@contextlib.contextmanager
def sshd(answer: Answer = lambda channel: None, *, confirm: bool = True) -> Iterator[Sshd]:
    """Run a server that lets the user in, and answers each command by ``answer``."""
    made = Sshd(0, KeyPair.generate(), KeyPair.generate())

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection, default_window_size=1 << 24)
        made.transports.append(transport)
        transport.add_server_key(paramiko.Ed25519Key(file_obj=io.StringIO(made.host.private)))
        transport.start_server(server=Server(answer, confirm))

    with listening(serve) as made.port:
        yield made
    for transport in made.transports:
        transport.close()


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections on a port of loopback, each for ``serve`` in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()
        open_ones: list[socket.socket] = []

        def accept() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    connection.settimeout(None)
                    open_ones.append(connection)
                    threading.Thread(target=_guarded, args=(serve, connection), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()
            for one in open_ones:
                one.close()


def _guarded(serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        serve(connection)


def ignores_window(channel: paramiko.Channel) -> None:
    """Let a server's channel send as much as it likes, whatever window its client has told."""
    channel.out_window_size = 1 << 40
