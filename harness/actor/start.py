"""Start actors in the guest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.actor.actor import Actor
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.guest.answers import understood
from harness.guest.guest import Guest
from harness.lib.paths import PROBES

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
    remote = guest.push(PROBES / "probe.py", REMOTE_PYTHON)
    stream = guest.fork(["python3", "-IS", remote, "--template"])
    actor = Actor(Wire(stream, transcript, guest.deadline, "python"))
    if features:
        actor.say("abi", **features)
    return actor


def stopped_actors(guest: Guest) -> list[int]:
    """Return the process ids of top-level actors that a signal has stopped.

    Raises SshLostError, SshTimeoutError.
    """
    done = guest.script(_STOPPED)
    with understood("list of stopped processes"):
        return [int(word) for word in done.stdout.split()]
