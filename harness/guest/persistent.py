"""A program in the guest that stays, and serves one request after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from harness.lib.errors import HarnessError
from harness.vm.ssh import SshLostError, SshTimeoutError, Stream


class Connection(Protocol):
    """A way to start programs in the guest; harness.vm.agent.Agent is one."""

    def stream(self, argv: Sequence[str], timeout: float) -> Stream:
        """Start a command in the guest and return its streams."""
        ...

    def alive(self) -> bool:
        """Return whether the connection still stands."""
        ...


class PersistentProgram:
    """A program that is started for the first request, and again after one that failed.

    ``name`` says in errors what it is, such as ``shell``.
    """

    def __init__(self, connection: Connection, argv: Sequence[str], name: str) -> None:
        self.name = name
        self._connection = connection
        self._argv = argv
        self._stream: Stream | None = None

    @contextmanager
    def request(self, what: str, first: str, timeout: float) -> Iterator[Stream]:
        """Yield the program's streams for one request; an error in the ``with`` block ends the program.

        ``what`` are the request's words in errors, such as ``script that begins with``, and ``first`` is
        its first part.  Raises SshTimeoutError for one of the block, which has ``timeout`` seconds;
        for an EOFError SshLostError if the connection broke, else HarnessError.
        """
        stream = self._stream or self._connection.stream(self._argv, timeout)
        self._stream = None  # kept only if the request ends as it should
        try:
            yield stream
        except SshTimeoutError as error:
            stream.close()
            message = f"The {what} `{first}` did not end in the guest within {timeout:.0f} s."
            raise SshTimeoutError(message, error.stdout) from error
        except EOFError as error:
            stream.close()
            if not self._connection.alive():
                raise SshLostError(f"The connection broke while `{first}` ran in the guest.") from error
            raise HarnessError(f"The guest's {self.name} ended while it ran `{first}`.") from error
        except HarnessError:
            stream.close()
            raise
        self._stream = stream
