"""Choose the accelerator by booting a kernel under it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.lib.files import digest, write_atomically
from harness.vm.qemu import probe

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
class KvmTrial:
    """Whether KVM ``works``, why, and whether that is the host's doing for ``certain``.

    A kernel that has begun to talk and then stops may have itself to blame, and
    a QEMU that ends at once is quickly asked again: neither is remembered.
    """

    works: bool
    reason: str
    certain: bool = True


def try_kvm(qemu: str, bzimage: Path, timeout: float) -> KvmTrial:
    """Boot ``bzimage`` under KVM, without a disk, for at most ``timeout`` seconds."""
    if not Path("/dev/kvm").exists():
        return KvmTrial(False, "there is no /dev/kvm", certain=False)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return KvmTrial(False, "/dev/kvm is there but may not be opened by this user", certain=False)
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


def judge_trial(output: bytes, errors: bytes, hung: bool, timeout: float) -> KvmTrial:
    """What a trial's console ``output`` and QEMU's ``errors`` say about KVM."""
    if b"Kernel panic - not syncing" in output:
        return KvmTrial(True, "KVM boots a kernel here")
    silent = b"Linux version" not in output
    if hung:
        how = "before its first line" if silent else "on the way"
        return KvmTrial(
            False, f"/dev/kvm is there, but a kernel hangs under it {how} ({timeout:.0f} s)", silent
        )
    said = _first_line(errors)
    how = f"QEMU ended: {said}" if said else "a kernel resets under it"
    return KvmTrial(False, f"/dev/kvm is there, but {how}", certain=False)


def _first_line(text: bytes) -> str:
    lines: Sequence[str] = text.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else ""


def _recall(path: Path) -> KvmTrial | None:
    try:
        known = json.loads(path.read_text())
        return KvmTrial(bool(known["works"]), f"{known['reason']}, as found before on this host")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _host() -> str:
    """This boot of this host: a new kernel or a new container may change what KVM does."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    identity = boot.read_text().strip() if boot.exists() else platform.node()
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{identity} {processor[1] if processor else platform.machine()} {os.getuid()}"
