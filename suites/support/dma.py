"""DMA by QEMU's edu through its IOMMU, and its two witnesses: the memory that it aims at, and the IOMMU.

The engine does not report that the IOMMU refused a transfer.  A device whose memory is
off loses a DMA by itself, so unchanged bytes alone do not show that the IOMMU did.
"""

from __future__ import annotations

import re
import struct
import time
from dataclasses import dataclass
from typing import Protocol

from harness.actor.expect import require_equal
from harness.actor.handles import PCI_COMMAND, Device
from harness.actor.mismatch import Mismatch
from harness.guest.iommu_faults import IommuFaults
from harness.lib.errors import HarnessError
from harness.vm.ram_bar import RamBar
from suites.support.constants import EDU_BAR, PCI_COMMAND_MASTER

# QEMU docs/specs/edu.rst: the DMA engine.
_SOURCE, _DESTINATION, _COUNT, _COMMAND = 0x80, 0x88, 0x90, 0x98
_START, _TO_MEMORY = 1, 2
_BUFFER = 0x40000  # the device's own memory, as its DMA engine addresses it
_POLLS = 2000  # QEMU begins a transfer 100 ms after the command
_POLL_SECONDS = 0.01
MOST = 4095  # bytes of one transfer: QEMU 7.2 ends if offset + count reaches the size of the buffer

ENGINES = 0x0DA7A001  # what the engine writes
OWNERS = 0x00000A11  # what the owner has written there


class Engine:
    """The DMA engine of an edu; addresses are below 256 MiB, and a transfer is one atomic step."""

    def __init__(self, edu: Device) -> None:
        self.edu = edu

    def start(self, source: int, destination: int, count: int, to_memory: bool) -> None:
        """Start a transfer, which happens 100 ms later."""
        command = self.edu.read("config", PCI_COMMAND, 2)
        if not command & PCI_COMMAND_MASTER:
            self.edu.write("config", PCI_COMMAND, 2, command | PCI_COMMAND_MASTER)
        for register, value in ((_SOURCE, source), (_DESTINATION, destination), (_COUNT, count)):
            self.edu.write(EDU_BAR, register, 8, value)
        self.edu.write(EDU_BAR, _COMMAND, 8, _START | (_TO_MEMORY if to_memory else 0))

    def finish(self) -> None:
        """Wait until the transfer is over.  HarnessError if it does not end."""
        for _ in range(_POLLS):
            if not self.edu.read(EDU_BAR, _COMMAND, 8) & _START:
                return
            time.sleep(_POLL_SECONDS)
        raise HarnessError(f"The DMA of {self.edu.address} does not end.")

    def start_write(self, address: int, count: int = 4) -> None:
        """Start to write the first ``count`` bytes of the edu's buffer to a DMA address."""
        self.start(_BUFFER, address, count, to_memory=True)

    def write(self, address: int, count: int = 4) -> None:
        """Write the first ``count`` bytes of the edu's buffer to a DMA address."""
        self.start_write(address, count)
        self.finish()

    def read(self, address: int, count: int = 4) -> None:
        """Read ``count`` bytes from a DMA address to the begin of the edu's buffer."""
        self.start(address, _BUFFER, count, to_memory=False)
        self.finish()


class Faults(IommuFaults):
    """The faults that the guest's IOMMUs report, counted by their interrupts.

    The kernel logs only about three faults in five seconds (drivers/iommu/intel/dmar.c,
    dmar_fault()), so a missing line proves nothing.
    """

    def require_more(self, before: int, what: str) -> None:
        """Raise Mismatch unless the IOMMU has reported a fault since the count was ``before``."""
        if self.count(above=before) <= before:
            clause = f"the IOMMU did not refuse {what}"
            expected = "a fault that the IOMMU reports"
            raise Mismatch(clause, expected=expected, seen="none", wanted=f"not ok {before}")

    def logged(self, device: Device, address: int, mark: int) -> bool:
        """Tell whether the console has the line of a write fault since ``mark``; wait for it a moment."""
        # Releases before 7.2 print no domain (dmar_fault_do_one()).
        domain, function = device.address.split(":", 1)
        line = rf"DMAR: \[DMA Write NO_PASID\] Request device \[({domain}:)?{re.escape(function)}\] "
        console = self.guest.machine.console
        pattern = rf"{line}fault addr {address:#x} "
        return console.wait_for(pattern, self.guest.deadline, mark) is not None


class Word(Protocol):
    """A 32-bit word that a DMA aims at, as seen past the IOMMU."""

    def read(self) -> int:
        """Return the word."""
        ...

    def write(self, value: int) -> None:
        """Set the word."""
        ...


@dataclass(frozen=True)
class HostWord:
    """A word of a RAM BAR, seen by the host."""

    bar: RamBar
    offset: int

    def read(self) -> int:
        """Return the word."""
        return self.bar.word(self.offset)

    def write(self, value: int) -> None:
        """Set the word."""
        self.bar.write(self.offset, struct.pack("<I", value))


@dataclass(frozen=True)
class RegisterWord:
    """A register of a device that keeps what is written, seen through the device fd."""

    device: Device
    bar: int
    offset: int

    def read(self) -> int:
        """Return the word."""
        return self.device.read(self.bar, self.offset, 4)

    def write(self, value: int) -> None:
        """Set the word."""
        self.device.write(self.bar, self.offset, 4, value)


@dataclass(frozen=True)
class Path:
    """A way of DMA: ``engine`` writes to ``iova``, where ``target`` is mapped; ``faults`` sees refusals."""

    engine: Engine
    faults: Faults
    target: Word
    iova: int

    def load(self) -> None:
        """Have the engine read ENGINES from the target, for the writes to come."""
        self.target.write(ENGINES)
        self.engine.read(self.iova)

    def require_lands(self) -> None:
        """Raise Mismatch unless the engine's write changes the target, without a fault."""
        before = self.faults.count()
        self.target.write(OWNERS)
        self.engine.write(self.iova)
        require_equal(self.target.read(), ENGINES, f"a DMA to {self.iova:#x} did not land")
        faults = self.faults.count() - before
        require_equal(faults, 0, f"the IOMMU reported faults of a DMA to {self.iova:#x} that landed")

    def require_refused(self, when: str) -> None:
        """Raise Mismatch unless the IOMMU refuses the engine's write; the target is not looked at."""
        before = self.faults.count()
        self.engine.write(self.iova)
        self.faults.require_more(before, f"a DMA to {self.iova:#x} {when}")

    def require_lost(self, when: str) -> None:
        """Raise Mismatch unless the IOMMU refuses the engine's write, and the target is unchanged."""
        self.target.write(OWNERS)
        before = self.faults.count()
        self.engine.write(self.iova)
        require_equal(self.target.read(), OWNERS, f"a DMA to {self.iova:#x} {when} landed")
        self.faults.require_more(before, f"a DMA to {self.iova:#x} {when}")
