"""Fixtures of the scenarios: an owner, a guest's devices, and deadlines."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from harness.actor.actor import Actor
from harness.actor.handles import Device as OpenDevice
from harness.guest.guest import Guest, PciFunction
from suites.support.dma import Engine, Faults
from suites.support.fixtures import MemoryDevice, Start


@pytest.fixture(params=["c", "python"])
def owner(request: pytest.FixtureRequest, start: Start) -> Actor:
    """The process that holds the device: the C actor, and the Python probe as a second opinion."""
    return start(request.param)


@pytest.fixture(params=["group", "cdev"])
def via(request: pytest.FixtureRequest) -> str:
    """The way in to a device: VFIO's group, or its character device with iommufd."""
    way: str = request.param
    return way


@pytest.fixture
def c_owner(start: Start) -> Actor:
    """The C actor, for operations that the Python probe does not have."""
    return start("c")


@pytest.fixture
def registers(guest: Guest) -> Iterator[PciFunction]:
    """The device with the register BAR: QEMU's edu, BAR 0 of 1 MiB."""
    with guest.bind("edu") as device:
        yield device


@pytest.fixture(params=["ram", "edu", "display"])
def memory(request: pytest.FixtureRequest, guest: Guest) -> Iterator[MemoryDevice]:
    """A device with a BAR of memory: each kind that this QEMU has."""
    device = guest.devices.get(request.param)
    if device is None or device.memory_bar is None:
        pytest.skip(f"this QEMU has no {request.param} device with a BAR of memory")
    with guest.bind(request.param):
        yield MemoryDevice(device, device.memory_bar)


@pytest.fixture
def rng(guest: Guest) -> Iterator[PciFunction]:
    """The device with power management and function-level reset (virtio-rng-pci): @machine(power=True)."""
    with guest.bind("rng") as device:
        yield device


@pytest.fixture
def bigram(guest: Guest) -> Iterator[PciFunction]:
    """The device with a RAM BAR of 1 GiB, else as ``ram``: @machine(big_ram=True)."""
    with guest.bind("bigram") as device:
        yield device


@pytest.fixture
def ram(guest: Guest) -> Iterator[PciFunction]:
    """The device with the RAM BAR: QEMU's ivshmem-plain, BAR 2; BAR 0 has 256 bytes of registers."""
    with guest.bind("ram") as device:
        yield device


@pytest.fixture
def one_second(guest: Guest, c_owner: Actor) -> int:
    """The deadline for an operation of the C actor that may take one second of the guest's clock.

    It is longer where the processor is emulated.  The actor itself multiplies it by
    the slowdown of the kernel.
    """
    return math.ceil(guest.machine.accelerator.time_scale / c_owner.slowdown)


@pytest.fixture
def second_ram(guest: Guest) -> Iterator[PciFunction]:
    """Another device of the same kind as ``ram``."""
    with guest.bind("ram2") as device:
        yield device


@pytest.fixture
def importer(c_owner: Actor, registers: PciFunction) -> OpenDevice:
    """A device that can do DMA, and whose iommufd imports DMABUFs of another device."""
    return c_owner.open(registers.address, "cdev")


@pytest.fixture
def engine(importer: OpenDevice) -> Engine:
    """The DMA engine of the importer."""
    return Engine(importer)


@pytest.fixture
def faults(guest: Guest) -> Faults:
    """The faults that the IOMMU reports."""
    return Faults(guest)
