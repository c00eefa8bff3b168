"""STATE: whatever is done in whatever order, a model of a few lines knows what can be reached."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Map
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st

from harness.guest import Device as Function
from harness.guest import Guest
from harness.plugin import machine, requirement
from harness.probe import PAGE, Actor, Buffer, Device, Range, refusal
from harness.reach import View, look, views_of
from harness.registers import RESETS, VIRTIO_BAR
from harness.search import Search

RAM_BAR = 2
D0, D3HOT = 0, 3
BUFFERS = range(3)

STEPS = (
    *(f"memory {bit} {width}" for bit in ("off", "on") for width in (1, 2, 4)),
    *("sleep", "wake", "reset", "hot reset"),
    *(f"revoke {number}" for number in BUFFERS),
)
POWERED_STEPS = (*STEPS, "D3hot", "D3hot", "D0", "D0", "function-level reset")


@dataclass
class Model:
    """What decides whether the memory of a device can be accessed, and which DMABUFs are revoked."""

    memory: bool = True
    power: int = D0
    asleep: bool = False
    revoked: set[int] = field(default_factory=set)

    @property
    def accessible(self) -> bool:
        """Whether the device's memory can be accessed."""
        return self.memory and self.power < D3HOT and not self.asleep

    def take(self, step: str) -> None:
        """What becomes of it."""
        match step.split():
            case ["memory", bit, _]:
                self.memory = bit == "on"
            case ["D3hot"]:
                self.power = D3HOT
            case ["D0"] | ["reset"] | ["hot", "reset"] | ["function-level", "reset"]:
                self.power = D0
            case ["sleep"] | ["wake"]:
                self.asleep = step == "sleep"
            case ["revoke", number]:
                self.revoked.add(int(number))

    def admits(self, step: str) -> bool:
        """Whether it is tried now.

        The suspension that low power brings ends D3hot, but nobody knows when.  And
        what is written to the command register in D3hot is lost in D0: see
        test_memory_that_is_turned_on_in_d3hot().
        """
        if self.power == D3HOT:
            return step != "sleep" and not step.startswith("memory on")
        return not self.asleep or step not in ("sleep", "D3hot", "D0")


@dataclass(frozen=True)
class Walk:
    """A device with mappings of all its BARs, and what is done to it and to DMABUFs of it."""

    guest: Guest
    function: Function
    device: Device
    bar: int
    views: Map[str, View]

    @classmethod
    def of(cls, guest: Guest, function: Function, bar: int, owner: Actor) -> Walk:
        """Nothing has been done yet; Refused where a DMABUF cannot be mapped."""
        device = owner.open(function.address)
        with owner.export(device, bar, [Range(0, PAGE)]) as buffer:
            owner.map(buffer).unmap()
        return cls(guest, function, device, bar, views_of(device))

    def check(self, steps: list[str]) -> None:
        """After each step all mappings, and mmap() of a DMABUF, are as the model says."""
        owner, model = self.device.actor, Model()
        with ExitStack() as made:
            made.callback(self._make_accessible)
            buffers = [made.enter_context(self._export(number)) for number in BUFFERS]
            lent = [View.of(made.enter_context(owner.map(buffer)), PAGE) for buffer in buffers]
            views = self.views | {f"DMABUF {number}": view for number, view in enumerate(lent)}
            for count, step in enumerate(steps):
                if not model.admits(step):
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
            case ["sleep"]:
                self.device.enter_low_power()
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
)
POWERED_SEQUENCES = (
    ("D3hot", "memory off 2", "D0", "memory on 2"),
    ("D3hot", "D3hot", "D0", "D0"),
    ("memory off 2", "D3hot", "D0", "memory on 2"),
    ("D3hot", "reset", "D0"),
    ("D3hot", "hot reset", "D3hot", "function-level reset"),
    ("memory off 2", "function-level reset", "memory on 2"),
    ("D3hot", "memory off 2", "revoke 0", "reset", "revoke 0", "memory on 2"),
    ("sleep", "function-level reset", "wake"),
)


@requirement("STATE-11")
def test_what_is_done_twice_or_one_within_the_other(c_owner: Actor, ram: Function, guest: Guest) -> None:
    """Whether it is disabled or enabled twice, or reset while it is disabled, the last value decides."""
    walk = Walk.of(guest, ram, RAM_BAR, c_owner)
    for steps in SEQUENCES:
        walk.check(list(steps))


@requirement("STATE-11", "STATE-06")
@machine(power=True)
def test_what_is_done_twice_or_in_d3hot(c_owner: Actor, rng: Function, guest: Guest) -> None:
    """The same where the device is in D3hot before, meanwhile or after."""
    walk = Walk.of(guest, rng, VIRTIO_BAR, c_owner)
    for steps in POWERED_SEQUENCES:
        walk.check(list(steps))


@requirement("STATE-06")
@machine(power=True)
@pytest.mark.parametrize("way", ["device", "DMABUF"])
def test_memory_that_is_turned_on_in_d3hot(
    c_owner: Actor, rng: Function, finding: Callable[[str], None], way: str
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
