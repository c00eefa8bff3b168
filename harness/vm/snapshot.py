"""A snapshot of a machine: the guest's memory and the state of its devices, from which others are started.

The guest's memory is a memory file of this process without a name, and the state of the devices are
some bytes.  So neither is on a disk, and both are gone when this program ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.lib import interruption
from harness.lib.errors import HarnessError
from harness.vm.hardware import MEMORY, MIB
from harness.vm.qmp import Monitor
from harness.vm.ssh_keys import KeyPair

#: Bytes of the devices' state; an ordinary one has 1 MiB.  The guest's memory is not in it.
STATE_LIMIT = 32 * MIB
SAVE_SECONDS = 10.0
_CHUNK = 1 << 20
_NAME = "snapshot"  # of the descriptor, in QEMU
_HEAD = 4096  # bytes of the stream that hold the list of all memory
_UNDER_WAY = ("setup", "active", "device")
# QEMU's qapi/migration.json: memory that processes share is not part of the stream.
_CAPABILITIES = ({"capability": "x-ignore-shared", "state": True},)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def create_memory(name: str, size: int = MEMORY) -> int:
    """Make a memory file of ``size`` bytes, all 0; return its descriptor, which the caller closes."""
    fd = os.memfd_create(f"patchproof-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    return fd


@dataclass(frozen=True)
class Snapshot:
    """The state of a machine between two instructions.

    ``memory`` is the descriptor of the guest's memory, which nobody can change any more;
    ``state`` is QEMU's stream of the devices.  ``user_key`` and ``host_key`` are those of the guest's
    sshd.  ``console`` is what the guest had printed.
    """

    machine: str
    memory: int
    state: bytes
    user_key: KeyPair
    host_key: KeyPair
    console: bytes

    @property
    def used(self) -> int:
        """The bytes of the host's memory that the snapshot takes."""
        return os.fstat(self.memory).st_blocks * 512 + len(self.state)

    def close(self) -> None:
        """Give the memory back to the host, as soon as no machine uses it."""
        os.close(self.memory)


def copy_memory(source: int) -> int:
    """Copy a memory file without its holes; return the descriptor of the copy, which cannot be changed."""
    size = os.fstat(source).st_size
    copy = create_memory("snapshot", size)
    try:
        for start, end in _extents(source, size):
            offset = start
            while offset < end:
                interruption.check()
                data = os.pread(source, min(_CHUNK, end - offset), offset)
                offset += os.pwrite(copy, data, offset)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of a file that is no hole."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def save_devices(monitor: Monitor, memories: Mapping[str, int]) -> bytes:
    """Return the state of the machine's devices.  The machine stands still until it is continued.

    ``memories`` are the sizes of the RAM BARs by role.  Raises HarnessError if QEMU cannot save it in
    SAVE_SECONDS, or the state is larger than STATE_LIMIT.
    """
    monitor.execute("migrate-set-capabilities", {"capabilities": list(_CAPABILITIES)})
    reading, writing = socket.socketpair()
    with reading:
        with writing:
            monitor.give(_NAME, writing.fileno())
        monitor.execute("migrate", {"uri": f"fd:{_NAME}"})
        state = _receive_all(reading)
    answer = monitor.execute("query-migrate")
    while isinstance(answer, dict) and answer.get("status") in _UNDER_WAY:
        answer = monitor.execute("query-migrate")
    if not isinstance(answer, dict) or answer.get("status") != "completed":
        raise HarnessError(f"QEMU could not save the machine: {answer}")
    for role, size in memories.items():
        state = without_address(state, role, size)
    return state


def without_address(state: bytes, role: str, size: int) -> bytes:
    """Return the state with the address 0 for the RAM BAR of ``role``, which has ``size`` bytes.

    The stream begins with a list of all memory.  QEMU refuses one that other processes share if it
    has another address now (migration/ram.c, parse_ramblock()).  The address of a BAR is 0 until its
    configuration space was loaded, which comes later in the stream.  Raises HarnessError if there is no
    such memory.
    """
    size_field = re.escape(struct.pack(">Q", size))
    block = re.compile(rb"/%s-memory%s" % (role.encode(), size_field))
    found = block.search(state, 0, _HEAD)
    if found is None:
        raise HarnessError(f"QEMU saved the machine without the RAM BAR of {role}.")
    return state[: found.end()] + bytes(8) + state[found.end() + 8 :]


def restore_devices(monitor: Monitor, descriptor: int, sender: socket.socket, state: bytes) -> None:
    """Have a QEMU that waits for it (hardware.Incoming) load ``state``; it then runs the machine.

    ``descriptor`` is the number, in QEMU, of the other end of ``sender``.  Raises HarnessError if
    QEMU refuses.  If the state is damaged, QEMU ends.
    """
    monitor.execute("migrate-set-capabilities", {"capabilities": list(_CAPABILITIES)})
    monitor.execute("migrate-incoming", {"uri": f"fd:{descriptor}"})
    with contextlib.suppress(OSError):  # QEMU has ended, as its exit status says
        sender.sendall(state)
        sender.shutdown(socket.SHUT_WR)


def _receive_all(reading: socket.socket) -> bytes:
    """Return what arrives until the other end closes.  Raises HarnessError."""
    deadline = time.monotonic() + SAVE_SECONDS
    parts: list[bytes] = []
    room = STATE_LIMIT
    while room >= 0:
        interruption.check()
        reading.settimeout(interruption.SLICE)
        try:
            data = reading.recv(_CHUNK)
        except TimeoutError:
            if time.monotonic() < deadline:
                continue
            raise HarnessError(
                f"QEMU did not save the devices of the machine within {SAVE_SECONDS:.0f} s."
            ) from None
        if not data:
            return b"".join(parts)
        parts.append(data)
        room -= len(data)
    raise HarnessError(f"The state of the machine's devices is larger than {STATE_LIMIT // MIB} MiB.")
