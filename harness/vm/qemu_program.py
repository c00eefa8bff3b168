"""The QEMU program on the host: its version, and the devices that it offers."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.lib import command
from harness.lib.command import Captured
from harness.lib.errors import HarnessError
from harness.lib.text import printable, signal_name
from harness.vm.hardware import SystemCallFilter

ANSWER_SECONDS = 60.0  # a host that is busy needs some seconds
TAIL_LINES = 5  # of what a QEMU said that did not answer

# The devices that the machine is made of (hardware.py, pci_devices.py) and that a QEMU may lack.
DEVICES = (
    "edu",
    "ivshmem-plain",
    "intel-iommu",
    "pcie-root-port",
    "pvpanic-pci",
    "virtio-blk-pci",
    "virtio-net-pci",
)

# Faults of QEMU under emulation: the first and the last release, and what such a QEMU does.
_FAULTS = (
    (
        (1, 0),
        (8, 1),
        "may lose an interrupt or crash while a processor moves a BAR, as the reset of a device does",
    ),
    ((10, 0), (10, 0), "ends by an assertion (iotlb_to_section) while two processors reset devices"),
)


@dataclass(frozen=True)
class QemuInfo:
    """A QEMU program: its path, version, and the names of all devices it offers.

    ``can_filter`` is true if it was built with a filter of its own system calls.
    """

    path: str
    version: str
    devices: frozenset[str]
    can_filter: bool = True

    @property
    def known_fault(self) -> str:
        """A fault of this version under emulation, as a sentence; empty if none is known.

        See docs/findings.md.
        """
        found = re.match(r"(\d+)\.(\d+)", self.version)
        release = (int(found[1]), int(found[2])) if found else (0, 0)
        texts = [text for first, last, text in _FAULTS if first <= release <= last]
        return f"Under emulation, QEMU {self.version} {texts[0]}." if texts else ""

    def missing(self) -> list[str]:
        """Return the devices of DEVICES that this QEMU lacks."""
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
    """Run ``qemu`` to get its version and devices.  Raises HarnessError if it is not a QEMU."""
    path = shutil.which(qemu)
    if path is None:
        raise HarnessError(
            f"There is no QEMU at `{qemu}`. Install qemu-system-x86, or name another with --qemu PATH."
        )
    return _probe(path, Path(path).stat().st_mtime_ns)


@functools.cache
def _probe(path: str, changed: int) -> QemuInfo:  # noqa: ARG001 - part of the cache's key
    """Start QEMU two or three times; cached, as every machine would otherwise wait for that."""
    answer = _ask(path, "-version")
    found = re.search(r"^QEMU emulator version (\S+)", answer.stdout.decode(errors="replace"), re.MULTILINE)
    if found is None:
        raise HarnessError(f"`{path} -version` does not answer as QEMU does. Name another with --qemu PATH.")
    help_for_devices = ("-device", "help")
    answer = _ask(path, *SystemCallFilter().args(), *help_for_devices)
    can_filter = answer.status == 0
    if not can_filter:
        answer = _ask(path, *help_for_devices)
    if answer.status != 0:
        raise _failed((path, *help_for_devices), f"exited with {answer.status}", answer)
    devices = re.findall(r'^name "([^"]+)"', answer.stdout.decode(errors="replace"), re.MULTILINE)
    return QemuInfo(path, found[1], frozenset(devices), can_filter)


def environment() -> dict[str, str]:
    """Return the environment for QEMU: nothing of the user's but where programs and libraries are."""
    kept = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def changes() -> dict[str, str | None]:
    """Return how environment() differs from that of this process, as command.capture() takes it."""
    return dict.fromkeys(os.environ) | environment()


def _ask(*argv: str) -> Captured:
    """Return what QEMU answers.  Raises HarnessError if it cannot be started, crashes or hangs."""
    try:
        answer = command.capture(argv, env=changes(), timeout=ANSWER_SECONDS)
    except OSError as error:
        raise HarnessError(f"`{' '.join(argv)}` could not be run: {error}") from error
    if answer.late:
        raise _failed(argv, f"did not answer within {ANSWER_SECONDS:.0f} s, and was killed", answer)
    if answer.status < 0:
        raise _failed(argv, f"crashed ({signal_name(-answer.status)})", answer)
    return answer


def _failed(argv: Sequence[str], end: str, answer: Captured) -> HarnessError:
    lines = (answer.stdout + answer.stderr).decode(errors="replace").splitlines()
    return HarnessError(
        f"`{' '.join(argv)}` {end}, so it is not known which devices this QEMU has. That is a fault of this "
        "QEMU or of the host. Run the command to see, or name another QEMU with --qemu PATH.",
        tail="\n".join(printable(line) for line in lines[-TAIL_LINES:]),
    )
