"""One running virtual machine: from QEMU's start to its certain end."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.klog import patterns, splat
from harness.lib.errors import BootTimeoutError, HarnessError, PatchproofError
from harness.vm import diagnose, initramfs, qemu
from harness.vm.accelerator import Accelerator
from harness.vm.diagnose import QemuCrashedError
from harness.vm.image import Image
from harness.vm.layout import Layout
from harness.vm.process import BootImage, Process, Wiring
from harness.vm.ssh import KeyPair, Ssh, SshLostError

# Under KVM a guest is up within two seconds.  A kernel with KASAN and lockdep, emulated on a
# busy host, has been seen to take eighty.
BOOT_SECONDS = 45.0
SSH_SECONDS = 10.0
# A guest that dies loses its connection a moment before it is known to be dead.
GRACE_SECONDS = 1.0
LAST_WORDS_SECONDS = 2.0  # between the end of SSH and that of QEMU, when a kernel dies

ATTEMPTS = 2

_READY = "patchproof-init: ready for ssh"
_FATAL = "patchproof-init: fatal: "


def dry_run(
    bzimage: Path,
    rootfs: Path,
    run_dir: Path,
    accelerator: Accelerator,
    program: str,
    layout: Layout | None = None,
) -> list[str]:
    """The QEMU command line that boot() would use; its file descriptors are only examples."""
    layout = layout or Layout()
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
) -> Machine:
    """Start QEMU and wait until the guest lets us in.

    Everything of the machine lies in ``run_dir``: ``console.log``, ``qemu.log``,
    ``id_ed25519``.  ``gdb`` opens a debugger's port.

    Call it from a thread that outlives the machine: the kernel ends QEMU when the
    thread that started it ends, which is how QEMU dies with its parent.

    A QEMU that crashes is started once more: nothing has been tested yet, and
    before version 8.2 QEMU may crash when one processor moves a BAR while another
    uses its interrupt controller (fixed by "softmmu: Use async_run_on_cpu in
    tcg_commit").  ``note`` of the machine says so.

    Raises BootError if the kernel panics, resets, powers off or is silent too
    long; HarnessError if QEMU does not run.
    """
    crash: QemuCrashedError | None = None
    for _ in range(ATTEMPTS):
        machine = Machine(bzimage, image, run_dir, accelerator, qemu, layout or Layout(), gdb)
        try:
            machine.wait_until_up()
        except QemuCrashedError as error:
            machine.close()
            crash = error
            _set_aside(machine.run_dir)
        except BaseException:
            machine.close()
            raise
        else:
            machine.note = f"{crash.message} It was started again." if crash else ""
            return machine
    assert crash is not None
    raise crash


@dataclass(frozen=True)
class _Ready:
    """The guest takes SSH connections."""


@dataclass(frozen=True)
class _Fatal:
    """The guest's init gave up."""

    text: str


@dataclass(frozen=True)
class _Panicked:
    """The guest's kernel has begun to panic."""


@dataclass(frozen=True)
class _Blind:
    """Nobody sees the console any more."""


@dataclass(frozen=True)
class _Exited:
    """QEMU has ended."""

    status: int


@dataclass(frozen=True)
class _LoginFailed:
    """SSH did not work although the guest said it would."""

    error: PatchproofError


_News = _Ready | _Fatal | _Panicked | _Blind | _Exited | _LoginFailed | Ssh


class Machine:
    """One virtual machine, running from its construction until close().

    ``ssh`` is there once it is up.  ``events`` are QEMU's events so far.
    ``ram_bar`` and ``ram_bars`` (by role) are the host's view of the memory behind
    the RAM BARs, valid until close().  ``command`` is QEMU's command line;
    ``note`` is what a reader of the results should know about the start, if anything.
    With ``hangs_up`` the connection is closed when the processors are stopped from
    outside: a guest that stands still, or did for a while, keeps no deadline, and
    whoever waits for it learns from outside_fault() why.  A debugger stops them, too.
    """

    ssh: Ssh

    def __init__(
        self,
        bzimage: Path,
        image: Image,
        run_dir: Path,
        accelerator: Accelerator,
        program: str,
        layout: Layout,
        gdb: bool,
    ) -> None:
        self.run_dir = run_dir.absolute()
        self.name = self.run_dir.name
        self.accelerator = accelerator
        self.layout = layout
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.ssh_line = ""
        self.note = ""
        self.hangs_up = False
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._panicked = threading.Event()
        self._user, self._host = KeyPair.generate(), KeyPair.generate()
        info = qemu.probe(program)
        info.require()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        _write_private(self.run_dir / "id_ed25519", self._user.private.encode())
        initrd = self.run_dir / "initrd.cpio"
        _write_private(initrd, self._initramfs(image.init))
        self._qemu = Process(
            BootImage(bzimage.absolute(), initrd, image.rootfs, accelerator),
            info.path,
            layout.within(info.devices),
            self.run_dir,
            gdb=gdb,
            line=self._on_line,
            blind=lambda: self._news.put(_Blind()),
            event=self._on_event,
        )
        self.command = self._qemu.command
        self.console = self._qemu.console
        self.monitor = self._qemu.monitor
        self.ram_bars = self._qemu.memory
        self.ram_bar = self.ram_bars["ram"]
        self.gdb_line = f"gdb vmlinux -ex 'target remote 127.0.0.1:{self._qemu.gdb_port}'" if gdb else ""
        threading.Thread(target=self._wait, name="qemu", daemon=True).start()

    def wait_until_up(self) -> None:
        """Wait for the first of: a login over SSH, a panic, QEMU's end, the deadline."""
        allowed = BOOT_SECONDS * self.accelerator.time_scale
        deadline = self._qemu.started + allowed
        failed: PatchproofError | None = None
        while True:
            try:
                news = self._news.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                if fault := self.outside_fault():
                    raise HarnessError(
                        f"The guest did not come up within {allowed:.0f} s, because {fault}.",
                        log=self._qemu.log,
                    ) from None
                if failed is not None:
                    message = f"The kernel came up, but nobody can log in: {failed}"
                    raise diagnose.silent(self.console, message, BootTimeoutError) from failed
                message = f"The guest did not come up within {allowed:.0f} s."
                raise diagnose.silent(self.console, message, BootTimeoutError) from None
            match news:
                case _Ready():
                    threading.Thread(target=self._log_in, name="login", daemon=True).start()
                case _Fatal(text):
                    raise diagnose.silent(
                        self.console, f"The kernel came up, but the guest's init gave up: {text}."
                    )
                case _Panicked():
                    raise diagnose.panic(self.console)
                case _Blind():
                    self.console.mark()  # says why
                case _Exited(status):
                    self._qemu.drain()
                    raise diagnose.ended(status, self.console, self.events, self._qemu.log)
                case _LoginFailed(error):
                    failed, deadline = error, time.monotonic() + GRACE_SECONDS
                case Ssh():
                    self.ssh = news
                    return

    @property
    def started(self) -> float:
        """When QEMU was started, on the clock of time.monotonic()."""
        return self._qemu.started

    def exit_status(self) -> int | None:
        """QEMU's exit status, negative for a signal; None while it runs.

        0 says that the guest asked for its end: it powered off, reset, or panicked.
        """
        return self._qemu.wait(0)

    def alive(self) -> bool:
        """Whether QEMU runs and its kernel has not panicked."""
        return self._qemu.running and not self._panicked.is_set()

    def outside_fault(self) -> str:
        """Why a machine that does not answer is not its kernel's fault, as a clause; empty if it may be.

        Call it of a machine that has ended, or that has not answered for long.
        """
        if self._panicked.is_set():
            return ""
        status = self.exit_status()
        if status is not None:
            self.monitor.wait_closed()
        return diagnose.outside(status, self.events, self.monitor)

    def dump_processors(self) -> tuple[Path, str]:
        """Write to ``processors.txt`` where each processor is, three times.

        Returns the file, and what autopsy.deaf() makes of it.
        A processor that spins is at other places each time, one that waits for an
        interrupt at the same.  What QEMU does not tell is missing.
        """
        path = self.run_dir / "processors.txt"
        with path.open("w") as stream, contextlib.suppress(HarnessError):

            def ask(command: str) -> str:
                said = str(self.monitor.execute("human-monitor-command", {"command-line": command}))
                stream.write(f"{said}\n")
                return said

            for _ in range(2):
                for number in re.findall(r"^CPU#(\d+)", ask("info registers -a"), re.MULTILINE):
                    ask(f"info lapic {number}")
            ask("info registers -a")
        return path, diagnose.deaf(path.read_text())

    def reachable(self) -> bool:
        """Whether somebody can log in anew."""
        try:
            Ssh(self.ssh.port, self._user, self._host, SSH_SECONDS * self.accelerator.time_scale).close()
        except SshLostError:
            return False
        return True

    def wait_ended(self, timeout: float) -> bool:
        """Wait for QEMU to end, at most ``timeout`` seconds; whether it has.

        A kernel that dies takes SSH with it a moment before QEMU ends.
        """
        return self._qemu.wait(timeout) is not None

    def close(self) -> None:
        """End QEMU, for certain, and what belongs to it.  The files in ``run_dir`` stay."""
        if hasattr(self, "ssh"):
            self.ssh.close()
        self._qemu.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _initramfs(self, init: Path) -> bytes:
        return initramfs.archive(
            {
                "init": (init.read_bytes(), 0o755),
                "keys/host": (self._host.private.encode(), 0o600),
                "keys/authorized": (f"{self._user.public}\n".encode(), 0o600),
            }
        )

    def _on_line(self, line: str) -> None:
        if line.startswith(_READY):
            self._news.put(_Ready())
        elif line.startswith(_FATAL):
            self._news.put(_Fatal(line.removeprefix(_FATAL)))
        elif splat.kind_of(line) == patterns.PANIC:
            self._panicked.set()
            self._news.put(_Panicked())

    def _on_event(self, name: str, data: Mapping[str, Any]) -> None:
        self.events.append((name, data))
        if name == "GUEST_PANICKED":
            self._panicked.set()
            self._news.put(_Panicked())
        if name == "STOP" and self.hangs_up and hasattr(self, "ssh"):
            threading.Thread(target=self.ssh.close, name="hang up", daemon=True).start()

    def _wait(self) -> None:
        status = self._qemu.wait()
        assert status is not None
        self._news.put(_Exited(status))

    def _log_in(self) -> None:
        try:
            port = self._ssh_port()
            self._describe(port)
            self._news.put(Ssh(port, self._user, self._host, SSH_SECONDS * self.accelerator.time_scale))
        except (SshLostError, HarnessError) as error:
            self._news.put(_LoginFailed(error))

    def _ssh_port(self) -> int:
        """Which loopback port QEMU was given for the guest's sshd."""
        answer = str(self.monitor.execute("human-monitor-command", {"command-line": "info usernet"}))
        found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", answer)
        if found is None:
            raise HarnessError(f"QEMU does not say on which port the guest can be reached:\n{answer}")
        return int(found[1])

    def _describe(self, port: int) -> None:
        known = self.run_dir / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {self._host.public}\n")
        self.ssh_line = (
            f"ssh -p {port} -i {self.run_dir / 'id_ed25519'} -o UserKnownHostsFile={known} root@127.0.0.1"
        )


def _set_aside(run_dir: Path) -> None:
    """Keep the logs of a QEMU that crashed from being overwritten by the next one's."""
    for name in ("console.log", "qemu.log"):
        (run_dir / name).replace(run_dir / f"crashed-{name}")


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
