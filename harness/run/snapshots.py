"""The snapshots of a run: one for each layout, from which later machines of that layout are started.

A machine is saved right after its detectors were proven, before any scenario.  So a machine that is
started from it has the same kernel, with the same state, to which the same detectors belong.  The
workers of a run have the snapshot of its first machine, too.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.actor.start import prepare_python
from harness.guest.guest import Guest
from harness.guest.health import KernelHealth
from harness.journal.writer import JournalWriter
from harness.lib import resources
from harness.lib.errors import HarnessError
from harness.run.positive_control import Proof
from harness.run.provoke import CONSOLE_SECONDS
from harness.vm import qemu_memory
from harness.vm.agent import Handover
from harness.vm.hardware import MIB
from harness.vm.pci_devices import Layout
from harness.vm.snapshot import Snapshot

#: Bytes of the host's memory for the snapshots of one process of a run; each machine side by side has its
#: own process.  One of an ordinary kernel takes 150 MiB.
LIMIT = 512 * MIB

# QEMU's edu has no description of its state (hw/misc/edu.c, no vmsd), so a loaded one has the
# configuration space of a device after a reset.  The guest keeps what is in it: the header.
_KEEP = r"""
mkdir -p /run/patchproof/edu
for device in /sys/bus/pci/devices/*; do
    read -r vendor <"$device/vendor"
    read -r number <"$device/device"
    [ "$vendor$number" != 0x12340x11e8 ] ||
        dd if="$device/config" of="/run/patchproof/edu/${device##*/}" bs=64 count=1 2>/dev/null || exit 1
done
for process in /proc/[0-9]*; do
    ! read -r name <"$process/comm" || [ "$name" != sshd ] || echo "${process##*/}"
done
"""
# The connections of the saved machine are not those of this one: their sshd would wait for ever, and so
# would the programs of its agent.  All
# machines of a snapshot would have the same random numbers (process 1 has the kernel use what was
# written), and the clock of the snapshot.
_RESUME = r"""
echo "$1" >/dev/urandom
kill -USR1 1
date -s "@$2" >/dev/null
message=$3
for kept in /run/patchproof/edu/*; do
    cat "$kept" >"/sys/bus/pci/devices/${kept##*/}/config" || exit 1
done
shift 3
[ $# = 0 ] || kill "$@"
echo "<4>patchproof: $message" >/dev/kmsg
"""


@dataclass(frozen=True)
class Saved:
    """A snapshot, with what is known of the guest in it.

    ``connections`` are the processes of sshd that serve the saved machine; ``pushed`` are the files
    that the guest has.
    """

    snapshot: Snapshot
    layout: Layout
    proof: Proof
    health: KernelHealth
    connections: tuple[str, ...]
    pushed: Mapping[str, str]
    agent: Handover | None


@dataclass(frozen=True)
class Shared:
    """A snapshot for other processes; ``inode`` is that of its memory file in the ``process`` that has it."""

    process: int
    inode: int
    saved: Saved

    def open(self) -> Snapshot:
        """Return the snapshot with a descriptor of this process.  Raises OSError if its memory is gone."""
        snapshot = self.saved.snapshot
        memory = os.open(f"/proc/{self.process}/fd/{snapshot.memory}", os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(memory).st_ino != self.inode:
            os.close(memory)
            raise FileNotFoundError(errno.ENOENT, "the process has closed its memory")
        return replace(snapshot, memory=memory)


class Snapshots:
    """The snapshots of a run by layout.

    None is made if ``enabled`` is false, or the host lacks the memory.  The journal gets a note when
    one cannot be made or used.  If ``many`` machines will be loaded from the first one, it has what
    their Python probes are forked from.
    """

    def __init__(self, journal: JournalWriter, *, enabled: bool = True) -> None:
        self.many = False
        self._journal = journal
        self._enabled = enabled
        self._saved: dict[Layout, Saved] = {}
        self._noted: set[str] = set()

    def all(self) -> list[Shared]:
        """Return the snapshots for another process of this user."""
        return [
            Shared(os.getpid(), os.fstat(one.snapshot.memory).st_ino, one) for one in self._saved.values()
        ]

    def adopt(self, others: Sequence[Shared]) -> None:
        """Have the snapshots of another process, too; one whose memory is gone is left out, with a note."""
        for one in others if self._enabled else ():
            try:
                snapshot = one.open()
            except OSError as error:
                name = one.saved.snapshot.machine
                self._note(f"The snapshot of {name} is not used by all processes of the run: {error}")
            else:
                self._saved[_devices(one.saved.layout)] = replace(one.saved, snapshot=snapshot)

    def of(self, layout: Layout) -> Snapshot | None:
        """Return the snapshot for machines of this layout, None if there is none."""
        saved = self._saved.get(_devices(layout))
        return None if saved is None else saved.snapshot

    def consider(self, guest: Guest, proof: Proof) -> None:
        """Save a machine that was just proven, if there is no snapshot of its layout yet.

        A kernel that complained by itself gives none.  Raises SshLostError, SshTimeoutError.
        """
        layout = _devices(guest.machine.layout)
        if not self._enabled or layout in self._saved or proof.complaint:
            return
        if resources.memory_available() < LIMIT + qemu_memory.needed(layout):
            self._note("This host lacks the memory for snapshots, so every machine is booted.")
            return
        try:
            if self.many and not self._saved:
                prepare_python(guest)
            saved = self._save(guest, proof)
        except HarnessError as error:
            self._enabled = False
            name = guest.machine.name
            self._note(f"No snapshot of {name} could be made, so every machine is booted: {error.message}")
            return
        self._make_room(saved.snapshot.used)
        self._saved[layout] = saved

    @staticmethod
    def _save(guest: Guest, proof: Proof) -> Saved:
        done = guest.script(_KEEP)
        if done.status != 0:
            raise HarnessError(f"The guest did not prepare for a snapshot: {done.stderr!r}")
        connections = tuple(done.stdout.decode(errors="replace").split())
        if not all(one.isdecimal() for one in connections):
            raise HarnessError("The guest did not list the processes of its connections.")
        health = KernelHealth.of(guest)
        agent = guest.handover()
        layout, pushed = guest.machine.layout, dict(guest.pushed)
        return Saved(guest.machine.save(), layout, proof, health, connections, pushed, agent)

    def resume(self, guest: Guest) -> Proof:
        """Bring the guest of a loaded machine up to date; return the proof of its detectors.

        The proof of the saved machine holds if the kernel's counters are those of then, and a message
        of level warning arrives on the console.  Raises PatchproofError if it does not hold.
        """
        saved = self._saved[_devices(guest.machine.layout)]
        guest.take_over(saved.agent, saved.pushed)
        mark = guest.machine.console.mark()
        message = f"loaded {secrets.token_hex(8)}"
        arguments = (secrets.token_hex(32), f"{time.time():.0f}", message, *saved.connections)
        done = guest.script(_RESUME, *arguments)
        if done.status != 0:
            raise HarnessError(f"The loaded guest could not be brought up to date: {done.stderr!r}")
        health = KernelHealth.of(guest)
        if health != saved.health:
            raise HarnessError(f"The loaded kernel is in another state than the saved one: {health}")
        seconds = CONSOLE_SECONDS * guest.machine.accelerator.time_scale
        if guest.machine.console.wait_for(message, seconds, mark) is None:
            raise HarnessError(
                "A message of level warning did not arrive on the console of the loaded machine."
            )
        return saved.proof

    def drop(self, layout: Layout, why: str) -> None:
        """Give up the snapshot of a layout, from which a machine could not be started."""
        saved = self._saved.pop(_devices(layout))
        saved.snapshot.close()
        self._enabled = False
        self._note(
            f"A machine could not be started from the snapshot of {saved.snapshot.machine}, so it and all "
            f"later ones are booted: {why}"
        )

    def close(self) -> None:
        """Give the memory of all snapshots back to the host."""
        for saved in self._saved.values():
            saved.snapshot.close()
        self._saved.clear()

    def _make_room(self, size: int) -> None:
        while self._saved and size + sum(one.snapshot.used for one in self._saved.values()) > LIMIT:
            self._saved.pop(next(iter(self._saved))).snapshot.close()

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._journal.note(text)


def _devices(layout: Layout) -> Layout:
    """Return a layout without what a saved machine does not depend on: the threads of its processors."""
    return replace(layout, parallel=False)
