"""IMP: imports by iommufd that a suspension ends, and the ways to take a dead one apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Device, Range
from harness.actor.iommufd import AddressSpace, PageTable, detach
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import machine, requirement
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import D0, D3HOT, IOVA, RAM_BAR, VIRTIO_BAR, VIRTIO_SELECT
from suites.support.dma import Engine, Faults, HostWord, Path, RegisterWord

LENGTH = 4 * PAGE
SPAN = [Range(0, LENGTH)]
EVENTS: dict[str, tuple[str, Callable[[Device], None], Callable[[Device], None] | None]] = {
    "memory": ("ram", lambda device: device.decode_memory(False), lambda device: device.decode_memory(True)),
    "low-power": ("ram", Device.enter_low_power, Device.exit_low_power),
    "reset": ("ram", Device.reset, None),
    "hot-reset": ("ram", Device.hot_reset, None),
    "D3hot": ("rng", lambda device: device.power(D3HOT), lambda device: device.power(D0)),
    "function-level-reset": ("rng", Device.reset_function, None),
}


POWER = machine(power=True)


@pytest.fixture
def function(guest: Guest, event: str) -> Iterator[Function]:
    """The device that the event happens to."""
    with guest.bind(EVENTS[event][0]) as device:
        yield device


@requirement("IMP-04", "IMP-05", "CONTRACT-14")
@pytest.mark.parametrize(
    "event",
    [pytest.param(name, marks=POWER) if role == "rng" else name for name, (role, *_) in EVENTS.items()],
)
def test_a_suspension_ends_an_import_for_good(
    c_owner: Actor,
    guest: Guest,
    function: Function,
    ram_witness: RamBar,
    importer: Device,
    engine: Engine,
    faults: Faults,
    event: str,
) -> None:
    """DMA is refused during a suspension and after it, until the address is unmapped and mapped again."""
    role, begin, end = EVENTS[event]
    device = c_owner.open(function.address)
    if role == "ram":
        buffer = c_owner.export(device, RAM_BAR, SPAN)
        path = Path(engine, faults, HostWord(ram_witness, 0), IOVA)
    else:
        buffer = c_owner.export(device, VIRTIO_BAR, [Range(0, PAGE)])
        register = RegisterWord(device, VIRTIO_BAR, VIRTIO_SELECT)
        path = Path(engine, faults, register, IOVA + VIRTIO_SELECT)
    space = AddressSpace.of(importer)
    space.map(buffer, IOVA)
    space.attach()
    path.load()
    path.require_lands()
    begin(device)
    if event == "low-power":
        guest.await_suspend(function)
    if end:
        # A register cannot be read now, but the bytes of a RAM BAR can, by the host.
        (path.require_lost if role == "ram" else path.require_refused)("during the suspension")
        end(device)
    path.require_lost("after the suspension")
    assert space.unmap(IOVA, buffer.size) == buffer.size
    assert space.map(buffer, IOVA) == IOVA
    path.require_lands()


class Importer:
    """An importer of ``buffer``: what iommufd has of it, and the steps that take it apart."""

    def __init__(self, device: Device, buffer: Buffer) -> None:
        self.device, self.buffer = device, buffer
        self.space = AddressSpace.of(device)
        self.space.map(buffer, IOVA)
        self.space.attach()
        self._table: PageTable | None = None

    def take(self, step: str) -> None:
        """Take a step of ORDERS.  Raises Refused."""
        match step:
            case "unmap":
                unmapped = self.space.unmap(IOVA, self.buffer.size)
                assert unmapped == self.buffer.size, "IOMMU_IOAS_UNMAP unmapped another length"
            case "attach anew":
                self._table = self.space.page_table()
                self._table.attach()
            case "detach":
                detach(self.device)
            case "destroy":
                if self._table:
                    self._table.destroy()
                self.space.destroy()
            case "close":
                self.device.close()


ORDERS = (
    ("close",),
    ("unmap", "detach", "destroy", "close"),
    ("detach", "unmap", "destroy", "close"),
    ("detach", "destroy", "close"),
    ("attach anew", "unmap", "detach", "destroy", "close"),
    ("attach anew", "detach", "attach anew", "close"),
)


@requirement("IMP-10")
@pytest.mark.parametrize("end", ["revoke", "suspension", "close"])
def test_a_dead_import_can_be_taken_apart_in_any_order(
    c_owner: Actor, guest: Guest, ram: Function, registers: Function, ram_witness: RamBar, end: str
) -> None:
    """Unmap, destroy, attach, detach and close succeed in any order once the DMABUF is not accessible."""
    device = c_owner.open(ram.address)
    faults = Faults(guest)
    for order in ORDERS:
        importer = Importer(c_owner.open(registers.address, "cdev"), c_owner.export(device, RAM_BAR, SPAN))
        path = Path(Engine(importer.device), faults, HostWord(ram_witness, 0), IOVA)
        if order == ORDERS[0]:
            path.load()  # the engine keeps what it has read
        path.require_lands()
        if end == "revoke":
            c_owner.revoke(importer.buffer)
        elif end == "suspension":
            device.decode_memory(False)
            device.decode_memory(True)
        else:
            device.close()
        for step in order:
            importer.take(step)
            if step == "attach anew":
                path.require_lost("through a page table that is newer than the end of access")
        importer.buffer.close()
        if end == "close":
            device = c_owner.open(ram.address)
    device.close()
    guest.unbind(ram)
    guest.rebind(ram)
