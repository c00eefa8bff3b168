"""STATE: whatever is done in whatever order, a model of a few lines knows what can be reached."""

from __future__ import annotations

from collections.abc import Mapping as Map
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st

from harness.guest import Device as Function
from harness.guest import Guest
from harness.plugin import machine, requirement
from harness.probe import PAGE, Actor, Buffer, Device, Range, refusal
from harness.search import Search
from suites.support.constants import D0, D3HOT, RAM_BAR, VIRTIO_BAR, VIRTIO_VECTOR
from suites.support.fixtures import Finding
from suites.support.reach import View, look, views_of
from suites.support.registers import RESETS

TELLING = VIRTIO_VECTOR  # the offset of a word that is not 0 where the virtio device is decoded
BUFFERS = range(3)

STEPS = (
    *(f"memory {bit} {width}" for bit in ("off", "on") for width in (1, 2, 4)),
    *("sleep", "doze", "wake", "reset", "hot reset"),
    *(f"revoke {number}" for number in BUFFERS),
)
POWERED_STEPS = (*STEPS, "D3hot", "D3hot", "D0", "D0", "function-level reset")


@dataclass(frozen=True)
class Kernel:
    """What is tried only where the kernel does it right: elsewhere other scenarios say so, and alone.

    ``decodes``: in D0 the device decodes what was asked for in D3hot, see
    test_memory_turned_on_in_d3hot_shows_data_or_sigbus().  ``wakes``: a wakeup from low power gives
    DMABUFs back, see STATE-08.
    """

    decodes: bool
    wakes: bool

    @classmethod
    def of(cls, guest: Guest, function: Function, device: Device, view: View) -> Kernel:
        """Look, by a view of a DMABUF."""
        decodes = True
        if function.role == "rng":
            device.decode_memory(False)
            device.power(D3HOT)
            device.decode_memory(True)
            device.power(D0)
            decodes = view.seen() == "data"
            device.decode_memory(False)  # so that turning it on is a change
            device.decode_memory(True)
        device.enter_low_power(wakeup=True)
        guest.await_suspend(function)
        device.info()
        wakes = view.seen() == "data"
        device.exit_low_power()
        return cls(decodes, wakes)


@dataclass
class Model:
    """What decides whether the memory of a device can be accessed, and which DMABUFs are revoked.

    In a doze, unlike in sleep, the first call to the device is the end of low power.
    """

    memory: bool = True
    power: int = D0
    asleep: bool = False
    dozing: bool = False
    revoked: set[int] = field(default_factory=set)

    @property
    def accessible(self) -> bool:
        """Whether the device's memory can be accessed."""
        return self.memory and self.power < D3HOT and not self.asleep

    def take(self, step: str) -> None:
        """What becomes of it."""
        if self.dozing:
            self.asleep = self.dozing = False
        match step.split():
            case ["memory", bit, _]:
                self.memory = bit == "on"
            case ["D3hot"]:
                self.power = D3HOT
            case ["D0"] | ["reset"] | ["hot", "reset"] | ["function-level", "reset"]:
                self.power = D0
            case ["sleep"] | ["doze"]:  # a device is suspended from D0
                self.asleep, self.dozing, self.power = True, step == "doze", D0
            case ["wake"]:
                self.asleep = False
            case ["revoke", number]:
                self.revoked.add(int(number))

    def admits(self, step: str, kernel: Kernel) -> bool:
        """Whether it is tried now.

        A device in low power that was woken up for a moment is suspended again, from D0;
        but nobody knows when.  Whether a revoke is a call to the device is a matter of
        the series.
        """
        if self.dozing and step.startswith("revoke"):
            return False
        if self.asleep and not self.dozing and step in ("sleep", "doze", "D3hot", "D0"):
            return False
        if step == "doze":
            return kernel.wakes
        return self.power < D3HOT or kernel.decodes or not step.startswith("memory on")


@dataclass(frozen=True)
class Walk:
    """A device with mappings of all its BARs, and what is done to it and to DMABUFs of it."""

    guest: Guest
    function: Function
    device: Device
    bar: int
    views: Map[str, View]
    kernel: Kernel

    @classmethod
    def of(cls, guest: Guest, function: Function, bar: int, owner: Actor) -> Walk:
        """Nothing has been done yet; Refused where a DMABUF cannot be mapped."""
        device = owner.open(function.address)
        with owner.export(device, bar, [Range(0, PAGE)]) as buffer, owner.map(buffer) as mapping:
            kernel = Kernel.of(guest, function, device, View.of(mapping, TELLING))
        return cls(guest, function, device, bar, views_of(device), kernel)

    def check(self, steps: list[str]) -> None:
        """After each step all mappings, and mmap() of a DMABUF, are as the model says."""
        owner, model = self.device.actor, Model()
        with ExitStack() as made:
            made.callback(self._make_accessible)
            buffers = [made.enter_context(self._export(number)) for number in BUFFERS]
            lent = [View.of(made.enter_context(owner.map(buffer)), PAGE) for buffer in buffers]
            views = dict(self.views) | {f"DMABUF {number}": view for number, view in enumerate(lent)}
            for count, step in enumerate(steps):
                if not model.admits(step, self.kernel):
                    continue
                self._do(step, buffers, model)
                model.take(step)
                assert look(views) == self._expected(model), f"after {step!r}"
                self._map(buffers, count % len(buffers), model)

    def _export(self, number: int) -> Buffer:
        ranges = [Range(number * PAGE, PAGE), Range(0, PAGE)]
        return self.device.actor.export(self.device, self.bar, ranges)

    def _do(self, step: str, buffers: list[Buffer], model: Model) -> None:
        owner = self.device.actor
        match step.split():
            case ["memory", bit, width]:
                self.device.decode_memory(bit == "on", int(width))
            case ["D3hot"] | ["D0"]:
                self.device.power(D3HOT if step == "D3hot" else D0)
            case ["sleep"] | ["doze"]:
                self.device.enter_low_power(wakeup=step == "doze")
                self.guest.await_suspend(self.function)
            case ["wake"]:
                self.device.exit_low_power()
            case ["revoke", number] if int(number) in model.revoked:
                assert refusal(lambda: owner.revoke(buffers[int(number)])) == "EBADFD"
            case ["revoke", number]:
                owner.revoke(buffers[int(number)])
            case _:
                RESETS[step](self.device)

    def _expected(self, model: Model) -> dict[str, str]:
        here = "data" if model.accessible else "SIGBUS"
        lent = {f"DMABUF {number}": "SIGBUS" if number in model.revoked else here for number in BUFFERS}
        return dict.fromkeys(self.views, here) | lent

    def _map(self, buffers: list[Buffer], number: int, model: Model) -> None:
        """Whether mmap() succeeds in low power is another matter: STATE-09, STATE-10."""
        owner = self.device.actor
        if model.accessible and number not in model.revoked:
            owner.map(buffers[number]).unmap()
        elif not model.asleep:
            refusal(lambda: owner.map(buffers[number]))

    def _make_accessible(self) -> None:
        self.device.exit_low_power()
        if self.function.role == "rng":
            self.device.power(D0)
        self.device.decode_memory(True)


def walks(steps: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """Some of these steps, in any order."""
    return st.lists(st.sampled_from(steps), min_size=2, max_size=10)


@requirement("STATE-11", "STATE-01", "STATE-02", "STATE-03", "STATE-04", "STATE-07", "STATE-18", "REV-05")
def test_any_walk_through_the_states_of_memory(ram: Function, guest: Guest, search: Search) -> None:
    """After any steps that end and renew access all DMABUFs and device-fd mappings are as a model says."""
    search(
        walks(STEPS),
        lambda owner: Walk.of(guest, ram, RAM_BAR, owner),
        lambda walk, steps: walk.check(steps),
        examples=25,
    )


@requirement("STATE-11", "STATE-06", "STATE-07", "STATE-13", "STATE-14", "STATE-18", "REV-05")
@machine(power=True)
def test_any_walk_through_the_states_of_power(rng: Function, guest: Guest, search: Search) -> None:
    """The same with power states and function-level reset among the steps."""
    search(
        walks(POWERED_STEPS),
        lambda owner: Walk.of(guest, rng, VIRTIO_BAR, owner),
        lambda walk, steps: walk.check(steps),
        examples=25,
    )


SEQUENCES = (
    ("memory off 2", "memory off 2", "memory on 2"),
    ("memory on 2", "memory on 1", "memory off 4", "memory on 4", "memory on 4"),
    ("memory off 2", "reset", "hot reset", "memory on 2"),
    ("reset", "reset", "hot reset", "reset"),
    ("sleep", "memory off 2", "wake", "wake", "memory on 2"),
    ("sleep", "memory off 2", "memory on 2", "reset", "hot reset", "wake"),
    ("memory off 2", "sleep", "wake", "memory on 2"),
    ("doze", "memory off 2", "doze", "memory on 2", "doze", "wake"),
    ("doze", "sleep", "memory off 2", "memory on 2", "wake", "doze", "reset"),
)
POWERED_SEQUENCES = (
    ("D3hot", "memory off 2", "D0", "memory on 2"),
    ("memory off 2", "D3hot", "memory on 2", "D0", "D3hot", "memory off 2", "memory on 1", "D0"),
    ("memory off 2", "D3hot", "memory on 4", "sleep", "wake"),
    ("D3hot", "doze", "D3hot", "D0"),
    ("D3hot", "D3hot", "D0", "D0"),
    ("memory off 2", "D3hot", "D0", "memory on 2"),
    ("D3hot", "reset", "D0"),
    ("D3hot", "hot reset", "D3hot", "function-level reset"),
    ("memory off 2", "function-level reset", "memory on 2"),
    ("D3hot", "memory off 2", "revoke 0", "reset", "revoke 0", "memory on 2"),
    ("sleep", "function-level reset", "wake"),
)


@requirement("STATE-11")
def test_repeated_and_nested_state_changes_follow_the_model(
    c_owner: Actor, ram: Function, guest: Guest
) -> None:
    """Whether it is disabled or enabled twice, or reset while it is disabled, the last value decides."""
    walk = Walk.of(guest, ram, RAM_BAR, c_owner)
    for steps in SEQUENCES:
        walk.check(list(steps))


@requirement("STATE-11", "STATE-06")
@machine(power=True)
def test_repeated_state_changes_in_d3hot_follow_the_model(
    c_owner: Actor, rng: Function, guest: Guest
) -> None:
    """The same where the device is in D3hot before, meanwhile or after."""
    walk = Walk.of(guest, rng, VIRTIO_BAR, c_owner)
    for steps in POWERED_SEQUENCES:
        walk.check(list(steps))


@requirement("STATE-06")
@machine(power=True)
@pytest.mark.parametrize("way", ["device", "DMABUF"])
def test_memory_turned_on_in_d3hot_shows_data_or_sigbus(
    c_owner: Actor, rng: Function, finding: Finding, way: str
) -> None:
    """When memory was turned on in D3hot, a mapping shows in D0 what is there, or is SIGBUS."""
    device = c_owner.open(rng.address)
    if way == "device":
        mapping = c_owner.map(device, PAGE, bar=VIRTIO_BAR)
    else:
        mapping = c_owner.map(c_owner.export(device, VIRTIO_BAR, [Range(0, PAGE)]))
    view = View.of(mapping, 0x10)
    device.decode_memory(False)
    device.power(D3HOT)
    device.decode_memory(True)
    device.power(D0)
    seen = view.seen()
    if seen not in ("data", "SIGBUS"):
        finding(f"With memory turned on in D3hot, a mapping through the {way} shows {seen} in D0.")
    assert seen in ("data", "SIGBUS")
