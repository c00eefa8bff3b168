"""STATE: every event in every state of a DMABUF, by the table suites/state_table.toml."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Device, Range
from harness.actor.reply import BUS_ADRERR, Refused, Sigbus
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from suites.support import state_table
from suites.support.constants import D0, D3HOT, IOVA, SENTINEL, VIRTIO_BAR, VIRTIO_SELECT, VIRTIO_VECTOR
from suites.support.dma import Engine
from suites.support.fixtures import Finding
from suites.support.reach import View
from suites.support.registers import RESETS

TABLE = state_table.load()
CHECKS = {
    "mmap()": ("STATE-15", "REV-03"),
    "access": ("STATE-16", "STATE-01", "STATE-06", "STATE-07", "REV-01", "LIFE-05"),
    "revoke": ("REV-08", "REV-04", "STATE-18", "LIFE-05"),
    "memory off": ("STATE-01", "STATE-11"),
    "memory on": ("STATE-02", "STATE-11", "REV-05", "LIFE-05"),
    "D3hot": ("STATE-06", "STATE-11"),
    "D0": ("STATE-06", "STATE-11", "REV-05"),
    "low power entry": ("STATE-07", "STATE-11"),
    "low power exit": ("STATE-07", "STATE-11", "REV-05"),
    "reset": ("STATE-03", "STATE-11", "REV-05"),
    "hot reset": ("STATE-13", "STATE-11", "REV-05"),
    "function-level reset": ("STATE-14", "STATE-11", "REV-05"),
    "last close": ("LIFE-05", "LIFE-09", "LIFE-10"),
    "import": ("IMP-06", "REV-14"),
    "DMA through an import": ("IMP-05", "REV-14"),
    "munmap() and close()": ("LIFE-06",),
}


@dataclass
class Subject:
    """A device and its DMABUF with a touched and an untouched mapping; ``importer`` does DMA to it.

    ``errnos`` collects those of refused mmap() calls.
    """

    owner: Actor
    address: str
    importer: Device
    errnos: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.device = self.owner.open(self.address, "cdev")

    def set_up(self, event: str) -> None:
        """Make a new DMABUF with its mappings, and an import if the event needs it."""
        self.buffer = self.owner.export(self.device, VIRTIO_BAR, [Range(0, PAGE)])
        self.touched, self.untouched = (self.owner.map(self.buffer) for _ in range(2))
        self.view = View.of(self.touched, VIRTIO_VECTOR)
        if event == "DMA through an import":
            self.importer.import_buffer(self.buffer, IOVA)

    def enter(self, state: str) -> None:
        """Bring the DMABUF from live to ``state``."""
        match state:
            case "memory off":
                self.device.decode_memory(False)
            case "D3hot":
                self.device.power(D3HOT)
            case "low power":
                self.device.enter_low_power()
            case "revoked":
                self.owner.revoke(self.buffer)
            case "gone":
                self.reopen()

    def reopen(self) -> None:
        """Close the device and open it again."""
        self.device.close()
        self.device = self.owner.open(self.address, "cdev")

    def make_accessible(self) -> None:
        """End low power and D3hot, and turn memory on."""
        self.device.exit_low_power()
        self.device.power(D0)
        self.device.decode_memory(True)

    def outcome(self, event: str) -> str:
        """Make the event happen; return its result in the table's words."""
        try:
            return self._do(event) or self._state()
        except Refused as refused:
            if event != "mmap()":
                return refused.errno
            self.errnos.add(refused.errno)
            return "refused"

    def _do(self, event: str) -> str | None:
        device = self.device
        match event:
            case "mmap()":
                with self.owner.map(self.buffer) as fresh:
                    return (
                        "done"
                        if fresh.load32(VIRTIO_VECTOR) == self.view.word
                        else "done, but not accessible"
                    )
            case "access":
                return self._access()
            case "revoke":
                self.owner.revoke(self.buffer, device=device)
            case "memory off" | "memory on":
                device.decode_memory(event == "memory on")
            case "D3hot" | "D0":
                device.power(D3HOT if event == "D3hot" else D0)
            case "low power entry":
                device.enter_low_power()
            case "low power exit":
                device.exit_low_power()
            case "last close":
                self.reopen()
            case "import":
                self.importer.import_buffer(self.buffer, IOVA)
                return "done"
            case "DMA through an import":
                return self._dma()
            case "munmap() and close()":
                return self._unmap_and_close()
            case _:
                RESETS[event](device)
        return None

    def _access(self) -> str:
        both = (self.touched, self.untouched)
        loads = self.owner.load_each([(mapping, VIRTIO_VECTOR) for mapping in both])
        stores = [mapping.store32(VIRTIO_SELECT, SENTINEL) for mapping in both]
        if (loads, stores) == ([self.view.word] * 2, [None] * 2):
            return "data"
        gone = ([Sigbus(BUS_ADRERR, VIRTIO_VECTOR)] * 2, [Sigbus(BUS_ADRERR, VIRTIO_SELECT)] * 2)
        return "SIGBUS" if (loads, stores) == gone else f"{loads}, {stores}"

    def _state(self) -> str:
        if self._access() == "data":
            return "live"
        self.make_accessible()
        if self._access() == "data":
            return "suspended"
        try:
            self.owner.revoke(self.buffer, device=self.device)
        except Refused as refused:
            return {"EBADFD": "revoked", "ENODEV": "gone"}.get(refused.errno, refused.errno)
        return "not accessible, but not revoked before"

    def _dma(self) -> str:
        self.make_accessible()
        self.device.write(VIRTIO_BAR, VIRTIO_SELECT, 4, SENTINEL)
        Engine(self.importer).write(IOVA)
        return "lost" if self.device.read(VIRTIO_BAR, VIRTIO_SELECT, 4) == SENTINEL else "lands"

    def _unmap_and_close(self) -> str:
        for mapping in (self.touched, self.untouched):
            mapping.unmap()
        self.buffer.close()
        return "done"

    def clear(self, event: str) -> None:
        """Undo set_up()."""
        self.make_accessible()
        if event != "munmap() and close()":
            self._unmap_and_close()


@machine(power=True)
@pytest.mark.parametrize(
    "event", [pytest.param(event, marks=requirement(*CHECKS[event])) for event in TABLE.events]
)
def test_an_event_in_every_state(
    c_owner: Actor, rng: Function, importer: Device, event: str, finding: Finding
) -> None:
    """An event in each state of a DMABUF has the result that the state table gives."""
    subject = Subject(c_owner, rng.address, importer)
    seen = {}
    for state in TABLE.states:
        subject.set_up(event)
        subject.enter(state)
        seen[state] = subject.outcome(event)
        subject.clear(event)
    if subject.errnos - {"ENODEV"}:
        finding(f"mmap() of a DMABUF that is not accessible is {', '.join(sorted(subject.errnos))}.")
    assert seen == TABLE.events[event], f"a DMABUF is in the wrong state after the event {event}"
