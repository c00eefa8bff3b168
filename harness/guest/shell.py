"""A persistent shell in the guest: a small script costs neither a new SSH channel nor a new process."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Sequence

from harness.guest.persistent import Connection, PersistentProgram
from harness.lib.errors import HarnessError
from harness.lib.text import printable
from harness.vm.ssh import Completed, SshOutputError, SshTimeoutError, Stream
from harness.vm.ssh_limits import OUTPUT_LIMIT

# The subshell contains the script's exit, options and redirections.  Standard error is
# printed after standard output.
_FRAME = """\
(set -- {arguments}
{script}
) </dev/null 2>{errors}; {nonce}=$?
printf '\\n{nonce}\\n'; [ ! -s {errors} ] || cat {errors}; printf '\\n{nonce} %d\\n' ${nonce}
"""


class Shell:
    """One ``sh`` that runs many scripts."""

    def __init__(self, connection: Connection, errors: str = "/run/script-errors") -> None:
        self._program = PersistentProgram(connection, ["sh"], "shell")
        self._errors = errors  # a file in the guest

    def run(self, script: str, arguments: Sequence[str], timeout: float) -> Completed:
        """Run a POSIX shell script to its end; the status is 128 + N if signal N ended it.

        Raises SshTimeoutError after ``timeout`` seconds (it may still be running),
        SshOutputError beyond OUTPUT_LIMIT, SshLostError if the connection breaks.
        """
        deadline = time.monotonic() + timeout
        nonce = f"n{secrets.token_hex(8)}"
        text = _FRAME.format(arguments=shlex.join(arguments), script=script, nonce=nonce, errors=self._errors)
        first = script.strip().splitlines()[0]
        with self._program.request("script that begins with", first, timeout) as stream:
            stream.write(text.encode(), timeout)
            stdout, _ = _read_until(stream, nonce.encode(), deadline)
            stderr, status = _read_until(stream, nonce.encode(), deadline)
            if not re.fullmatch(rb"\d{1,3}", status):
                raise HarnessError(
                    f"The guest's shell ran `{first}` and reported no exit status: {printable(status)}"
                )
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
