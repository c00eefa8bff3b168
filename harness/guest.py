"""The booted guest: files pushed into it, commands run in it, its devices bound and given back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.errors import BootError, HarnessError
from harness.hardware import SLOTS
from harness.machine import Machine
from harness.ssh import Completed
from harness.store import file_digest

VFIO_DRIVER = "vfio-pci"
SECONDS = 10.0  # for one small command, before the accelerator's time scale

# One line per device below a root port: port, address, vendor, device, driver, driver_override,
# then start,end,flags of each resource.  One process, for each costs tens of milliseconds here.
_LIST = r"""
cd /sys/bus/pci/devices || exit
for port in "$@"; do
    for dir in "$port"/0000:*:??.?; do
        [ -e "$dir/vendor" ] || continue
        driver=-; [ -e "$dir/driver" ] && driver=$(readlink "$dir/driver")
        group=-; [ -e "$dir/iommu_group" ] && group=$(readlink "$dir/iommu_group")
        read -r vendor <"$dir/vendor"; read -r device <"$dir/device"
        read -r override <"$dir/driver_override"
        printf "%s " "$port" "${dir##*/}" "$vendor" "$device" "${group##*/}" "${driver##*/}" "$override"
        while read -r start end flags; do printf " %s,%s,%s" "$start" "$end" "$flags"; done <"$dir/resource"
        echo
    done
done
"""

# Give the device $1 to the driver $2 with the override $3; "-" means none.
_BIND = r"""
dir=/sys/bus/pci/devices/$1
set -e
if [ -e "$dir/driver" ]; then echo "$1" >"$dir/driver/unbind"; fi
case $3 in -) echo >"$dir/driver_override";; *) echo "$3" >"$dir/driver_override";; esac
case $2 in -) ;; *) echo "$1" >"/sys/bus/pci/drivers/$2/bind";; esac
now=-; if [ -e "$dir/driver" ]; then now=$(readlink "$dir/driver"); fi
echo "${now##*/}"
"""

IORESOURCE_MEM = 0x200  # include/linux/ioport.h
PCI_BARS = 6


@dataclass(frozen=True)
class Device:
    """A PCI function behind its root port; ``bars`` maps the index of a memory BAR to its size in bytes.

    ``driver`` and ``override`` are what was found when the guest was looked at,
    empty for none; ``group`` is the IOMMU group.
    """

    role: str
    address: str
    vendor: int
    device: int
    group: str
    driver: str
    override: str
    bars: Mapping[int, int]


class Guest:
    """What a scenario may ask of a running machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._pushed: dict[str, str] = {}

    @property
    def patience(self) -> float:
        """Seconds that a small command may take here."""
        return SECONDS * self.machine.accelerator.time_scale

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Completed:
        """Run a command to its end.  Raises SshTimeoutError, SshLostError."""
        return self.machine.ssh.run(argv, self.patience, stdin)

    def read(self, path: str) -> str:
        """The content of a text file in the guest.  HarnessError if it cannot be read."""
        done = self.run(["cat", path])
        if done.status != 0:
            raise HarnessError(
                f"The guest's file {path} cannot be read: {done.stderr.decode(errors='replace').strip()}"
            )
        return done.stdout.decode(errors="replace")

    def push(self, local: Path, remote: str, mode: int = 0o755) -> str:
        """Copy a file into the guest, once per content; returns ``remote``."""
        content = file_digest(local)
        if self._pushed.get(remote) != content:
            self.machine.ssh.put(local, remote, mode, timeout=self.patience)
            self._pushed[remote] = content
        return remote

    @cached_property
    def devices(self) -> dict[str, Device]:
        """The devices of the layout, by role, as they were when first asked for."""
        ports = {f"0000:00:{number:02x}.0": role for role, number in SLOTS.items()}
        done = self.run(["sh", "-c", _LIST, "list", *ports])
        found = (_device(line, ports) for line in done.stdout.decode(errors="replace").splitlines())
        return {device.role: device for device in found}

    def require_vfio(self) -> None:
        """Raise BootError if this kernel cannot do what every scenario needs."""
        if self.run(["test", "-d", f"/sys/bus/pci/drivers/{VFIO_DRIVER}"]).status != 0:
            raise BootError(
                f"The kernel is up, but it has no {VFIO_DRIVER} driver. Build it with "
                "CONFIG_VFIO_PCI=y; vmimage/kconfig/vfio.config lists all that is needed."
            )

    @contextmanager
    def bind(self, role: str) -> Iterator[Device]:
        """Give the device to vfio-pci for the time of the ``with`` block, then back as it was found.

        Raises HarnessError if there is no such device, or the kernel does not
        let it go or take it.
        """
        if role not in self.devices:
            raise HarnessError(
                f"The machine has no device {role!r}; it has {', '.join(self.devices) or 'none'}."
            )
        device = self.devices[role]
        try:
            self._give(device, VFIO_DRIVER, VFIO_DRIVER)
            yield device
        finally:
            if self.machine.alive():
                self._give(device, device.driver, device.override)

    def _give(self, device: Device, driver: str, override: str) -> None:
        done = self.run(["sh", "-c", _BIND, "bind", device.address, driver or "-", override or "-"])
        if done.status != 0 or done.stdout.decode(errors="replace").strip() != (driver or "-"):
            raise HarnessError(
                f"The device {device.address} ({device.role}) could not be given to {driver or 'no driver'}: "
                f"{done.stderr.decode(errors='replace').strip() or 'the kernel took no notice'}"
            )


def _device(line: str, ports: Mapping[str, str]) -> Device:
    port, address, vendor, device, group, driver, override, *resources = line.split()
    bars = {}
    for index, resource in enumerate(resources[:PCI_BARS]):
        start, end, flags = (int(number, 16) for number in resource.split(","))
        if flags & IORESOURCE_MEM:
            bars[index] = end - start + 1
    return Device(
        role=ports[port],
        address=address,
        vendor=int(vendor, 16),
        device=int(device, 16),
        group="" if group == "-" else group,
        driver="" if driver == "-" else driver,
        override="" if override == "(null)" else override,
        bars=bars,
    )
