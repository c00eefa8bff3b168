"""ERR: malformed revokes are refused, revoke nothing and leave nothing behind.

A row of the table is a descriptor that no revoke takes.  The C actor revokes each
requirement's rows in a scenario of its own, the Python probe all rows in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.actor.expect import require_data, require_pages
from harness.actor.handles import Buffer, Range
from harness.actor.ioctl import (
    BAD_POINTERS,
    GET,
    PROBE,
    SET,
    VFIO_DEVICE_FEATURE,
    Anchor,
    Target,
    call,
    feature,
    hold,
)
from harness.actor.reply import BUS_ADRERR, Sigbus, outcome
from harness.guest.guest import PciFunction as Function
from harness.kernel.dialect import Interfaces
from harness.plugin.markers import machine, on_dialect, requirement
from harness.vm.hardware import PAGE
from suites.support.cases import (
    EVERY,
    FEATURE_SIZE,
    IOCTL_SIZE,
    LENGTH,
    PAGES,
    SPAN,
    Creation,
    LiveBuffer,
    deviations,
    nothing_left,
    require_none,
    require_refused,
)
from suites.support.constants import (
    D0,
    D3HOT,
    DMA_BUF_IOCTL_REVOKE,
    RAM_BAR,
    REVOKE_NUMBERS,
    VFIO_DEVICE_PCI_DMABUF_REVOKE,
    VIRTIO_BAR,
)
from suites.support.fixtures import Finding, Start

REVOKING = ("feature", "device-ioctl", "ioctl")  # the dialects with a call that revokes


@pytest.fixture
def live(owner: Actor, ram: Function) -> LiveBuffer:
    """A live DMABUF of a device opened by its own file: its iommufd is a descriptor of the owner's."""
    return LiveBuffer(owner, owner.open(ram.address, "cdev"))


@pytest.fixture
def c_live(c_owner: Actor, ram: Function) -> LiveBuffer:
    """A live DMABUF of the C actor, else as ``live``."""
    return LiveBuffer(c_owner, c_owner.open(ram.address, "cdev"))


# -- the table of descriptors ----------------------------------------------------------


def closed(live: LiveBuffer) -> int:
    """Return the number of a descriptor of a DMABUF that has been closed."""
    number = Creation().make(live.device)
    hold(live.device, number).close()
    return number


def revoked(live: LiveBuffer) -> Buffer:
    """Return a revoked DMABUF."""
    buffer = live.owner.export(live.device, RAM_BAR, SPAN)
    live.revoke(buffer)
    return buffer


def of_another_device(live: LiveBuffer, second_ram: Function) -> Buffer:
    """Return a DMABUF of another VFIO device of the same owner."""
    return live.owner.export(live.owner.open(second_ram.address, "cdev"), RAM_BAR, SPAN)


@dataclass(frozen=True)
class Row:
    """A row of the table: what is revoked, and the errno from the device and from the DMABUF's ioctl."""

    id: str
    what: str
    by_device: str
    by_dmabuf: str
    make: Callable[[LiveBuffer], Target]


NOT_A_DMABUF = ("EINVAL", "ENOTTY")
NOT_OPEN = ("EBADF", "EBADF")
NOT_OF_VFIO = ("ENODEV", "EINVAL")

TARGETS = (
    Row("ERR-42", "standard output", *NOT_A_DMABUF, lambda live: 1),
    Row("ERR-42", "a memfd", *NOT_A_DMABUF, lambda live: live.owner.make("memfd", LENGTH)),
    Row("ERR-42", "an eventfd", *NOT_A_DMABUF, lambda live: live.owner.make("eventfd", 0)),
    Row("ERR-42", "the device itself", *NOT_A_DMABUF, lambda live: live.device),
    Row("ERR-42", "its iommufd", *NOT_A_DMABUF, lambda live: Anchor(live.device)),
    Row("ERR-43", "-1", *NOT_OPEN, lambda live: -1),
    Row("ERR-43", "1 << 30", *NOT_OPEN, lambda live: 1 << 30),
    Row("ERR-43", "2^31 - 1", *NOT_OPEN, lambda live: (1 << 31) - 1),
    Row("ERR-43", "a closed descriptor", *NOT_OPEN, closed),
    Row("ERR-43", "an O_PATH descriptor", *NOT_OPEN, lambda live: live.buffer.reopen("path")),
    Row("ERR-44", "a udmabuf", *NOT_OF_VFIO, lambda live: live.owner.make("udmabuf", LENGTH)),
    Row("ERR-44", "a DMABUF of a heap", *NOT_OF_VFIO, lambda live: live.owner.make("heap", LENGTH)),
    Row("ERR-45", "a revoked DMABUF", "EBADFD", "EBADFD", revoked),
)
ROWS_OF = {
    name: [one for one in TARGETS if one.id == name] for name in dict.fromkeys(one.id for one in TARGETS)
}


def require_rows(live: LiveBuffer, targets: Iterable[Row]) -> None:
    """Raise Mismatch if a revoke differs from its row, or changes the live DMABUF."""
    wrong = []
    for one in targets:
        target = one.make(live)
        errno = one.by_device if live.by_device else one.by_dmabuf
        wrong += deviations(live.owner, {one.what: partial(live.revoke, target)}, [errno])
    require_none(wrong)
    live.require_alive()


@requirement("ERR-00")
@on_dialect("base", *REVOKING)
@pytest.mark.parametrize("name", [pytest.param(name, marks=requirement(name)) for name in ROWS_OF])
def test_a_revoke_of_no_live_dmabuf_is_refused(c_live: LiveBuffer, name: str) -> None:
    """A revoke of anything but a live DMABUF of the device gets its row's errno and leaves nothing behind."""
    require_rows(c_live, ROWS_OF[name])


@requirement("ERR-00", *ROWS_OF)
@on_dialect("base", *REVOKING)
def test_a_revoke_from_python_of_no_live_dmabuf_is_refused(start: Start, ram: Function) -> None:
    """Every row of the table holds for the Python probe."""
    owner = start("python")
    live = LiveBuffer(owner, owner.open(ram.address, "cdev"))
    require_rows(live, TARGETS)


# -- other devices, and other states of the device -------------------------------------


@requirement("ERR-46", "ERR-00")
@on_dialect("base", "feature", "device-ioctl")
def test_a_revoke_by_another_device_is_enodev(live: LiveBuffer, second_ram: Function) -> None:
    """A revoke of another VFIO device's DMABUF is ENODEV and leaves its mappings as they are."""
    other = of_another_device(live, second_ram)
    mapping = live.owner.map(other)
    assert mapping.stamp(seed=0x60) is None
    require_refused(live.owner, {"revoke": lambda: live.revoke(other)}, "ENODEV")
    require_pages(range(0x60, 0x60 + PAGES), mapping, live.owner.map(other))
    live.require_alive()


@requirement("ERR-46")
@on_dialect("ioctl")
def test_the_revoke_ioctl_takes_any_devices_dmabuf(
    live: LiveBuffer, second_ram: Function, finding: Finding
) -> None:
    """The DMABUF's own ioctl revokes it whatever device exported it."""
    other = of_another_device(live, second_ram)
    mapping = live.owner.map(other)
    assert mapping.stamp() is None
    with nothing_left(live.owner):
        live.revoke(other)
    finding("the call is on the DMABUF and succeeds, whatever device it is of")
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)
    live.require_alive()


@requirement("ERR-47", "ERR-00")
@on_dialect("base", *REVOKING)
@pytest.mark.parametrize("before", ["alive", "revoked"])
def test_a_revoke_after_the_device_reopened_is_enodev(owner: Actor, ram: Function, before: str) -> None:
    """A revoke of a DMABUF from before the last close is ENODEV, also if the DMABUF was revoked before."""
    device = owner.open(ram.address, "cdev")
    buffer = owner.export(device, RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    if before == "revoked":
        owner.revoke(buffer)
    device.close()
    again = owner.open(ram.address, "cdev")
    fresh = owner.map(owner.export(again, RAM_BAR, SPAN))
    assert fresh.stamp(seed=9) is None
    require_refused(owner, {"revoke": lambda: owner.revoke(buffer, device=again)}, "ENODEV")
    assert fresh.pages() == list(range(9, 9 + PAGES))
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-51")
@on_dialect("base", *REVOKING)
def test_a_revoke_while_memory_is_off_succeeds(owner: Actor, ram: Function) -> None:
    """A revoke while memory decoding is off succeeds, and is permanent."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    assert mapping.stamp() is None
    with nothing_left(owner):
        device.decode_memory(False)
        owner.revoke(buffer)
        device.decode_memory(True)
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-56")
@on_dialect("base", *REVOKING)
def test_a_revoke_in_low_power_succeeds(owner: Actor, ram: Function) -> None:
    """A revoke while the device is in low power succeeds, and is permanent."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    mapping = owner.map(buffer)
    assert mapping.stamp() is None
    with nothing_left(owner):
        device.enter_low_power()
        owner.revoke(buffer)
        device.exit_low_power()
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-56")
@on_dialect("base", *REVOKING)
@machine(power=True)
def test_a_revoke_in_d3hot_succeeds(owner: Actor, rng: Function) -> None:
    """A revoke while the device is in D3hot succeeds, and is permanent."""
    device = owner.open(rng.address)
    buffer = owner.export(device, VIRTIO_BAR, [Range(0, PAGE)])
    mapping = owner.map(buffer)
    require_data(mapping)
    with nothing_left(owner):
        device.power(D3HOT)
        owner.revoke(buffer)
        device.power(D0)
        assert outcome(lambda: owner.revoke(buffer)) == "EBADFD"
    assert mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


# -- the feature that revokes ----------------------------------------------------------


@requirement("ERR-40", "ERR-00")
@on_dialect("feature")
def test_the_revoke_feature_without_set_is_einval(live: LiveBuffer) -> None:
    """GET, PROBE with GET, SET with GET, none of these, and unknown flags are EINVAL and revoke nothing."""
    ways = (GET, GET | PROBE, GET | SET, GET | SET | PROBE, 0, SET | 1 << 19, SET | 1 << 31)
    require_refused(live.owner, {hex(way): partial(live.ask, way, live.buffer) for way in ways}, "EINVAL")
    live.require_alive()


@requirement("ERR-41", "ERR-00")
@on_dialect("feature")
def test_a_probe_revokes_nothing(owner: Actor, ram: Function) -> None:
    """PROBE with SET of the revoke feature succeeds whatever follows, and revokes nothing."""
    live = LiveBuffer(owner, owner.open(ram.address))
    with nothing_left(owner):
        for target in (live.buffer, -1):
            assert live.ask(SET | PROBE, target) == 0
        assert live.ask(SET | PROBE, live.buffer, argsz=8, present=8) == 0
    live.require_alive()


@requirement("ERR-48", "ERR-00")
@on_dialect("feature")
def test_a_revoke_with_a_short_argsz_is_einval(live: LiveBuffer) -> None:
    """A revoke with an argsz below 12 is EINVAL, and revokes nothing."""
    attempts = {argsz: partial(live.ask, SET, live.buffer, argsz) for argsz in (0, 7, 8, 9, FEATURE_SIZE - 1)}
    require_refused(live.owner, attempts, "EINVAL")
    live.require_alive()


@requirement("ERR-49")
@on_dialect("feature")
@pytest.mark.parametrize("argsz", [13, 16, 64, EVERY - 1])
def test_a_revoke_with_a_long_argsz_succeeds(live: LiveBuffer, argsz: int) -> None:
    """A revoke with an argsz above 12 succeeds although only 12 bytes can be read."""
    with nothing_left(live.owner):
        assert live.ask(SET, live.buffer, argsz, present=FEATURE_SIZE) == 0
    assert live.mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-50", "ERR-00")
@on_dialect("feature")
def test_a_revoke_at_an_unreadable_address_is_efault(live: LiveBuffer) -> None:
    """A revoke whose argument cannot be read, in part or as a whole, is EFAULT, and revokes nothing."""
    attempts: dict[str | int, Callable[[], object]] = {
        hex(pointer): partial(call, live.owner, live.device, VFIO_DEVICE_FEATURE, pointer)
        for pointer in BAD_POINTERS
    }
    for present in (0, 7, 8, FEATURE_SIZE - 1):
        attempts[present] = partial(live.ask, SET, live.buffer, present=present)
    require_refused(live.owner, attempts, "EFAULT")
    live.require_alive()


# -- the ioctl of the device that revokes ----------------------------------------------


@requirement("ERR-48", "ERR-00")
@on_dialect("device-ioctl")
def test_a_device_ioctl_with_a_short_argsz_is_einval(live: LiveBuffer) -> None:
    """A revoke by the device's ioctl with an argsz below 8 is EINVAL, and revokes nothing."""
    attempts = {argsz: partial(live.ask_ioctl, live.buffer, argsz) for argsz in (0, 1, 4, IOCTL_SIZE - 1)}
    require_refused(live.owner, attempts, "EINVAL")
    live.require_alive()


@requirement("ERR-49")
@on_dialect("device-ioctl")
@pytest.mark.parametrize("argsz", [9, 16, 64, EVERY - 1])
def test_a_device_ioctl_with_a_long_argsz_succeeds(live: LiveBuffer, argsz: int) -> None:
    """A revoke with an argsz above 8 succeeds although only 8 bytes can be read."""
    with nothing_left(live.owner):
        assert live.ask_ioctl(live.buffer, argsz, present=IOCTL_SIZE) == 0
    assert live.mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-50", "ERR-00")
@on_dialect("device-ioctl")
def test_a_device_ioctl_at_an_unreadable_address_is_efault(live: LiveBuffer) -> None:
    """A revoke by the device's ioctl whose argument cannot be read is EFAULT, and revokes nothing."""
    attempts: dict[str | int, Callable[[], object]] = {
        hex(pointer): partial(call, live.owner, live.device, VFIO_DEVICE_PCI_DMABUF_REVOKE, pointer)
        for pointer in BAD_POINTERS
    }
    for present in (0, 3, 4, IOCTL_SIZE - 1):
        attempts[present] = partial(live.ask_ioctl, live.buffer, present=present)
    require_refused(live.owner, attempts, "EFAULT")
    live.require_alive()


# -- the calls of other revisions ------------------------------------------------------


@requirement("ERR-53")
@on_dialect(*REVOKING)
def test_a_revoke_by_another_revisions_call_is_enotty(
    live: LiveBuffer, interfaces: Interfaces, finding: Finding
) -> None:
    """The calls that revoke in other revisions are ENOTTY, and revoke nothing."""
    owner, offered = live.owner, {one.kind for one in interfaces.revoke}
    number = interfaces.unused_feature(*REVOKE_NUMBERS)
    attempts: dict[str, tuple[str, Callable[[], object]]] = {
        "device-ioctl": ("VFIO_DEVICE_PCI_DMABUF_REVOKE", partial(live.ask_ioctl, live.buffer)),
        "ioctl": ("DMA_BUF_IOCTL_REVOKE", partial(call, owner, live.buffer, DMA_BUF_IOCTL_REVOKE)),
        "feature": (
            f"feature {number}",
            partial(call, owner, live.device, VFIO_DEVICE_FEATURE, feature(SET | number, live.buffer)),
        ),
    }
    with nothing_left(owner):
        answers = {
            name: outcome(attempt) for kind, (name, attempt) in attempts.items() if kind not in offered
        }
    finding(f"interfaces of other revisions: {answers}")
    assert answers == dict.fromkeys(answers, "ENOTTY")
    live.require_alive()


# -- the ioctl of the DMABUF that revokes ------------------------------------------------


@requirement("ERR-54")
@on_dialect("ioctl")
@pytest.mark.parametrize("argument", [1, *BAD_POINTERS[1:], EVERY * EVERY - 1], ids=hex)
def test_the_revoke_ioctl_ignores_its_argument(live: LiveBuffer, argument: int) -> None:
    """DMA_BUF_IOCTL_REVOKE succeeds whatever its third argument is."""
    with nothing_left(live.owner):
        assert call(live.owner, live.buffer, DMA_BUF_IOCTL_REVOKE, argument) == 0
    assert live.mapping.load32(0) == Sigbus(BUS_ADRERR, 0)


@requirement("ERR-55", "ERR-00")
@on_dialect("ioctl")
@pytest.mark.parametrize("before", ["alive", "revoked"])
def test_the_revoke_ioctl_after_the_close_is_enodev(owner: Actor, ram: Function, before: str) -> None:
    """DMA_BUF_IOCTL_REVOKE is ENODEV when the device is closed, also if the DMABUF was revoked before."""
    device = owner.open(ram.address)
    buffer = owner.export(device, RAM_BAR, SPAN)
    if before == "revoked":
        owner.revoke(buffer)
    device.close()
    revoke = partial(call, owner, buffer, DMA_BUF_IOCTL_REVOKE)
    require_refused(owner, {"first": revoke, "second": revoke}, "ENODEV")
