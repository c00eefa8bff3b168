"""A persistent shell in the guest: a small script costs neither a new SSH channel nor a new process."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Sequence
from typing import Protocol

from harness.lib.errors import HarnessError
from harness.lib.text import printable
from harness.vm.ssh import Completed, SshLostError, SshOutputError, SshTimeoutError, Stream
from harness.vm.ssh_limits import OUTPUT_LIMIT

# The subshell contains the script's exit, options and redirections.  Standard error is
# printed after standard output.
_FRAME = """\
(set -- {arguments}
{script}
) </dev/null 2>{errors}; {nonce}=$?
printf '\\n{nonce}\\n'; [ ! -s {errors} ] || cat {errors}; printf '\\n{nonce} %d\\n' ${nonce}
"""


class Connection(Protocol):
    """A connection into the guest; harness.vm.ssh.Ssh is one."""

    def stream(self, argv: Sequence[str], timeout: float) -> Stream:
        """Start a command in the guest and return its streams."""
        ...

    def alive(self) -> bool:
        """Return whether the connection still stands."""
        ...


class Shell:
    """One ``sh`` that runs many scripts; started for the first one, and again after one that timed out."""

    def __init__(self, ssh: Connection, errors: str = "/run/script-errors") -> None:
        self._ssh = ssh
        self._errors = errors  # a file in the guest
        self._stream: Stream | None = None

    def run(self, script: str, arguments: Sequence[str], timeout: float) -> Completed:
        """Run a POSIX shell script to its end; the status is 128 + N if signal N ended it.

        Raises SshTimeoutError after ``timeout`` seconds (it may still be running),
        SshOutputError beyond OUTPUT_LIMIT, SshLostError if the connection breaks.
        """
        deadline = time.monotonic() + timeout
        stream = self._stream or self._ssh.stream(["sh"], timeout)
        self._stream = None  # kept only if the script ends as it should
        nonce = f"n{secrets.token_hex(8)}"
        text = _FRAME.format(arguments=shlex.join(arguments), script=script, nonce=nonce, errors=self._errors)
        name = script.strip().splitlines()[0]
        try:
            stream.write(text.encode(), timeout)
            stdout, _ = _read_until(stream, nonce.encode(), deadline)
            stderr, status = _read_until(stream, nonce.encode(), deadline)
        except SshTimeoutError as error:
            stream.close()
            raise SshTimeoutError(
                f"The script that begins with `{name}` did not end in the guest within {timeout:.0f} s.",
                error.stdout,
            ) from error
        except SshOutputError:
            stream.close()
            raise
        except EOFError as error:
            stream.close()
            if not self._ssh.alive():
                raise SshLostError(f"The connection broke while `{name}` ran in the guest.") from error
            raise HarnessError(f"The guest's shell ended while it ran `{name}`.") from error
        if not re.fullmatch(rb"\d{1,3}", status):
            stream.close()
            raise HarnessError(
                f"The guest's shell ran `{name}` and reported no exit status: {printable(status)}"
            )
        self._stream = stream
        return Completed(int(status), stdout, stderr)


def _read_until(stream: Stream, nonce: bytes, deadline: float) -> tuple[bytes, bytes]:
    """Return the output before the line that begins with the nonce, and the rest of that line."""
    lines: list[bytes] = []
    room = OUTPUT_LIMIT
    while True:
        left = deadline - time.monotonic()
        line = stream.read_line(max(left, 0.0))
        if line.startswith(nonce):
            return b"\n".join(lines), line.removeprefix(nonce).strip()
        lines.append(line)
        room -= len(line) + 1
        if room < 0:
            raise SshOutputError(f"A script in the guest printed more than {OUTPUT_LIMIT >> 20} MiB.")
        if left < 0:
            raise SshTimeoutError("The output did not end.", b"\n".join(lines))
