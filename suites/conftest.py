"""Who takes part in a scenario: an owner, its devices, and the host as a witness."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.guest import Device, Guest
from harness.probe import Actor

Start = Callable[[str], Actor]


@pytest.fixture(params=["c", "python"])
def owner(request: pytest.FixtureRequest, start: Start) -> Actor:
    """The process that holds the device: the C actor, and the Python probe as a second opinion."""
    return start(request.param)


@pytest.fixture
def c_owner(start: Start) -> Actor:
    """The C actor, for what the Python probe cannot do."""
    return start("c")


@pytest.fixture
def registers(guest: Guest) -> Iterator[Device]:
    """The device with the register BAR: QEMU's edu, BAR 0 of 1 MiB."""
    with guest.bind("edu") as device:
        yield device


@pytest.fixture
def ram(guest: Guest) -> Iterator[Device]:
    """The device with the RAM BAR: QEMU's ivshmem-plain, BAR 2; BAR 0 has 256 bytes of registers."""
    with guest.bind("ram") as device:
        yield device
