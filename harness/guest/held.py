"""A processor that is held, and the ways on which a task of it comes to the place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.guest.guest import Guest
from harness.lib import interruption
from harness.lib.errors import HarnessError
from harness.vm.gdbstub import Debugger, DebuggerError, Registers, Stop
from harness.vm.pauses import now

ARRIVAL_SECONDS = 5.0  # for a task to come to a function, before the accelerator's time scale
# Until a task that runs alone is taken to wait for another processor, before the time scale.
_ALONE_SECONDS = 0.2
_SLICE = 0.2  # seconds between two looks at whether the wait is ended
_POINTER = 8  # bytes
_STACK = 1 << 14  # bytes of a kernel stack, at least (arch/x86/include/asm/page_64_types.h, THREAD_SIZE)


class NeverHeldError(HarnessError):
    """The task that was to be held did not come to the place."""


class Way(Protocol):
    """A way to the place where a processor is to be held; it begins at the function at ``start``."""

    @property
    def start(self) -> int: ...

    def go(self, walk: Walk) -> bool:
        """Bring the task there while the machine is stopped or runs; return false if it is not coming.

        The machine is stopped afterwards, and no breakpoint is left.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """The entry of a function."""

    start: int

    def go(self, walk: Walk) -> bool:
        return walk.to(self.start) is not None


@dataclass(frozen=True)
class Return:
    """The return from a function."""

    start: int

    def go(self, walk: Walk) -> bool:
        entry = walk.to(self.start)
        return entry is not None and walk.to(walk.caller(entry), above=entry.rsp) is not None


@dataclass(frozen=True)
class Locks:
    """The ``number``-th call of one of the functions at ``points`` from within a function, None for none.

    Only the processor itself runs on the way, as others call these functions, too, unless
    it waits for another one.
    """

    start: int
    points: frozenset[int]
    number: int | None

    def go(self, walk: Walk) -> bool:
        entry = walk.to(self.start)
        if entry is None:
            return False
        end = walk.caller(entry)
        walk.insert(*self.points, end)
        left = self.number or -1
        while (stop := walk.alone()) is not None:
            registers = walk.registers(stop)
            on_stack = entry.rsp - _STACK < registers.rsp <= entry.rsp + _POINTER
            if stop.processor == walk.cpu and on_stack:
                walk.passed = registers.rip == end and registers.rsp > entry.rsp
                if registers.rip in self.points:
                    walk.points.append(registers.rip)
                    left -= 1
                if walk.passed or not left:
                    walk.remove(*self.points, end)
                    return True
            walk.step_over(stop, registers.rip)
        return False


class Walk:
    """The walk of a task of processor ``cpu`` along a way; ``passed`` if the way ended before the place.

    ``points`` are the addresses of the lock points that it came to.
    """

    def __init__(self, debugger: Debugger, cpu: int, seconds_alone: float) -> None:
        self.cpu = cpu
        self.passed = False
        self.points: list[int] = []
        self.given_up = threading.Event()
        self._debugger = debugger
        self._seconds_alone = seconds_alone

    def insert(self, *addresses: int) -> None:
        """Insert breakpoints."""
        for address in addresses:
            self._debugger.insert(address)

    def remove(self, *addresses: int) -> None:
        """Remove breakpoints."""
        for address in addresses:
            self._debugger.remove(address)

    def registers(self, stop: Stop) -> Registers:
        """Return the registers of the processor that has stopped."""
        return self._debugger.registers(stop.processor)

    def caller(self, entry: Registers) -> int:
        """Return the address to which a function returns, from the registers at its entry."""
        return int.from_bytes(self._debugger.memory(entry.rsp, _POINTER), "little")

    def step_over(self, stop: Stop, address: int) -> None:
        """Bring a processor past a breakpoint, while the others stand."""
        self.remove(address)
        self._debugger.step(stop.processor)
        self.insert(address)

    def to(self, address: int, above: int = 0) -> Registers | None:
        """Let all go on until this processor is at an address, with the stack pointer ``above`` a place.

        Returns None if the walk is given up.
        """
        self.insert(address)
        self._debugger.resume()
        while (stop := self._stop()) is not None:
            registers = self.registers(stop)
            if stop.processor == self.cpu and registers.rsp > above:
                self.remove(address)
                return registers
            self.step_over(stop, address)
            self._debugger.resume()
        return None

    def alone(self) -> Stop | None:
        """Let this processor alone go on to a breakpoint, and all if it waits; None if given up."""
        self._debugger.resume([self.cpu])
        stop = self._debugger.stopped(self._seconds_alone)
        if stop is None:
            stop = self._debugger.interrupt()
            if stop.signal == _SIGTRAP:  # it came to a breakpoint meanwhile
                return stop
            self._debugger.resume()
            return self._stop()
        return stop

    def _stop(self) -> Stop | None:
        while not self.given_up.is_set():
            if (stop := self._debugger.stopped(_SLICE)) is not None:
                return stop
        return None


_SIGTRAP = 5


class Held:
    """A processor that is to be held, and then is; see Hold.at().

    ``place`` names the function where its way begins.  ``passed`` is true if the task has passed
    without coming to the place, and nothing is held.  ``begun`` is the time of harness.vm.pauses.now() from
    which on it is held, None before.
    """

    def __init__(self, guest: Guest, debugger: Debugger, cpu: int, way: Way) -> None:
        scale = guest.machine.accelerator.time_scale
        self.cpu = cpu
        self.begun: float | None = None
        self.place = guest.symbols.function_at(way.start)
        self._symbols = guest.symbols
        self._debugger = debugger
        self._way = way
        self._walk = Walk(debugger, cpu, _ALONE_SECONDS * scale)
        self._seconds = ARRIVAL_SECONDS * scale
        self._others = [number for number in range(guest.machine.layout.cpus) if number != cpu]
        # Other tasks come to the function, too, and the machine stops for each of them.
        self._watcher = threading.Thread(target=self._watch, name="hold", daemon=True)
        self._arrived = threading.Event()
        self._error: DebuggerError | None = None

    @property
    def passed(self) -> bool:
        """True if the task has passed without coming to the place."""
        return self._walk.passed

    @property
    def points(self) -> tuple[str, ...]:
        """The names of the functions at lock points that the task has come to, in order."""
        return tuple(self._symbols.function_at(address) for address in self._walk.points)

    def arrive(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until a task of the processor is there; the other processors go on.

        Raises NeverHeldError if none comes in time, or ``ended`` says that its operation is over.
        """
        deadline = time.monotonic() + self._seconds
        while not self._arrived.wait(_SLICE):
            interruption.check()
            over = ended()
            if (over and not self._arrived.wait(_SLICE)) or time.monotonic() > deadline:
                why = "before its operation ended" if over else f"within {self._seconds:.0f} s"
                raise NeverHeldError(
                    f"No task on processor {self.cpu} came to {self.place} {why}, so the window that the "
                    "scenario needs was never open."
                )
        if self._error is not None:
            raise self._error

    def sample(self, cpu: int) -> str:
        """Return the kernel function that another processor executes; empty in user space."""
        self._debugger.interrupt()
        registers = self._debugger.registers(cpu)
        self._debugger.resume(self._others)
        return self._symbols.function_at(registers.rip) if registers.in_kernel else ""

    def watch(self) -> None:
        """Begin to wait for the task, in a thread."""
        self._watcher.start()

    def end_watch(self) -> None:
        """End that thread, whether the task has come or not.  Raises the error that ended it before."""
        self._walk.given_up.set()
        self._watcher.join()
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        try:
            if not self._way.go(self._walk):
                return
            if self._walk.passed:
                self._debugger.resume()
            else:
                self.begun = now()
                self._debugger.resume(self._others)
        except DebuggerError as error:
            self._error = error
        self._arrived.set()
