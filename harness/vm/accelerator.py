"""Choose the accelerator by booting a kernel under it."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.lib import command
from harness.lib.cache import Store
from harness.lib.command import Captured
from harness.lib.errors import HarnessError
from harness.lib.files import digest, write_atomically
from harness.lib.text import printable, signal_name
from harness.vm.hardware import MIB
from harness.vm.qemu_program import changes, probe

# Deadline for a kernel under KVM to panic because it has no root disk.  Where KVM
# works, that takes less than a second.
TRIAL_SECONDS = 6.0
# Software emulation runs guest code some ten times slower than KVM does; the debug options
# of the kernel add to that.
TCG_TIME_SCALE = 4.0
# An emulated processor does not report the frequency of its time stamp counter, so the kernel measures
# it on each processor (init/calibrate.c, calibrate_delay_direct()): 0.3 s of a boot.  With this
# many cycles per jiffy and HZ=250 no delay is too short up to 4.2 GHz; below that delays are longer.
# With HZ=1000 it is about the most that __const_udelay() can multiply (arch/x86/lib/delay.c).
TCG_LOOPS_PER_JIFFY = 17_000_000

# The buffer of software emulation for translated code (bytes).  When it is full, QEMU empties it.  By
# default it is an eighth of the host's memory, at most 1 GiB.
TCG_CODE = 256 * MIB
# Emulated, `rep stosb` and `rep movsb` take a step for each byte.  Without the feature `erms` the kernel
# clears and copies pages in words (arch/x86/lib/clear_page_64.S, copy_mc.c), in about half the time.
TCG_CPU = "max,-erms"


@dataclass(frozen=True)
class Accelerator:
    """The way to run the guest's instructions: ``name`` is ``kvm`` or ``tcg``.

    ``time_scale`` is the factor for a deadline that was written for KVM;
    ``reason`` explains the choice.  Emulated processors that are ``parallel`` have a thread of the
    host each; else they take turns in one, which costs less (docs/findings.md).
    """

    name: str
    time_scale: float
    reason: str
    parallel: bool = False

    def slower(self, factor: float) -> Accelerator:
        """Return this with a time scale that is larger by ``factor``."""
        return replace(self, time_scale=self.time_scale * factor)

    def args(self) -> list[str]:
        """Return QEMU's arguments."""
        if self.name == "kvm":
            return ["-accel", "kvm", "-cpu", "max"]
        threads = "multi" if self.parallel else "single"
        return ["-accel", f"tcg,thread={threads},tb-size={TCG_CODE // MIB}", "-cpu", TCG_CPU]

    def kernel_arguments(self) -> tuple[str, ...]:
        """Return the arguments that the guest's kernel command line needs with this accelerator."""
        return () if self.name == "kvm" else (f"lpj={TCG_LOOPS_PER_JIFFY}",)


def choose(store: Store, requested: str, qemu: str, bzimage: Path) -> Accelerator:
    """Return the accelerator for ``requested``: ``kvm``, ``tcg``, or ``auto``, which prefers KVM.

    A /dev/kvm that opens, and even one that creates a machine, may not run a kernel.
    KVM is chosen only if ``bzimage`` boots under it until it looks for a root disk.
    The result is cached for this boot of the host, this processor and this QEMU.

    Raises HarnessError if ``kvm`` was requested and does not work, or ``qemu`` is not a QEMU.
    """
    if requested == "tcg":
        return Accelerator("tcg", TCG_TIME_SCALE, "as requested")
    info = probe(qemu)
    cached = store.path("accelerator", digest(_host_identity(), info.path, info.version) + ".json")
    trial = _recall(cached)
    # For an explicit request KVM is tried again: the user may have repaired it.
    if trial is None or (requested == "kvm" and not trial.works):
        trial = try_kvm(info.path, bzimage, TRIAL_SECONDS)
        if trial.certain:
            write_atomically(cached, json.dumps(asdict(trial)))
    if trial.works:
        return Accelerator("kvm", 1.0, trial.reason)
    if requested == "kvm":
        raise HarnessError(
            f"KVM was requested and does not work here: {trial.reason}. Use --accel tcg or auto."
        )
    return Accelerator("tcg", TCG_TIME_SCALE, trial.reason)


@dataclass(frozen=True)
class KvmTrial:
    """The result of a boot under KVM: true in ``works`` if KVM can be used, and the ``reason``.

    ``certain`` is true if the result depends on the host alone; only then it is cached.
    A kernel that prints something and then hangs may itself be the cause.  A QEMU that
    ends at once costs little to try again.
    """

    works: bool
    reason: str
    certain: bool = True


def try_kvm(qemu: str, bzimage: Path, timeout: float) -> KvmTrial:
    """Boot ``bzimage`` under KVM without a disk, for at most ``timeout`` seconds, and judge the trial."""
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
    return judge_trial(command.capture(argv, env=changes(), timeout=timeout), timeout)


def judge_trial(ended: Captured, timeout: float) -> KvmTrial:
    """Judge a trial by its console output, QEMU's errors, and how QEMU ended within ``timeout`` seconds."""
    output = ended.stdout
    if b"Kernel panic - not syncing" in output:
        return KvmTrial(True, "KVM boots a kernel here")
    silent = b"Linux version" not in output
    if ended.late:
        how = "before its first line" if silent else "on the way"
        return KvmTrial(
            False, f"/dev/kvm is there, but a kernel hangs under it {how} ({timeout:.0f} s)", silent
        )
    said = [printable(line) for line in ended.stderr.decode(errors="replace").strip().splitlines()]
    if ended.status < 0:
        how = ": ".join([f"QEMU crashed ({signal_name(-ended.status)})", *said[-1:]])
    elif said or ended.status:
        how = f"QEMU ended: {said[0] if said else f'exit status {ended.status}'}"
    else:
        how = "a kernel resets under it"
    return KvmTrial(False, f"/dev/kvm is there, but {how}", certain=False)


def _recall(path: Path) -> KvmTrial | None:
    try:
        known = json.loads(path.read_text())
        return KvmTrial(bool(known["works"]), f"{known['reason']}, as found before on this host")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _host_identity() -> str:
    """Identify this boot of this host, as a new kernel or container may change how KVM behaves."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    identity = boot.read_text().strip() if boot.exists() else platform.node()
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{identity} {processor[1] if processor else platform.machine()} {os.getuid()}"
