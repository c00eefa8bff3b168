"""Start actors in the guest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.actor.actor import Actor
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.guest.answers import understood
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError
from harness.lib.paths import PROBES
from harness.lib.text import printable
from harness.vm.ssh import Stream

REMOTE_ACTOR = "/run/actor"
REMOTE_PYTHON = "/run/probe.py"
# List the actors and Python probes that the agent, or sshd, has started, and that a signal has stopped.
_STOPPED = r"""
for stat in /proc/[0-9]*/stat; do
    { read -r pid name state parent rest <"$stat"; } 2>/dev/null || continue
    case "$name $state" in "(actor) T" | "(python3) T")
        { read -r _ name rest <"/proc/$parent/stat"; } 2>/dev/null || continue
        case $name in "(agent)" | "(sshd"*) echo "$pid" ;; esac ;;
    esac
done
"""


def start_actor(guest: Guest, binary: Path, transcript: Transcript) -> Actor:
    """Start the C actor in the guest.  Raises SshLostError, SshTimeoutError."""
    remote = guest.push(binary, REMOTE_ACTOR)
    return Actor(Wire(guest.stream([remote]), transcript, guest.deadline))


def start_python(guest: Guest, transcript: Transcript, features: Mapping[str, int]) -> Actor:
    """Start a Python probe in the guest.

    ``features`` are the numbers of features that the probe is told, by their names in the
    operation ``abi``.  Raises SshLostError, SshTimeoutError.
    """
    actor = Actor(Wire(_fork_python(guest), transcript, guest.deadline, "python"))
    if features:
        actor.say("abi", **features)
    return actor


def prepare_python(guest: Guest) -> None:
    """Start the process that Python probes are forked from, by a probe that ends at once.

    A machine that is loaded from a snapshot of this guest need not start it.
    Raises HarnessError, SshLostError, SshTimeoutError.
    """
    stream = _fork_python(guest)
    stream.write(b"exit\n", guest.deadline)
    try:
        stream.read_line(guest.deadline)
    except EOFError as error:
        said = printable(stream.read_errors().decode(errors="replace").strip())
        raise HarnessError(f"The first Python probe of the guest ended without a reply: {said}") from error
    stream.wait(guest.deadline)
    stream.close()


def _fork_python(guest: Guest) -> Stream:
    remote = guest.push(PROBES / "probe.py", REMOTE_PYTHON)
    return guest.fork(["python3", "-IS", remote, "--template"])


def stopped_actors(guest: Guest) -> list[int]:
    """Return the process ids of top-level actors that a signal has stopped.

    Raises SshLostError, SshTimeoutError.
    """
    done = guest.script(_STOPPED)
    with understood("list of stopped processes"):
        return [int(word) for word in done.stdout.split()]
