"""Do the steps of a recorded transcript again, in a scenario of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness.actor.actor import Actor
from harness.actor.session import DEADLINE
from harness.actor.steps import Step
from harness.actor.transcript import latest_operation
from harness.guest.guest import VFIO_DRIVER, PciFunction
from harness.guest.iommu_faults import IommuFaults
from harness.lib.errors import HarnessError
from harness.run.scenario import ScenarioRun
from harness.vm.ram_bar import RamBar

POLL_SECONDS = 5.0  # until an operation has the reply that the scenario waited for, before the time scale


class Player:
    """The steps of one transcript, done in order in a scenario: ``reply = player.play(step)``.

    Every step is recorded in the transcript of that scenario, too.
    """

    def __init__(self, scenario: ScenarioRun, devices: dict[str, str]) -> None:
        self._scenario = scenario
        self._roles = {address: role for role, address in devices.items()}
        self._actors: dict[int, Actor] = {}
        self._bars: dict[str, RamBar] = {}
        self._bound: dict[str, ExitStack] = {}
        self._open = ExitStack()
        self._faults: IommuFaults | None = None

    @contextmanager
    def cleaned_up(self) -> Iterator[None]:
        """End the actors and restore the devices after the block, as the end of a scenario does."""
        try:
            yield
        finally:
            with self._open:
                self._scenario.end_actors()

    def play(self, step: Step) -> str | None:
        """Do one step; return its reply, None if steps of this kind have none.

        Raises what the scenario's own call would: DeadlineError, ActorDiedError, SshLostError,
        UnbindTimeoutError; HarnessError for a step that is not known here, or not written as one.
        """
        try:
            return self._play(step)
        except (ValueError, LookupError, TypeError) as error:
            raise HarnessError(
                f"Line {step.line} of the transcript is no step that this program writes: {step.text[:200]}"
            ) from error

    def _play(self, step: Step) -> str | None:
        if step.actor:
            return self._operate(step)
        kind, _, rest = step.text.partition(" ")
        before = latest_operation()
        match kind:
            case "actor":
                self._begin(int(rest.split()[0]), rest.split()[1])
            case "end":
                self._actors[int(rest)].close()
            case "host":
                self._host(*rest.split())
            case "guest":
                self._guest(*rest.split(" ", 2))
            case _:
                raise HarnessError(f"Only the scenario itself can do this step: {step.text[:200]}")
        latest = latest_operation()
        return latest.reply if latest is not before and step.reply is not None else None

    def _begin(self, number: int, kind: str) -> None:
        if number not in self._actors:
            self._actors[number] = self._scenario.actor(kind)

    def _operate(self, step: Step) -> str:
        actor = self._actors[step.actor]
        seconds = next(
            (int(word[9:], 0) for word in step.text.split() if word.startswith("deadline=")), DEADLINE
        )
        reply = actor.raw(step.text, seconds)
        end = time.monotonic() + POLL_SECONDS * actor.slowdown
        while step.polled and not step.repeats(reply) and time.monotonic() < end:
            reply = actor.raw(step.text, seconds)
        return reply

    def _host(self, what: str, role: str, *words: str) -> None:
        if role not in self._bars:
            self._bars[role] = self._open.enter_context(self._scenario.ram(role))
        bar = self._bars[role]
        if what == "write":
            bar.write(int(words[0], 16), bytes.fromhex(words[1]))
            return
        numbers = [int(word, 16) for word in words]
        done = {
            "stamp": bar.stamp,
            "fill": bar.fill,
            "word": bar.word,
            "words": bar.words,
            "read": bar.read,
        }
        done[what](*numbers)  # type: ignore[operator]

    def _guest(self, what: str, first: str = "", rest: str = "") -> None:
        guest = self._scenario.guest()
        match what:
            case "read":
                guest.read(first)
            case "write":
                guest.write(first, rest)
            case "iommu-faults":
                self._faults = self._faults or IommuFaults(guest)
                self._faults.count(int(first.removeprefix("above=")))
            case "load-importer":
                self._open.enter_context(self._scenario.test_importer())
            case "bind":
                self._bind(first, rest)
            case "restore":
                if first in self._bound:
                    self._bound.pop(first).close()
            case "unbind":
                guest.unbind(self._device(first))
            case "begin-unbind":
                guest.begin_unbind(self._device(first))
            case "replug":
                guest.replug(self._device(first))
            case "await-suspend":
                guest.await_suspend(self._device(first))

    def _bind(self, address: str, driver: str) -> None:
        guest, device = self._scenario.guest(), self._device(address)
        if address in self._bound and driver == VFIO_DRIVER:
            guest.rebind(device)
            return
        stack = self._bound[address] = self._open.enter_context(ExitStack())
        stack.enter_context(guest.bind(device.role, driver))

    def _device(self, address: str) -> PciFunction:
        devices = self._scenario.guest().devices
        role = self._roles.get(address, "")
        if role not in devices or devices[role].address != address:
            raise HarnessError(f"The machine has no device {role or 'of a known role'} at {address[:40]}.")
        return devices[role]


def without_waiting(steps: tuple[Step, ...]) -> list[Step]:
    """Return the steps without the operations that were only repeated until the last reply of their kind."""
    following = [*steps[1:], Step("", 0)]
    return [
        step
        for step, later in zip(steps, following, strict=True)
        if not (step.polled and (step.actor, step.text) == (later.actor, later.text))
    ]
