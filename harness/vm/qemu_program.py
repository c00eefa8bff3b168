"""The QEMU program on the host: its version, and the devices that it offers."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.lib.errors import HarnessError

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


@dataclass(frozen=True)
class QemuInfo:
    """A QEMU program: its path, version, and the names of all devices it offers."""

    path: str
    version: str
    devices: frozenset[str]

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
    """Start QEMU twice; cached, as every machine would otherwise wait for that."""
    found = re.search(r"^QEMU emulator version (\S+)", _output(path, "-version"), re.MULTILINE)
    if found is None:
        raise HarnessError(f"`{path} -version` does not answer as QEMU does. Name another with --qemu PATH.")
    devices = re.findall(r'^name "([^"]+)"', _output(path, "-device", "help"), re.MULTILINE)
    return QemuInfo(path, found[1], frozenset(devices))


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"`{' '.join(argv)}` could not be run: {error}") from error
    return done.stdout.decode(errors="replace")
