"""A DMABUF that importers share, and the calls of its owner that take it away from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require
from harness.actor.handles import Buffer, Device, Range
from harness.actor.importer import Event, Importer, Span
from harness.guest.guest import Guest, PciFunction
from harness.lib.errors import HarnessError
from harness.lib.text import counted
from harness.plugin.markers import on_dialect
from harness.vm.hardware import PAGE
from suites.support.constants import RAM_BAR

SPAN = (Range(3 * PAGE, 2 * PAGE),)
# From the callback to what the owner has to wait for, in ms; long beside any call that does not wait.
LATER = 500
_DEVICES = re.compile(r"^Total (\d+) devices attached$", re.MULTILINE)


@dataclass(frozen=True)
class Shared:
    """A device of an owner, one DMABUF of it, and the function's address."""

    owner: Actor
    device: Device
    buffer: Buffer

    @classmethod
    def of(cls, owner: Actor, function: PciFunction, ranges: Sequence[Range] = SPAN) -> Shared:
        """Open the device with the RAM BAR and export a part of it."""
        device = owner.open(function.address)
        return cls(owner, device, owner.export(device, RAM_BAR, ranges))

    def attached(self, importer: Importer, buffer: Buffer | None = None) -> Importer:
        """Attach an importer that P2PDMA lets map the buffer, and that looks at the device's power."""
        address = self.device.address
        importer.attach(buffer or self.buffer, device=address, exporter=address)
        return importer

    def mapped(self, importer: Importer, buffer: Buffer | None = None) -> Importer:
        """Attach an importer as attached() does, and map the buffer."""
        self.attached(importer, buffer).map()
        return importer


#: The calls that take a DMABUF away, for a time or for good.
TAKE_AWAY: Mapping[str, Callable[[Shared], None]] = {
    "revoke": lambda shared: shared.owner.revoke(shared.buffer),
    "memory off": lambda shared: shared.device.decode_memory(False),
    "low power": lambda shared: shared.device.enter_low_power(),
    "reset": lambda shared: shared.device.reset(),
    "close": lambda shared: shared.device.close(),
}
REVOKING = ("feature", "device-ioctl", "ioctl")  # the dialects with a call that revokes


def ways(*names: str) -> list[Any]:
    """Return parameters for these calls of TAKE_AWAY; a revoke is for the dialects that have one."""
    return [pytest.param(name, marks=on_dialect(*REVOKING)) if name == "revoke" else name for name in names]


#: The ends of the suspensions among them.
GIVE_BACK: Mapping[str, Callable[[Shared], None]] = {
    "memory off": lambda shared: shared.device.decode_memory(True),
    "low power": lambda shared: shared.device.exit_low_power(),
}


def bar_start(guest: Guest, function: PciFunction) -> int:
    """Return the address of the RAM BAR on the bus.  Raises HarnessError."""
    lines = guest.read(f"/sys/bus/pci/devices/{function.address}/resource").splitlines()
    return int(lines[RAM_BAR].split()[0], 16)


def attachments(guest: Guest) -> int:
    """Return how many devices are attached to all DMABUFs, as the kernel lists them.  Raises HarnessError."""
    text = guest.read("/sys/kernel/debug/dma_buf/bufinfo")
    if "Total " not in text:
        raise HarnessError(f"The guest's list of DMABUFs cannot be understood: {text[:200]!r}.")
    return sum(map(int, _DEVICES.findall(text)))


def require_let_go(importer: Importer) -> None:
    """Raise Mismatch if an importer still has the addresses of a DMABUF."""
    require(
        not importer.counts().mapped,
        "the importer still had the addresses of the DMABUF",
        expected="no map",
        seen="a map",
    )


def require_told(importer: Importer, *times: int) -> None:
    """Raise Mismatch unless an importer was told that its DMABUF is taken away so many ``times``."""
    seen = importer.counts().events["notified"]
    require(
        seen in times,
        f"the importer was told {counted(seen, 'time')} that the DMABUF is taken away",
        expected=" or ".join(counted(one, "time") for one in times),
        seen=counted(seen, "time"),
    )


def require_during(span: Span, event: Event) -> None:
    """Raise Mismatch unless an importer's event came within the owner's call."""
    require(
        span.began < event.time < span.ended,
        f"the event {event} of the importer did not come within the owner's call",
        expected="the event within the call",
        seen="before the call" if event.time <= span.began else "after the call",
    )


def require_after(span: Span, events: Sequence[Event], what: str) -> None:
    """Raise Mismatch unless the operation returned after each event; HarnessError if there is none."""
    if not events:
        raise HarnessError(f"There was nothing to wait for: the importer was never {what}.")
    early = (events[-1].time - span.ended) / 1e6
    require(
        early <= 0,
        f"the owner's call returned {early:.1f} ms before the importer had {what}",
        expected=f"a return after the importer had {what}",
        seen=f"a return {early:.1f} ms earlier",
    )
