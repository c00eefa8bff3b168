"""The QEMU program on this machine: what it offers, and which accelerator can be used."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.lib.files import digest, write_atomically

# The devices that the machine is made of (hardware.py) and that a QEMU may lack.
DEVICES = (
    "edu",
    "ivshmem-plain",
    "intel-iommu",
    "pcie-root-port",
    "pvpanic-pci",
    "virtio-blk-pci",
    "virtio-net-pci",
)
# How long a kernel may take under KVM to find that it has no root disk.  It takes
# less than a second where KVM works.
TRIAL_SECONDS = 6.0
# Software emulation runs guest code some ten times slower than KVM does; the kernel's
# own compile-time debugging adds to that.
TCG_TIME_SCALE = 4.0
# An emulated processor does not tell the frequency of its time stamp counter, and the kernel measures
# it anew on each (init/calibrate.c, calibrate_delay_direct()): 0.3 s of a boot.  With this many cycles
# per jiffy delays are as long as asked for with up to 4.2 GHz at 250 Hz, and longer with less; at
# 1000 Hz it is about the most that __const_udelay() can multiply (arch/x86/lib/delay.c).
TCG_LOOPS_PER_JIFFY = 17_000_000


@dataclass(frozen=True)
class Accelerator:
    """How the guest's instructions are run.

    ``time_scale`` is what a deadline, written for KVM, is multiplied by;
    ``reason`` says why this one was chosen.
    """

    name: str
    time_scale: float
    reason: str

    def args(self) -> list[str]:
        """QEMU's arguments."""
        return ["-accel", "kvm" if self.name == "kvm" else "tcg,thread=multi"]

    def kernel_arguments(self) -> tuple[str, ...]:
        """What the guest kernel's command line needs for it."""
        return () if self.name == "kvm" else (f"lpj={TCG_LOOPS_PER_JIFFY}",)


@dataclass(frozen=True)
class QemuInfo:
    """A QEMU program: its path, version, and the names of all devices it offers."""

    path: str
    version: str
    devices: frozenset[str]

    def missing(self) -> list[str]:
        """The devices that the machine needs and this QEMU does not have."""
        return [name for name in DEVICES if name not in self.devices]

    def require(self) -> None:
        """Raise HarnessError if a device of the machine is missing."""
        if self.missing():
            raise HarnessError(
                f"{self.path} (QEMU {self.version}) does not have the device {', '.join(self.missing())}. "
                "Use a QEMU that is built with it: Debian's package qemu-system-x86 is; a "
                "QEMU of your own needs CONFIG_EDU, CONFIG_IVSHMEM_DEVICE and CONFIG_VTD. "
                "Name it with --qemu PATH."
            )


def probe(qemu: str) -> QemuInfo:
    """Ask the program ``qemu`` what it is.  Raises HarnessError if it is not a QEMU."""
    path = shutil.which(qemu)
    if path is None:
        raise HarnessError(
            f"There is no QEMU at `{qemu}`. Install qemu-system-x86, or name another with --qemu PATH."
        )
    return _probe(path, Path(path).stat().st_mtime_ns)


@functools.cache
def _probe(path: str, changed: int) -> QemuInfo:  # noqa: ARG001 - a new program is asked anew
    """Two starts of QEMU, which every machine would otherwise wait for."""
    found = re.search(r"^QEMU emulator version (\S+)", _ask(path, "-version"), re.MULTILINE)
    if found is None:
        raise HarnessError(f"`{path} -version` does not answer as QEMU does. Name another with --qemu PATH.")
    devices = re.findall(r'^name "([^"]+)"', _ask(path, "-device", "help"), re.MULTILINE)
    return QemuInfo(path, found[1], frozenset(devices))


def _ask(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"`{' '.join(argv)}` could not be run: {error}") from error
    return done.stdout.decode(errors="replace")


def choose(store: Store, requested: str, qemu: str, bzimage: Path) -> Accelerator:
    """The accelerator for ``requested``: ``kvm``, ``tcg``, or ``auto``, which prefers KVM.

    That /dev/kvm opens, and even that it creates a machine, proves nothing; KVM
    is taken only if it brings ``bzimage`` as far as looking for a root disk.  The
    answer is remembered for this boot of the host, this processor and this QEMU.

    Raises HarnessError if ``kvm`` was requested and does not work.
    """
    if requested == "tcg":
        return Accelerator("tcg", TCG_TIME_SCALE, "as requested")
    info = probe(qemu)
    remembered = store.path("accelerator", digest(_host(), info.path, info.version) + ".json")
    trial = _recall(remembered)
    # An explicit wish is worth a new trial: the user may have repaired something.
    if trial is None or (requested == "kvm" and not trial.works):
        trial = try_kvm(info.path, bzimage, TRIAL_SECONDS)
        if trial.certain:
            write_atomically(remembered, json.dumps(asdict(trial)))
    if trial.works:
        return Accelerator("kvm", 1.0, trial.reason)
    if requested == "kvm":
        raise HarnessError(
            f"KVM was requested and does not work here: {trial.reason}. Use --accel tcg or auto."
        )
    return Accelerator("tcg", TCG_TIME_SCALE, trial.reason)


@dataclass(frozen=True)
class Trial:
    """Whether KVM ``works``, why, and whether that is the host's doing for ``certain``.

    A kernel that has begun to talk and then stops may have itself to blame, and
    a QEMU that ends at once is quickly asked again: neither is remembered.
    """

    works: bool
    reason: str
    certain: bool = True


def try_kvm(qemu: str, bzimage: Path, timeout: float) -> Trial:
    """Boot ``bzimage`` under KVM, without a disk, for at most ``timeout`` seconds."""
    if not Path("/dev/kvm").exists():
        return Trial(False, "there is no /dev/kvm", certain=False)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Trial(False, "/dev/kvm is there but may not be opened by this user", certain=False)
    argv = [
        *("setpriv", "--pdeathsig", "KILL", qemu, "-accel", "kvm", "-cpu", "max", "-m", "512M"),
        *("-machine", "q35,kernel-irqchip=split,sata=off,smbus=off,usb=off"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(bzimage), "-append", "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1"),
    ]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=timeout)
        hung = False
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        hung = True
    except BaseException:
        process.kill()
        process.wait()
        raise
    return judge_trial(output, errors, hung, timeout)


def judge_trial(output: bytes, errors: bytes, hung: bool, timeout: float) -> Trial:
    """What a trial's console ``output`` and QEMU's ``errors`` say about KVM."""
    if b"Kernel panic - not syncing" in output:
        return Trial(True, "KVM boots a kernel here")
    silent = b"Linux version" not in output
    if hung:
        how = "before its first line" if silent else "on the way"
        return Trial(False, f"/dev/kvm is there, but a kernel hangs under it {how} ({timeout:.0f} s)", silent)
    said = _first_line(errors)
    how = f"QEMU ended: {said}" if said else "a kernel resets under it"
    return Trial(False, f"/dev/kvm is there, but {how}", certain=False)


def _first_line(text: bytes) -> str:
    lines: Sequence[str] = text.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else ""


def _recall(path: Path) -> Trial | None:
    try:
        known = json.loads(path.read_text())
        return Trial(bool(known["works"]), f"{known['reason']}, as found before on this host")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _host() -> str:
    """This boot of this host: a new kernel or a new container may change what KVM does."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    identity = boot.read_text().strip() if boot.exists() else platform.node()
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{identity} {processor[1] if processor else platform.machine()} {os.getuid()}"
