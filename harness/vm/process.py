"""QEMU as a process, and the wires to it: console, monitor, debugger, the memory behind the RAM BARs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.lib.errors import HarnessError
from harness.vm.accelerator import Accelerator
from harness.vm.console import Console, pipe
from harness.vm.hardware import (
    KERNEL_ARGUMENTS,
    MIB,
    Board,
    Boot,
    GdbStub,
    Iommu,
    MonitorPort,
    Network,
    Part,
    Pvpanic,
    RootDisk,
    SerialConsole,
    command,
)
from harness.vm.layout import Layout
from harness.vm.qmp import Monitor

# Two processors: what one revokes, the other can be using.  More than the host has
# cost a second of boot under emulation.
CPUS = 2
MEMORY = 1024 * MIB
CLOSE_SECONDS = 3.0


@dataclass(frozen=True)
class Wiring:
    """The file descriptors that QEMU inherits, and the files behind the RAM BARs by role."""

    console: int
    monitor: int
    gdb: int | None
    memory: Mapping[str, Path]


@dataclass(frozen=True)
class BootImage:
    """What QEMU starts: the kernel, the initramfs, the root file system, and how."""

    bzimage: Path
    initrd: Path
    rootfs: Path
    accelerator: Accelerator

    def command(self, qemu: str, layout: Layout, wiring: Wiring) -> list[str]:
        """The whole QEMU command line, its parts in the order in which QEMU wants them."""
        parts: list[Part] = [
            self.accelerator,
            Board(CPUS, MEMORY),
            Boot(
                self.bzimage,
                self.initrd,
                (*KERNEL_ARGUMENTS, *self.accelerator.kernel_arguments(), *layout.arguments),
            ),
            SerialConsole(wiring.console),
            MonitorPort(wiring.monitor),
            *([GdbStub(wiring.gdb)] if wiring.gdb is not None else []),
            Iommu(),
            *layout.slots(wiring.memory),
            RootDisk(self.rootfs),
            Network(),
            Pvpanic(),
        ]
        return command(qemu, parts)


class Process:
    """QEMU, running from the construction of this object until close().

    ``line`` is called with each line of the console, ``blind`` when there will be no
    more because its log cannot be written, ``event`` with each QMP event, all in
    threads of their own.  Raises HarnessError if it cannot be
    started at all.
    """

    def __init__(
        self,
        software: BootImage,
        qemu: str,
        layout: Layout,
        run_dir: Path,
        *,
        gdb: bool,
        line: Callable[[str], None],
        blind: Callable[[], None],
        event: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.log = run_dir / "qemu.log"
        self.gdb_port: int | None = None
        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
            undo.enter_context(self._open)
            console, far_console = pipe()
            given.callback(os.close, far_console)
            monitor, far_monitor = socket.socketpair()
            given.enter_context(far_monitor)
            debugger = given.enter_context(self._debugger()) if gdb else None
            memory = {role: self._memory(role, size) for role, size in layout.memories().items()}
            # Where this process, and anyone of the same user, finds them.
            self.memory = {role: Path(f"/proc/{os.getpid()}/fd/{fd}") for role, fd in memory.items()}
            wiring = Wiring(
                far_console,
                far_monitor.fileno(),
                debugger.fileno() if debugger else None,
                {role: Path(f"/proc/self/fd/{fd}") for role, fd in memory.items()},
            )
            self.command = software.command(qemu, layout, wiring)
            inherited = [far_console, far_monitor.fileno(), *memory.values()]
            self._process = self._launch([*inherited, *([wiring.gdb] if wiring.gdb is not None else [])])
            undo.callback(self.kill)
            self.console = Console(console, run_dir / "console.log", line, blind)
            self.monitor = Monitor(monitor, event)
            undo.pop_all()

    @property
    def running(self) -> bool:
        """Whether QEMU has not ended yet."""
        return self._process.poll() is None

    def wait(self, timeout: float | None = None) -> int | None:
        """QEMU's exit status, negative for a signal; None if it still runs after ``timeout`` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End QEMU at once."""
        self._process.kill()
        self._process.wait()

    def drain(self) -> None:
        """Take in all that QEMU, which has ended, said on its console and its monitor."""
        self.console.close()
        self.monitor.wait_closed()

    def close(self) -> None:
        """End QEMU, in order if it still listens, and close all wires."""
        if self.running:
            with contextlib.suppress(HarnessError):
                self.monitor.execute("quit", timeout=CLOSE_SECONDS)
            if self.wait(CLOSE_SECONDS) is None:
                self.kill()
        self.console.close()
        self.monitor.close()
        self._open.close()

    def _launch(self, inherited: list[int]) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            self.started = time.monotonic()
            return subprocess.Popen(
                # The kernel ends QEMU when the thread that started it ends, however that came.
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=inherited,
                # Ctrl-C is for us; we end QEMU in order.
                start_new_session=True,
            )

    def _debugger(self) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", 0))
        self.gdb_port = int(listening.getsockname()[1])
        return listening

    def _memory(self, role: str, size: int) -> int:
        """Memory without a file: nothing to clean up, no disk to fill."""
        fd = os.memfd_create(f"patchproof-{role}")
        self._open.callback(os.close, fd)
        os.truncate(fd, size)
        return fd
