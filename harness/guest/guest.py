"""The booted guest: copy files into it, run commands in it, bind and restore its PCI devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from harness.guest import files, scripts
from harness.guest.answers import understood
from harness.guest.files import Files, Step, StepFailedError
from harness.guest.shell import Shell
from harness.guest.symbols import KALLSYMS, Symbols
from harness.lib.errors import BootError, HarnessError, NoReturnError
from harness.lib.files import file_digest
from harness.vm.agent import Handover
from harness.vm.machine import Machine
from harness.vm.pci_devices import MEMORY_BARS, SLOTS
from harness.vm.recorder import NoRecord, Recorder
from harness.vm.ssh import Completed, SshTimeoutError, Stream

VFIO_DRIVER = "vfio-pci"
SECONDS = 10.0  # for one small command, before the accelerator's time scale

_IOMEM = re.compile(r"(?P<indent> *)(?P<start>[0-9a-f]+)-[0-9a-f]+ : (?P<name>.*)")
IORESOURCE_MEM = 0x200  # include/linux/ioport.h
PCI_BARS = 6
LONGEST_REPLY = 200  # characters of a file's content that a transcript has whole


class UnbindTimeoutError(NoReturnError):
    """The kernel did not unbind a device in time: something still holds a reference to it."""


@dataclass(frozen=True)
class PciFunction:
    """A PCI function behind its root port; ``bars`` maps the index of a memory BAR to its size in bytes.

    ``driver`` and ``override`` (driver_override) are as found when the guest was
    first asked, empty for none; ``group`` is the IOMMU group's number.
    """

    role: str
    address: str
    vendor: int
    device: int
    group: str
    driver: str
    override: str
    bars: Mapping[int, int]

    @property
    def memory_bar(self) -> int | None:
        """The index of the BAR that is memory; None if there is no such BAR."""
        bar = MEMORY_BARS.get(self.role)
        return bar if bar in self.bars else None


class Guest:
    """The operations that a scenario may use on a running machine.

    Those that act on the kernel under test, and read(), are told to ``recorder``; run() and
    script() are not.  ``pushed`` has the digest of each file that push() has copied, by its path.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.recorder: Recorder = NoRecord()
        self.pushed: dict[str, str] = {}
        self._unbinding: set[str] = set()  # addresses that begin_unbind() was called for
        self._agent = machine.agent
        self._shell = Shell(self._agent)
        self._files = Files(self._agent)

    @cached_property
    def symbols(self) -> Symbols:
        """The functions of the running kernel.  Raises HarnessError, SshTimeoutError, SshLostError."""
        return Symbols.parse(self._content(KALLSYMS).decode(errors="replace"))

    @property
    def deadline(self) -> float:
        """The deadline of a small command in this machine, in seconds."""
        return SECONDS * self.machine.accelerator.time_scale

    def handover(self) -> Handover | None:
        """Return what it takes to use this guest's agent after it was loaded from a snapshot."""
        return self._agent.handover()

    def take_over(self, handover: Handover | None, pushed: Mapping[str, str]) -> None:
        """Use the agent and the ``pushed`` files of the snapshot that this guest was loaded from."""
        if handover is not None:
            self._agent.take_over(handover)
        self.pushed.update(pushed)

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Completed:
        """Run a command to its end.  Raises SshTimeoutError after ``deadline`` seconds, SshLostError."""
        return self.machine.ssh.run(argv, self.deadline, stdin)

    def stream(self, argv: Sequence[str]) -> Stream:
        """Start a program and return its streams, at a tenth of the cost of run().

        Raises SshTimeoutError, SshLostError.
        """
        return self._agent.stream(argv, self.deadline)

    def fork(self, template: Sequence[str]) -> Stream:
        """Fork a program from a running one, which the first call starts; see Agent.fork().

        Raises SshTimeoutError, SshLostError.
        """
        return self._agent.fork(template, self.deadline)

    def steps(self, *steps: Step) -> list[bytes | None]:
        """Read and write files, at a third of the cost of a script; see Files.do().

        Raises StepFailedError, HarnessError, SshTimeoutError, SshLostError.
        """
        return self._files.do(steps, self.deadline)

    def script(self, text: str, *arguments: str, seconds: float | None = None) -> Completed:
        """Run a small POSIX shell script to its end, at a tenth of the cost of run().

        Its input is empty.  Raises SshTimeoutError after ``seconds``, by default ``deadline``, and
        SshLostError.
        """
        return self._shell.run(text, arguments, self.deadline if seconds is None else seconds)

    def read(self, path: str) -> str:
        """Return the content of a text file in the guest.  Raises HarnessError if it cannot be read."""
        return self.read_bytes(path).decode(errors="replace")

    def read_bytes(self, path: str) -> bytes:
        """Return the content of a file in the guest.  Raises HarnessError if it cannot be read."""
        self.recorder.step(f"guest read {path}")
        content = self._content(path)
        text = content.decode(errors="replace").strip()
        whole = len(text) <= LONGEST_REPLY and text.isprintable()
        self.recorder.reply(f"ok {text}".rstrip() if whole else f"ok bytes={len(content)}")
        return content

    def write(self, path: str, text: str) -> None:
        """Write ``text`` and a newline to a file in the guest.  Raises HarnessError if that fails."""
        self.recorder.step(f"guest write {path} {text}")
        try:
            self.steps(files.write(path, text))
        except StepFailedError as error:
            raise HarnessError(f"The guest's file cannot be written: {error.reason}") from error

    def _content(self, path: str) -> bytes:
        try:
            (content,) = self.steps(files.read(path))
        except StepFailedError as error:
            raise HarnessError(f"The guest's file cannot be read: {error.reason}") from error
        return content or b""

    def push(self, local: Path, remote: str, mode: int = 0o755) -> str:
        """Copy a file into the guest, unless its content was pushed there before; return ``remote``."""
        content = file_digest(local)
        if self.pushed.get(remote) != content:
            self.machine.ssh.put(local, remote, mode, timeout=self.deadline)
            self.pushed[remote] = content
        return remote

    @cached_property
    def devices(self) -> dict[str, PciFunction]:
        """The devices of the layout by role, as found at the first use of this property."""
        ports = {f"0000:00:{number:02x}.0": role for role, number in SLOTS.items()}
        done = self.script(scripts.LIST_DEVICES, *ports)
        with understood("list of devices"):
            found = [_device(line, ports) for line in done.stdout.decode(errors="replace").splitlines()]
        return {device.role: device for device in found}

    def claimed_bars(self, device: PciFunction) -> dict[int, str]:
        """Return the claimed BARs of a device: BAR index to the claimant's name in /proc/iomem."""
        resources = self.read(f"/sys/bus/pci/devices/{device.address}/resource").splitlines()
        lines = [_IOMEM.fullmatch(line) for line in self.read("/proc/iomem").splitlines()]
        found = {}
        with understood("list of resources"):
            bars = {int(line.split()[0], 16): bar for bar, line in enumerate(resources[:PCI_BARS])}
            for outer, inner in pairwise(line for line in lines if line):
                if outer["name"] == device.address and len(inner["indent"]) > len(outer["indent"]):
                    found[bars[int(outer["start"], 16)]] = inner["name"]
        return found

    def has_driver(self, name: str) -> bool:
        """Return whether this kernel has a PCI driver of this name."""
        return self.script('test -d "$1"', f"/sys/bus/pci/drivers/{name}").status == 0

    def require_vfio(self) -> None:
        """Raise BootError if this kernel has no vfio-pci driver, which every scenario needs."""
        if not self.has_driver(VFIO_DRIVER):
            raise BootError(
                f"The kernel is up, but it has no {VFIO_DRIVER} driver. Build it with "
                "CONFIG_VFIO_PCI=y; vmimage/kconfig/vfio.config lists all that is needed."
            )

    @contextmanager
    def bind(self, role: str, driver: str = VFIO_DRIVER) -> Iterator[PciFunction]:
        """Bind the device to a driver during the ``with`` block, then restore its driver and override.

        Raises HarnessError if there is no such device, or the bind fails;
        UnbindTimeoutError if the kernel does not unbind it in time.
        """
        if role not in self.devices:
            raise HarnessError(
                f"The machine has no device {role!r}; it has {', '.join(self.devices) or 'none'}."
            )
        device = self.devices[role]
        self.recorder.device(role, device.address)
        try:
            self.recorder.step(f"guest bind {device.address} {driver}")
            self._bind(device, driver, driver)
            yield device
        finally:
            if self.machine.alive():
                self.recorder.step(f"guest restore {device.address} {device.driver or '-'}")
                self._bind(device, device.driver, device.override)

    def unbind(self, device: PciFunction) -> None:
        """Unbind a device from its driver, within bind().  Raises UnbindTimeoutError."""
        self.recorder.step(f"guest unbind {device.address}")
        self._bind(device, "", VFIO_DRIVER)

    def begin_unbind(self, device: PciFunction) -> None:
        """Start to unbind a device that is open, within bind(); return once its driver waits.

        The driver waits for the close of the last descriptor, with the device's lock
        held (drivers/vfio/vfio_main.c, vfio_unregister_group_dev()).
        """
        self.recorder.step(f"guest begin-unbind {device.address}")
        self._run_on(scripts.BEGIN_UNBIND, device, "begin to be unbound")
        self._unbinding.add(device.address)

    def await_suspend(self, device: PciFunction) -> None:
        """Wait until the kernel has runtime-suspended a device, which is a moment after the last use.

        Raises HarnessError if the device does not suspend.
        """
        self.recorder.step(f"guest await-suspend {device.address}")
        self._run_on(scripts.AWAIT_SUSPEND, device, "be suspended")

    def _run_on(self, script: str, device: PciFunction, purpose: str) -> None:
        done = self.script(script, device.address)
        if done.status != 0:
            raise HarnessError(
                f"The device {device.address} ({device.role}) was to {purpose}: "
                f"{done.stderr.decode(errors='replace').strip()}"
            )

    def rebind(self, device: PciFunction) -> None:
        """Bind a device to vfio-pci again after unbind()."""
        self.recorder.step(f"guest bind {device.address} {VFIO_DRIVER}")
        self._bind(device, VFIO_DRIVER, VFIO_DRIVER)

    def replug(self, device: PciFunction) -> None:
        """Remove a device from the PCI bus and rescan; the device comes back without a driver.

        Raises UnbindTimeoutError if the driver does not release it, HarnessError if it does not come back.
        """
        self.recorder.step(f"guest replug {device.address}")
        with self._timeout_as_held(device):
            done = self.script(scripts.REPLUG, device.address)
        if done.status != 0:
            raise HarnessError(
                f"The device {device.address} ({device.role}) did not come back: "
                f"{done.stderr.decode(errors='replace').strip()}"
            )

    @contextmanager
    def _timeout_as_held(self, device: PciFunction) -> Iterator[None]:
        try:
            yield
        except SshTimeoutError as error:
            raise UnbindTimeoutError(
                f"The kernel did not unbind the device {device.address} ({device.role}) within "
                f"{self.deadline:.0f} s."
            ) from error

    def _bind(self, device: PciFunction, driver: str, override: str) -> None:
        with self._timeout_as_held(device):
            if device.address in self._unbinding:
                self.script(scripts.AWAIT_UNBOUND, device.address)
                self._unbinding.discard(device.address)
            try:
                self.steps(*_binding(device.address, driver, override))
            except StepFailedError as error:
                raise HarnessError(
                    f"The device {device.address} ({device.role}) could not be given to "
                    f"{driver or 'no driver'}: {error.reason}"
                ) from error


def _binding(address: str, driver: str, override: str) -> Iterator[Step]:
    """Yield the steps that bind a device to a driver, or to none, with this driver_override."""
    folder = f"/sys/bus/pci/devices/{address}"
    yield files.write(f"{folder}/driver/unbind", address, may_lack=True)
    yield files.write(f"{folder}/driver_override", override)
    if driver:
        yield files.write(f"/sys/bus/pci/drivers/{driver}/bind", address)
        yield files.present(f"/sys/bus/pci/drivers/{driver}/{address}")
    else:
        yield files.absent(f"{folder}/driver")


def _device(line: str, ports: Mapping[str, str]) -> PciFunction:
    port, address, vendor, device, group, driver, override, *resources = line.split()
    bars = {}
    for index, resource in enumerate(resources[:PCI_BARS]):
        start, end, flags = (int(number, 16) for number in resource.split(","))
        if flags & IORESOURCE_MEM:
            bars[index] = end - start + 1
    return PciFunction(
        role=ports[port] if address.endswith(".0") else f"{ports[port]}2",
        address=address,
        vendor=int(vendor, 16),
        device=int(device, 16),
        group="" if group == "-" else group,
        driver="" if driver == "-" else driver,
        override="" if override == "(null)" else override,
        bars=bars,
    )
