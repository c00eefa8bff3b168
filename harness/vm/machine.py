"""One virtual machine, from the start of QEMU to its end."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.klog import patterns, splat
from harness.lib import cgroup, interruption, private
from harness.lib.errors import BootTimeoutError, HarnessError, PatchproofError
from harness.lib.host import host_errors
from harness.lib.text import printable
from harness.vm import console, diagnose, initramfs, pauses, qemu_program
from harness.vm.accelerator import Accelerator
from harness.vm.agent import Agent
from harness.vm.diagnose import QemuDefectError
from harness.vm.hardware import AGENT_PORT, SSH_PORT
from harness.vm.image import Image
from harness.vm.pci_devices import Layout
from harness.vm.process import BootImage, Process, Wiring
from harness.vm.qemu_program import QemuInfo
from harness.vm.snapshot import Snapshot, copy_memory, save_devices
from harness.vm.ssh import LateSsh, Ssh, SshLostError
from harness.vm.ssh_keys import KeyPair

# Under KVM a guest is up within two seconds.  A kernel with KASAN and lockdep, emulated on a
# busy host, took eighty.
BOOT_SECONDS = 45.0
SSH_SECONDS = 10.0
# A guest that dies loses its connection a moment before the panic or QEMU's end is seen.
GRACE_SECONDS = 1.0
QEMU_END_SECONDS = 2.0  # from the end of SSH to the end of QEMU when a kernel dies

ATTEMPTS = 2
EVENTS = 1000  # of QEMU that are kept

_FLOODED = f"it printed more than {console.LIMIT >> 20} MiB on its console"
_READY = "patchproof-init: ready for ssh"
_FATAL = "patchproof-init: fatal: "


def dry_run(
    bzimage: Path,
    rootfs: Path,
    run_dir: Path,
    accelerator: Accelerator,
    program: str,
) -> list[str]:
    """Return the QEMU command line that boot() would use, with examples for the file descriptors."""
    layout = Layout()
    memory = {role: Path(f"/proc/self/fd/{10 + n}") for n, role in enumerate(layout.memories())}
    wiring = Wiring(console=3, monitor=4, gdb=None, memory=memory)
    return BootImage(bzimage, run_dir / "initrd.cpio", rootfs, accelerator).command(program, layout, wiring)


def boot(
    bzimage: Path,
    image: Image,
    *,
    run_dir: Path,
    accelerator: Accelerator,
    qemu: str = "qemu-system-x86_64",
    layout: Layout | None = None,
    gdb: bool = False,
    arguments: Sequence[str] = (),
) -> Machine:
    """Start QEMU and wait until a login over SSH succeeds.

    All files of the machine are in ``run_dir``: ``console.log``, ``qemu.log``,
    ``id_ed25519``.  ``gdb``, or the layout's ``debugger``, opens a port for a debugger.
    ``arguments`` are added to the kernel's command line.

    Call it from a thread that outlives the machine: the host's kernel kills QEMU when
    the thread that started it ends (prctl PR_SET_PDEATHSIG).

    A QEMU that crashes, or loses the end of an interrupt, is started once more, as no
    scenario has run yet.  QEMU before version 8.2 may do either when one processor moves
    a BAR while another uses its interrupt controller (fixed by "softmmu: Use
    async_run_on_cpu in tcg_commit").  The machine's ``note`` reports it.

    Raises BootError if the kernel panics, resets or powers off; BootTimeoutError if the
    guest is not up in time; HarnessError if QEMU does not run.
    """
    defect: QemuDefectError | None = None
    info = qemu_program.probe(qemu)
    info.require()
    for _ in range(ATTEMPTS):
        machine = Machine(
            bzimage, image, run_dir, accelerator, info, layout or Layout(), gdb, arguments=arguments
        )
        try:
            machine.wait_until_up()
        except QemuDefectError as error:
            machine.close()
            defect = error
            _rename_logs(machine.run_dir)
        except BaseException:
            machine.close()
            raise
        else:
            machine.note = f"{defect.message} It was started again." if defect else ""
            return machine
    assert defect is not None
    raise defect


def load(
    snapshot: Snapshot,
    bzimage: Path,
    image: Image,
    *,
    run_dir: Path,
    accelerator: Accelerator,
    qemu: str = "qemu-system-x86_64",
    layout: Layout | None = None,
    arguments: Sequence[str] = (),
) -> Machine:
    """Start QEMU with the state of a ``snapshot``, and wait until it runs.

    Its first use logs in over SSH (harness.vm.ssh.LateSsh).  Everything else is as it was for the
    machine of the snapshot, and as boot() says.  The RAM BARs are empty.

    Raises PatchproofError if the machine does not run; that says nothing about its kernel.
    """
    info = qemu_program.probe(qemu)
    machine = Machine(
        bzimage, image, run_dir, accelerator, info, layout or Layout(), False, snapshot, arguments
    )
    try:
        machine.wait_until_up()
    except BaseException:
        machine.close()
        raise
    return machine


@dataclass(frozen=True)
class _Ready:
    """The guest accepts SSH connections."""


@dataclass(frozen=True)
class _Fatal:
    """The guest's init gave up, for the reason ``text``."""

    text: str


@dataclass(frozen=True)
class _Panicked:
    """The guest's kernel panicked."""


@dataclass(frozen=True)
class _ConsoleLost:
    """The console's log cannot be written."""


@dataclass(frozen=True)
class _Exited:
    """QEMU has ended with the exit ``status``, negative for a signal."""

    status: int


@dataclass(frozen=True)
class _LoginFailed:
    """The login over SSH failed although the guest was ready for it."""

    error: PatchproofError


_BootEvent = _Ready | _Fatal | _Panicked | _ConsoleLost | _Exited | _LoginFailed | Ssh


class Machine:
    """One virtual machine, running from its construction until close().

    ``ssh`` is the connection, set once the guest is up, and so is ``agent``, which starts programs in
    the guest: a second agent would end it.  ``events`` are QEMU's latest
    events, name and data: a guest can cause any number.  ``ram_bars`` maps a role to the
    file behind its RAM BAR, valid until close(); ``ram_bar`` is that of the role ``ram``.  ``command`` is
    QEMU's command line.  ``note`` is a sentence about an unusual start for the results,
    empty if there is none.  ``debugger`` is the socket
    of the debugger's port, None without one.

    With ``disconnect_on_stop`` the connection is closed when QEMU stops the processors, which a
    debugger causes too.  A guest that was stopped misses its deadlines, and
    outside_fault() gives the reason.

    ``slowdown`` is the factor by which its guest runs slower than usual (harness.guest.speed);
    ``accelerator`` has the time scale with this factor.
    """

    ssh: Ssh
    agent: Agent

    def __init__(
        self,
        bzimage: Path,
        image: Image,
        run_dir: Path,
        accelerator: Accelerator,
        info: QemuInfo,
        layout: Layout,
        gdb: bool,
        snapshot: Snapshot | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.run_dir = run_dir.absolute()
        self.name = self.run_dir.name
        self.accelerator = accelerator
        self.slowdown = 1.0
        self.layout = layout
        self.events: deque[tuple[str, Mapping[str, Any]]] = deque(maxlen=EVENTS)
        self.ssh_line = ""
        self.note = ""
        self.disconnect_on_stop = False
        self._agent_port = 0  # of 127.0.0.1, which leads to the guest's agent
        self._memory_kills = cgroup.out_of_memory_kills()
        self._boot_events: queue.SimpleQueue[_BootEvent] = queue.SimpleQueue()
        self._panicked = threading.Event()
        self._ready = threading.Event()  # the guest's init has reported, which it does once
        self._loaded = snapshot is not None
        self._restoring = self._loaded  # the guest of the snapshot does not run yet
        self._saving = False
        if snapshot is not None:
            self.user_key, self.host_key = snapshot.user_key, snapshot.host_key
        else:
            self.user_key, self.host_key = KeyPair.generate(), KeyPair.generate()
        private.close_folder(self.run_dir)
        private.write(self.run_dir / private.KEY, self.user_key.private.encode())
        initrd = self.run_dir / private.INITRD
        private.write(initrd, self._initramfs(image))
        self._qemu = Process(
            BootImage(
                bzimage.absolute(), initrd, image.rootfs, accelerator, info.can_filter, tuple(arguments)
            ),
            info.path,
            layout.within(info.devices),
            self.run_dir,
            gdb=gdb or layout.debugger,
            line=self._on_line,
            blind=lambda: self._boot_events.put(_ConsoleLost()),
            event=self._on_event,
            snapshot=snapshot,
        )
        self._begun = pauses.now()
        self._pauses = pauses.PauseWatch(self._qemu.pid)
        self.command = self._qemu.command
        self.console = self._qemu.console
        self.monitor = self._qemu.monitor
        self.ram_bars = self._qemu.memory
        self.ram_bar = self.ram_bars["ram"]
        self.debugger = self._qemu.debugger
        self.gdb_line = _gdb_line(self.debugger) if self.debugger is not None else ""
        threading.Thread(target=self._wait, name="qemu", daemon=True).start()
        if snapshot is not None:
            threading.Thread(target=self._restore, args=(snapshot,), name="restore", daemon=True).start()

    def wait_until_up(self) -> None:
        """Wait for the first of: a login over SSH, a panic, QEMU's end, the deadline.

        Raises BootError, BootTimeoutError, HarnessError as boot() does; QemuDefectError if QEMU has
        crashed, or has lost the end of an interrupt.
        """
        allowed = BOOT_SECONDS * self.accelerator.time_scale
        deadline = self._qemu.started + allowed
        failed: PatchproofError | None = None
        while True:
            event = interruption.until(self._next_event, max(deadline - time.monotonic(), 0.0))
            if event is None:
                if fault := self.outside_fault() or self.paused(self._begun):
                    raise HarnessError(
                        f"The guest did not come up within {allowed:.0f} s, because {fault}.",
                        log=self._qemu.log,
                    )
                if isinstance(failed, HarnessError):
                    raise failed
                if defect := self.dump_processors()[1]:
                    raise QemuDefectError(
                        f"The guest did not come up within {allowed:.0f} s, because {defect}.",
                        log=self.console.log,
                    )
                if failed is not None:
                    message = f"The kernel came up, but the login over SSH failed: {failed}"
                    raise diagnose.boot_error(self.console, message, BootTimeoutError) from failed
                message = f"The guest did not come up within {allowed:.0f} s."
                raise diagnose.boot_error(self.console, message, BootTimeoutError)
            match event:
                case _Ready():
                    threading.Thread(target=self._log_in, name="login", daemon=True).start()
                case _Fatal(text):
                    raise diagnose.boot_error(
                        self.console, f"The kernel came up, but the guest's init gave up: {text}."
                    )
                case _Panicked():
                    raise diagnose.panic_error(self.console)
                case _ConsoleLost():
                    self.console.mark()  # raises HarnessError with the reason
                case _Exited(status):
                    self._qemu.drain()
                    if self._qemu.flooded and not self._panicked.is_set():
                        message = f"The machine was ended before the guest came up: {_FLOODED}."
                        raise HarnessError(message, log=self.console.log)
                    meanwhile = cgroup.kills_since(self._memory_kills)
                    raise diagnose.exit_error(
                        status, self.console, list(self.events), self._qemu.log, meanwhile
                    )
                case _LoginFailed(error):
                    failed, deadline = error, time.monotonic() + GRACE_SECONDS
                case Ssh():
                    self.ssh = event
                    self.agent = Agent(event, self._agent_port)
                    return

    def _next_event(self, seconds: float) -> _BootEvent | None:
        """Return the next event of the boot, None if there is none within ``seconds``."""
        try:
            return self._boot_events.get(timeout=seconds)
        except queue.Empty:
            return None

    @property
    def started(self) -> float:
        """The time of QEMU's start, on the clock of time.monotonic()."""
        return self._qemu.started

    def exit_status(self) -> int | None:
        """Return QEMU's exit status, negative for a signal; None while it runs.

        0 means that the guest powered off, reset, or panicked, or that QEMU was told to quit.
        """
        return self._qemu.wait(0)

    def alive(self) -> bool:
        """Return whether QEMU runs and its kernel has not panicked."""
        return self._qemu.running and not self._panicked.is_set()

    def outside_fault(self) -> str:
        """Describe, as a clause, a fault outside of the guest's kernel; empty if there is none.

        Call it for a machine that has ended, or that has missed a deadline.
        """
        if self._panicked.is_set():
            return ""
        status = self.exit_status()
        if self._qemu.flooded:
            return _FLOODED
        if status is not None:
            self.monitor.wait_closed()
        fault = diagnose.outside_fault(status, list(self.events), self.monitor)
        return fault and f"{fault}{cgroup.kills_since(self._memory_kills)}"

    def paused(self, since: float) -> str:
        """Describe, as a clause, a pause ``since`` a time of pauses.now(); empty if there was none.

        It is one of this program, of QEMU or of a processor.
        """
        return self._pauses.since(since)

    def add_hold(self, cpu: int, begun: float) -> None:
        """Count that a debugger held a processor, see PauseWatch.add_hold()."""
        self._pauses.add_hold(cpu, begun)

    def dump_processors(self) -> tuple[Path, str]:
        """Write the state of processors and queues to ``processors.txt``, see diagnose.dump_processors().

        Returns the file, and what diagnose.lost_write() finds in it.
        """
        path = self.run_dir / "processors.txt"
        diagnose.dump_processors(self.monitor, path)
        return path, diagnose.lost_write(path.read_text())

    def can_log_in(self) -> bool:
        """Return whether a new login over SSH succeeds."""
        try:
            timeout = SSH_SECONDS * self.accelerator.time_scale
            Ssh(self.ssh.port, self.user_key, self.host_key, timeout).close()
        except SshLostError:
            return False
        return True

    def wait_ended(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for QEMU to end; return whether it has.

        When a kernel dies, SSH ends a moment before QEMU does.
        """
        return self._qemu.wait(timeout) is not None

    def save(self) -> Snapshot:
        """Return a snapshot of this machine, which runs on.  Its guest stands still meanwhile.

        Raises HarnessError if QEMU cannot save it.
        """
        self._saving = True  # until QEMU's event RESUME
        try:
            state = save_devices(self.monitor, self.layout.memories())
            memory = copy_memory(self._qemu.guest_memory)
        finally:
            self.monitor.execute("cont")
        return Snapshot(self.name, memory, state, self.user_key, self.host_key, self.console.raw())

    def kill(self) -> None:
        """Kill QEMU at once.  Its machine then counts as ended from outside."""
        self._qemu.kill()

    def close(self) -> None:
        """End QEMU and close its connections.  The files in ``run_dir`` stay, except private.FILES."""
        if hasattr(self, "ssh"):
            self.ssh.close()
        self._pauses.close()
        self._qemu.close()
        private.remove(self.run_dir)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _initramfs(self, image: Image) -> bytes:
        return initramfs.archive(
            {
                "init": (image.init.read_bytes(), 0o755),
                **{name: (path.read_bytes(), 0o755) for name, path in image.programs.items()},
                "keys/host": (self.host_key.private.encode(), 0o600),
                "keys/authorized": (f"{self.user_key.public}\n".encode(), 0o600),
            }
        )

    def _on_line(self, line: str) -> None:
        if line.startswith(_READY) and not self._ready.is_set():
            self._ready.set()
            self._boot_events.put(_Ready())
        elif line.startswith(_FATAL) and not self._ready.is_set():
            self._ready.set()
            self._boot_events.put(_Fatal(printable(line.removeprefix(_FATAL))))
        elif not self._panicked.is_set() and splat.kind_of(line) == patterns.PANIC:
            self._panicked.set()
            self._boot_events.put(_Panicked())

    def _on_event(self, name: str, data: Mapping[str, Any]) -> None:
        self.events.append((name, data))
        if name == "GUEST_PANICKED" and not self._panicked.is_set():
            self._panicked.set()
            self._boot_events.put(_Panicked())
        if name == "RESUME" and self._restoring:
            self._restoring = False
            self._ready.set()
            self._boot_events.put(_Ready())
        if name == "RESUME":
            self._saving = False
        if name == "STOP" and self.disconnect_on_stop and not self._saving and hasattr(self, "ssh"):
            threading.Thread(target=self.ssh.close, name="hang up", daemon=True).start()

    def _restore(self, snapshot: Snapshot) -> None:
        try:
            self._qemu.restore(snapshot)
        except HarnessError as error:
            self._boot_events.put(_LoginFailed(error))

    def _wait(self) -> None:
        status = self._qemu.wait()
        assert status is not None
        self._boot_events.put(_Exited(status))

    def _log_in(self) -> None:
        try:
            with host_errors(self.run_dir):
                port, self._agent_port = (self._forwarded_port(one) for one in (SSH_PORT, AGENT_PORT))
                self._write_ssh_line(port)
                connect = LateSsh if self._loaded else Ssh
                self._boot_events.put(
                    connect(port, self.user_key, self.host_key, SSH_SECONDS * self.accelerator.time_scale)
                )
        except (SshLostError, HarnessError) as error:
            self._boot_events.put(_LoginFailed(error))

    def _forwarded_port(self, port: int) -> int:
        """Return the loopback port that QEMU forwards to a port of the guest.  Raises HarnessError."""
        answer = str(self.monitor.execute("human-monitor-command", {"command-line": "info usernet"}))
        found = re.search(rf"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+{port}\s", answer)
        if found is None:
            raise HarnessError(
                f"QEMU's `info usernet` lists no forwarded port for the guest's port {port}:\n{answer}"
            )
        return int(found[1])

    def _write_ssh_line(self, port: int) -> None:
        known_hosts = self.run_dir / private.KNOWN_HOSTS
        private.write(known_hosts, f"[127.0.0.1]:{port} {self.host_key.public}\n".encode())
        options = f"-i {self.run_dir / private.KEY} -o UserKnownHostsFile={known_hosts}"
        self.ssh_line = f"ssh -p {port} {options} root@127.0.0.1"


def _rename_logs(run_dir: Path) -> None:
    """Rename the logs of a QEMU that has failed, so that the next one does not overwrite them."""
    for name in ("console.log", "qemu.log"):
        (run_dir / name).replace(run_dir / f"crashed-{name}")


def _gdb_line(debugger: Path) -> str:
    """Return the command of gdb for the socket ``debugger``; a path that is too long for one is shortened."""
    if len(os.fsencode(debugger)) < private.SOCKET_PATH:
        return f"gdb vmlinux -ex 'target remote {debugger}'"
    return f"cd {debugger.parent} && gdb -ex 'target remote {debugger.name}'"
