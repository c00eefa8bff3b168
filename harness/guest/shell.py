"""A shell in the guest that stays: a small script costs neither a new SSH channel nor a new login."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Sequence
from typing import Protocol

from harness.lib.errors import HarnessError
from harness.vm.ssh import Completed, SshLostError, SshTimeoutError, Stream

# The script's own exit, options and redirections stay in the subshell.  What it
# said on standard error follows what it said on standard output.
_FRAME = """\
(set -- {arguments}
{script}
) </dev/null 2>{errors}; {nonce}=$?
printf '\\n{nonce}\\n'; [ ! -s {errors} ] || cat {errors}; printf '\\n{nonce} %d\\n' ${nonce}
"""


class Way(Protocol):
    """The way into the guest: harness.ssh.Ssh."""

    def stream(self, argv: Sequence[str], timeout: float) -> Stream:
        """Start a command and talk to it."""
        ...

    def alive(self) -> bool:
        """Whether the connection still stands."""
        ...


class Shell:
    """One ``sh`` for many scripts, started when the first one comes and again after one that hung."""

    def __init__(self, ssh: Way, errors: str = "/run/script-errors") -> None:
        self._ssh = ssh
        self._errors = errors  # a file in the guest
        self._stream: Stream | None = None

    def run(self, script: str, arguments: Sequence[str], timeout: float) -> Completed:
        """Run a POSIX shell script to its end; the status is 128 + N if signal N ended it.

        Raises SshTimeoutError after ``timeout`` seconds (it may still be running),
        SshLostError if the connection breaks.
        """
        deadline = time.monotonic() + timeout
        stream = self._stream or self._ssh.stream(["sh"], timeout)
        self._stream = None  # unless all goes well
        nonce = f"n{secrets.token_hex(8)}"
        text = _FRAME.format(arguments=shlex.join(arguments), script=script, nonce=nonce, errors=self._errors)
        what = script.strip().splitlines()[0]
        try:
            stream.write(text.encode(), timeout)
            stdout, _ = _until(stream, nonce.encode(), deadline)
            stderr, status = _until(stream, nonce.encode(), deadline)
        except SshTimeoutError as error:
            stream.close()
            raise SshTimeoutError(
                f"The script that begins with `{what}` did not end in the guest within {timeout:.0f} s.",
                error.stdout,
            ) from error
        except EOFError as error:
            stream.close()
            if not self._ssh.alive():
                raise SshLostError(f"The connection broke while `{what}` ran in the guest.") from error
            raise HarnessError(f"The guest's shell ended while it ran `{what}`.") from error
        self._stream = stream
        return Completed(int(status), stdout, stderr)


def _until(stream: Stream, nonce: bytes, deadline: float) -> tuple[bytes, bytes]:
    """What is said up to the line with the nonce, and what follows the nonce in that line."""
    lines: list[bytes] = []
    while True:
        line = stream.read_line(max(deadline - time.monotonic(), 0.0))
        if line.startswith(nonce):
            return b"\n".join(lines), line.removeprefix(nonce).strip()
        lines.append(line)
