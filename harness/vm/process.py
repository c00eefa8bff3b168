"""The QEMU process and its connections: console, monitor, debugger, memory behind the RAM BARs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.lib import interruption, private
from harness.lib.errors import HarnessError
from harness.lib.process import has_ended
from harness.vm import qemu_program
from harness.vm.accelerator import Accelerator
from harness.vm.console import Console, pipe
from harness.vm.hardware import (
    KERNEL_ARGUMENTS,
    MEMORY,
    Board,
    Boot,
    GdbStub,
    GuestMemory,
    Incoming,
    Iommu,
    MonitorPort,
    Network,
    Part,
    Pvpanic,
    RootDisk,
    SerialConsole,
    SystemCallFilter,
    command,
)
from harness.vm.pci_devices import Layout
from harness.vm.qemu_memory import limited
from harness.vm.qmp import Monitor
from harness.vm.snapshot import Snapshot, create_memory, restore_devices

CLOSE_SECONDS = 3.0


@dataclass(frozen=True)
class Wiring:
    """The file descriptors that QEMU inherits, and the files behind the RAM BARs by role.

    ``guest`` is the guest's memory, by default memory of QEMU's own.  With ``incoming`` QEMU waits
    for a snapshot, instead of starting the firmware.
    """

    console: int
    monitor: int
    gdb: int | None
    memory: Mapping[str, Path]
    guest: GuestMemory | None = None
    incoming: bool = False


@dataclass(frozen=True)
class BootImage:
    """The kernel, initramfs and root file system that QEMU boots, and the accelerator to run them.

    ``contained`` is true for a QEMU that can give up system calls.
    """

    bzimage: Path
    initrd: Path
    rootfs: Path
    accelerator: Accelerator
    contained: bool = True
    arguments: tuple[str, ...] = ()

    def command(self, qemu: str, layout: Layout, wiring: Wiring) -> list[str]:
        """Return the whole QEMU command line, with the parts in the order that QEMU requires."""
        parts: list[Part] = [
            replace(self.accelerator, parallel=layout.parallel),
            *([SystemCallFilter()] if self.contained else []),
            Board(layout.cpus, MEMORY),
            *([wiring.guest] if wiring.guest is not None else []),
            *([Incoming()] if wiring.incoming else []),
            Boot(
                self.bzimage,
                self.initrd,
                (
                    *KERNEL_ARGUMENTS,
                    *self.accelerator.kernel_arguments(),
                    *layout.arguments,
                    *self.arguments,
                ),
            ),
            SerialConsole(wiring.console),
            MonitorPort(wiring.monitor),
            *([GdbStub(wiring.gdb)] if wiring.gdb is not None else []),
            Iommu(layout.ats),
            *layout.slots(wiring.memory),
            RootDisk(self.rootfs),
            Network(),
            Pvpanic(),
        ]
        return command(qemu, parts)


class Process:
    """QEMU, running from the construction of this object until close().

    ``flooded`` is true if its guest has printed more than a console may, and QEMU was killed for that.
    ``line`` is called with each line of the console; ``blind`` if the console's log
    cannot be written, after which no line follows; ``event`` with the name and the data
    of each QMP event.  The calls come from other threads.  ``memory`` maps a role to the
    file behind its RAM BAR.  ``debugger`` is the socket for a debugger, None without one.
    ``guest_memory`` is the descriptor of the guest's memory.  With a ``snapshot`` QEMU waits until
    restore() is called.  Raises OSError if no process can be started.
    """

    def __init__(
        self,
        boot_image: BootImage,
        qemu: str,
        layout: Layout,
        run_dir: Path,
        *,
        gdb: bool,
        line: Callable[[str], None],
        blind: Callable[[], None],
        event: Callable[[str, Mapping[str, Any]], None],
        snapshot: Snapshot | None = None,
    ) -> None:
        self.log = run_dir / "qemu.log"
        self.flooded = False
        self.debugger = run_dir / private.DEBUGGER if gdb else None
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as inherited:
            undo.enter_context(self._resources)
            console, qemu_console = pipe()
            inherited.callback(os.close, qemu_console)
            monitor, qemu_monitor = socket.socketpair()
            inherited.enter_context(qemu_monitor)
            debugger = inherited.enter_context(private.listen(self.debugger)) if self.debugger else None
            memory = {role: self._create_memory(role, size) for role, size in layout.memories().items()}
            # Paths that every process of the same user can open.
            self.memory = {role: Path(f"/proc/{os.getpid()}/fd/{fd}") for role, fd in memory.items()}
            self.guest_memory = snapshot.memory if snapshot else self._create_memory("guest", MEMORY)
            wiring = Wiring(
                qemu_console,
                qemu_monitor.fileno(),
                debugger.fileno() if debugger else None,
                {role: Path(f"/proc/self/fd/{fd}") for role, fd in memory.items()},
                GuestMemory(Path(f"/proc/self/fd/{self.guest_memory}"), private=snapshot is not None),
                incoming=snapshot is not None,
            )
            self.command = boot_image.command(qemu, layout, wiring)
            descriptors = [qemu_console, qemu_monitor.fileno(), self.guest_memory, *memory.values()]
            if snapshot is not None:
                self._state, self._state_end = socket.socketpair()
                self._resources.enter_context(self._state)
                self._resources.enter_context(self._state_end)
                descriptors.append(self._state_end.fileno())
            if wiring.gdb is not None:
                descriptors.append(wiring.gdb)
            self._process = self._launch(layout, descriptors)
            undo.callback(self.kill)
            printed = snapshot.console if snapshot else b""
            self.console = Console(console, run_dir / "console.log", line, blind, self._end_flood, printed)
            self.monitor = Monitor(monitor, event)
            undo.pop_all()

    @property
    def pid(self) -> int:
        """The process id of QEMU."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """True until QEMU has ended."""
        return self._process.poll() is None

    def wait(self, timeout: float | None = None) -> int | None:
        """Return QEMU's exit status, negative for a signal; None if it runs on after ``timeout`` s."""
        if timeout is None:
            return self._process.wait()  # by the thread that waits for QEMU's end
        interruption.until(partial(has_ended, self._process), timeout)
        return self._process.returncode

    def kill(self) -> None:
        """Kill QEMU and wait for its end."""
        self._process.kill()
        self._process.wait()

    def restore(self, snapshot: Snapshot) -> None:
        """Load the snapshot; QEMU sends the event RESUME when the guest runs.  Raises HarnessError."""
        restore_devices(self.monitor, self._state_end.fileno(), self._state, snapshot.state)

    def drain(self) -> None:
        """Read the rest of the console and the monitor.  Call it when QEMU has ended."""
        self.console.close()
        self.monitor.wait_closed()

    def close(self) -> None:
        """End QEMU, by its ``quit`` command if it still answers, and close all connections."""
        if self.running:
            with contextlib.suppress(HarnessError):
                self.monitor.execute("quit", timeout=CLOSE_SECONDS)
            if self.wait(CLOSE_SECONDS) is None:
                self.kill()
        self.console.close()
        self.monitor.close()
        self._resources.close()

    def _end_flood(self) -> None:
        """End a machine that prints without end, which would fill the disk."""
        self.flooded = True
        self.kill()

    def _launch(self, layout: Layout, descriptors: list[int]) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            self.started = time.monotonic()
            return subprocess.Popen(
                # The kernel kills QEMU when the thread that started it ends, for whatever reason.
                ["setpriv", "--pdeathsig", "KILL", *limited(layout, self.command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=qemu_program.environment(),
                pass_fds=descriptors,
                # Ctrl-C must not reach QEMU: close() ends it.
                start_new_session=True,
            )

    def _create_memory(self, role: str, size: int) -> int:
        """Make a memfd, which uses no disk and needs no cleaning up; return its descriptor."""
        fd = create_memory(role, size)
        self._resources.callback(os.close, fd)
        return fd
