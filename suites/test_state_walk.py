"""STATE: after any sequence of state changes, a model predicts which mappings are accessible."""

from __future__ import annotations

from collections.abc import Mapping as Map
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st

from harness.actor.actor import Actor
from harness.actor.expect import require_refusal
from harness.actor.handles import PCI_COMMAND, PCI_COMMAND_MEMORY, Buffer, Device, Range
from harness.actor.reply import outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import machine, requirement
from harness.plugin.search import Search
from harness.vm.hardware import PAGE
from suites.support.constants import D0, D3HOT, PCI_COMMAND_MASTER, RAM_BAR, VIRTIO_BAR, VIRTIO_VECTOR
from suites.support.fixtures import Finding
from suites.support.reach import View, look, views_of
from suites.support.registers import RESETS

NONZERO = VIRTIO_VECTOR  # the offset of a word that is not 0 while the virtio device decodes memory
BUFFERS = range(3)

LOW_POWER, WAKEUP, EXIT = "low-power", "low-power-wakeup", "low-power-exit"  # WAKEUP: an entry with wakeup
STEPS = (
    *(f"memory {bit} {width}" for bit in ("off", "on") for width in (1, 2, 4)),
    *(LOW_POWER, WAKEUP, EXIT, "reset", "hot reset"),
    *(f"revoke {number}" for number in BUFFERS),
)
POWERED_STEPS = (*STEPS, "D3hot", "D3hot", "D0", "D0", "function-level reset")


@dataclass(frozen=True)
class Kernel:
    """Behaviour of the kernel on which steps depend; without it those steps are left out.

    ``keeps_memory_bit``: memory turned on in D3hot is on in D0.  The scenario of a defect is
    test_memory_turned_on_in_d3hot_shows_data_or_sigbus().
    ``wakeup_restores``: DMABUFs are accessible after a wakeup from low power.  The
    scenario of a defect is that of STATE-08.
    """

    keeps_memory_bit: bool
    wakeup_restores: bool

    @classmethod
    def of(cls, guest: Guest, function: Function, device: Device, view: View) -> Kernel:
        """Try both by a view of a DMABUF."""
        keeps_memory_bit = True
        if function.role == "rng":
            device.decode_memory(False)
            device.power(D3HOT)
            device.decode_memory(True)
            device.power(D0)
            keeps_memory_bit = view.seen() == "data"
            device.decode_memory(False)  # so that turning it on is a change
            device.decode_memory(True)
        device.enter_low_power(wakeup=True)
        guest.await_suspend(function)
        device.info()
        wakeup_restores = view.seen() == "data"
        device.exit_low_power()
        return cls(keeps_memory_bit, wakeup_restores)


@dataclass
class Model:
    """The state of a device that decides whether its memory is accessible, and its revoked DMABUFs.

    ``with_wakeup``: low power ends at the first call to the device.
    """

    memory: bool = True
    power: int = D0
    low_power: bool = False
    with_wakeup: bool = False
    revoked: set[int] = field(default_factory=set)

    @property
    def accessible(self) -> bool:
        """True if the device's memory can be accessed."""
        return self.memory and self.power < D3HOT and not self.low_power

    def take(self, step: str) -> None:
        """Change the state by a step."""
        if self.with_wakeup:
            self.low_power = self.with_wakeup = False
        match step.split():
            case ["memory", bit, _]:
                self.memory = bit == "on"
            case ["D3hot"]:
                self.power = D3HOT
            case ["D0"] | ["reset"] | ["hot", "reset"] | ["function-level", "reset"]:
                self.power = D0
            case ["low-power"] | ["low-power-wakeup"]:  # a device is suspended from D0
                self.low_power, self.with_wakeup, self.power = True, step == WAKEUP, D0
            case ["low-power-exit"]:
                self.low_power = False
            case ["revoke", number]:
                self.revoked.add(int(number))

    def admits(self, step: str, kernel: Kernel) -> bool:
        """Tell whether the step is tried in this state.

        A device in low power that was woken up is suspended again from D0, at an unknown
        time.  Whether a revoke is a call to the device depends on the series.
        """
        if self.with_wakeup and step.startswith("revoke"):
            return False
        if self.low_power and not self.with_wakeup and step in (LOW_POWER, WAKEUP, "D3hot", "D0"):
            return False
        if step == WAKEUP:
            return kernel.wakeup_restores
        return self.power < D3HOT or kernel.keeps_memory_bit or not step.startswith("memory on")


@dataclass(frozen=True)
class Walk:
    """Steps on a device with mappings of all its BARs, and on DMABUFs of it."""

    guest: Guest
    function: Function
    device: Device
    bar: int
    views: Map[str, View]
    kernel: Kernel

    @classmethod
    def of(cls, guest: Guest, function: Function, bar: int, owner: Actor) -> Walk:
        """Map all BARs.  Raises Refused where a DMABUF cannot be mapped."""
        device = owner.open(function.address)
        with owner.export(device, bar, [Range(0, PAGE)]) as buffer, owner.map(buffer) as mapping:
            kernel = Kernel.of(guest, function, device, View.of(mapping, NONZERO))
        return cls(guest, function, device, bar, views_of(device), kernel)

    def check(self, steps: list[str]) -> None:
        """Check after each step that all mappings, and mmap() of a DMABUF, agree with the model."""
        owner, model = self.device.actor, Model()
        with ExitStack() as made:
            made.callback(self._make_accessible)
            buffers = [made.enter_context(self._export(number)) for number in BUFFERS]
            buffer_views = [View.of(made.enter_context(owner.map(buffer)), PAGE) for buffer in buffers]
            views = dict(self.views) | {f"DMABUF {number}": view for number, view in enumerate(buffer_views)}
            for count, step in enumerate(steps):
                if not model.admits(step, self.kernel):
                    continue
                self._do(step, buffers, model)
                model.take(step)
                assert look(views) == self._expected(model), f"a mapping is in the wrong state after {step}"
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
            case ["low-power"] | ["low-power-wakeup"]:
                self.device.enter_low_power(wakeup=step == WAKEUP)
                self.guest.await_suspend(self.function)
            case ["low-power-exit"]:
                self.device.exit_low_power()
            case ["revoke", number] if int(number) in model.revoked:
                assert outcome(lambda: owner.revoke(buffers[int(number)])) == "EBADFD"
            case ["revoke", number]:
                owner.revoke(buffers[int(number)])
            case _:
                RESETS[step](self.device)

    def _expected(self, model: Model) -> dict[str, str]:
        here = "data" if model.accessible else "SIGBUS"
        of_buffers = {f"DMABUF {number}": "SIGBUS" if number in model.revoked else here for number in BUFFERS}
        return dict.fromkeys(self.views, here) | of_buffers

    def _map(self, buffers: list[Buffer], number: int, model: Model) -> None:
        """Check mmap() against the model.  STATE-09 and STATE-10 check it in low power."""
        owner = self.device.actor
        if model.accessible and number not in model.revoked:
            owner.map(buffers[number]).unmap()
        elif not model.low_power:
            require_refusal(lambda: owner.map(buffers[number]))

    def _make_accessible(self) -> None:
        self.device.exit_low_power()
        if self.function.role == "rng":
            self.device.power(D0)
        self.device.decode_memory(True)


def walks(steps: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """Draw some of these steps, in any order."""
    return st.lists(st.sampled_from(steps), min_size=2, max_size=10)


@requirement("STATE-11", "STATE-01", "STATE-02", "STATE-03", "STATE-04", "STATE-07", "STATE-18", "REV-05")
def test_any_walk_through_the_states_of_memory(ram: Function, guest: Guest, search: Search) -> None:
    """After any steps that end and restore access, DMABUFs and device-fd mappings agree with a model."""
    search(
        walks(STEPS),
        lambda owner: Walk.of(guest, ram, RAM_BAR, owner),
        lambda walk, steps: walk.check(steps),
        examples=25,
    )


@requirement("STATE-11", "STATE-06", "STATE-07", "STATE-13", "STATE-14", "STATE-18", "REV-05")
@machine(power=True)
def test_any_walk_through_the_states_of_power(rng: Function, guest: Guest, search: Search) -> None:
    """After any steps, D3hot, D0 and function-level reset among them, all mappings agree with a model."""
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
    (LOW_POWER, "memory off 2", EXIT, EXIT, "memory on 2"),
    (LOW_POWER, "memory off 2", "memory on 2", "reset", "hot reset", EXIT),
    ("memory off 2", LOW_POWER, EXIT, "memory on 2"),
    (WAKEUP, "memory off 2", WAKEUP, "memory on 2", WAKEUP, EXIT),
    (WAKEUP, LOW_POWER, "memory off 2", "memory on 2", EXIT, WAKEUP, "reset"),
)
POWERED_SEQUENCES = (
    ("D3hot", "memory off 2", "D0", "memory on 2"),
    ("memory off 2", "D3hot", "memory on 2", "D0", "D3hot", "memory off 2", "memory on 1", "D0"),
    ("memory off 2", "D3hot", "memory on 4", LOW_POWER, EXIT),
    ("D3hot", WAKEUP, "D3hot", "D0"),
    ("D3hot", "D3hot", "D0", "D0"),
    ("memory off 2", "D3hot", "D0", "memory on 2"),
    ("D3hot", "reset", "D0"),
    ("D3hot", "hot reset", "D3hot", "function-level reset"),
    ("memory off 2", "function-level reset", "memory on 2"),
    ("D3hot", "memory off 2", "revoke 0", "reset", "revoke 0", "memory on 2"),
    (LOW_POWER, "function-level reset", EXIT),
)


@requirement("STATE-11")
def test_repeated_and_nested_state_changes_follow_the_model(
    c_owner: Actor, ram: Function, guest: Guest
) -> None:
    """Memory off or on twice, and a reset while memory is off, leave the access of the last setting."""
    walk = Walk.of(guest, ram, RAM_BAR, c_owner)
    for steps in SEQUENCES:
        walk.check(list(steps))


@requirement("STATE-11", "STATE-06")
@machine(power=True)
def test_repeated_state_changes_in_d3hot_follow_the_model(
    c_owner: Actor, rng: Function, guest: Guest
) -> None:
    """Repeated changes before, during and after D3hot leave the access of the last settings."""
    walk = Walk.of(guest, rng, VIRTIO_BAR, c_owner)
    for steps in POWERED_SEQUENCES:
        walk.check(list(steps))


@requirement("STATE-06")
@machine(power=True)
@pytest.mark.parametrize("way", ["device", "DMABUF"])
def test_memory_turned_on_in_d3hot_shows_data_or_sigbus(
    c_owner: Actor, rng: Function, finding: Finding, way: str
) -> None:
    """After memory was turned on in D3hot, a mapping in D0 shows the device's data, or is SIGBUS."""
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


@requirement("STATE-06")
@machine(power=True)
def test_memory_turned_off_in_d3hot_reads_as_off_in_d0(c_owner: Actor, rng: Function, guest: Guest) -> None:
    """After memory was turned off in D3hot, nothing else has changed in the command register in D0."""
    device = c_owner.open(rng.address)
    mapping = c_owner.map(c_owner.export(device, VIRTIO_BAR, [Range(0, PAGE)]))
    if not Kernel.of(guest, rng, device, View.of(mapping, NONZERO)).keeps_memory_bit:
        pytest.skip("this kernel restores in D0 what was set before D3hot, as its base does")
    command = device.read("config", PCI_COMMAND, 2) | PCI_COMMAND_MASTER
    device.write("config", PCI_COMMAND, 2, command)
    device.power(D3HOT)
    device.decode_memory(False)
    device.power(D0)
    now = device.read("config", PCI_COMMAND, 2)
    assert now == command & ~PCI_COMMAND_MEMORY, f"the command register is {now:#06x}, and was {command:#06x}"
    device.decode_memory(True)
    assert View.of(mapping, NONZERO).seen() == "data"
