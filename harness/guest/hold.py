"""Hold a processor of the guest at a kernel function while the other processors go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.guest.guest import Guest
from harness.lib.errors import HarnessError
from harness.vm.gdbstub import Debugger, DebuggerError, Registers

ARRIVAL_SECONDS = 5.0  # for a task to come to a function, before the accelerator's time scale
_SLICE = 0.2  # seconds between two looks at whether the wait is ended
_POINTER = 8  # bytes


class Hold:
    """Holds of one guest, whose machine has the debugger's port: ``@machine(hold=True)``.

    While a processor is held it takes no interrupt, so nothing may be started in the guest, and
    only actors that already run may be used.  A hold lasts at most a few seconds: a soft lockup
    is reported after 20.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    @contextmanager
    def at(self, *functions: str, cpu: int, leaving: bool = False) -> Iterator[Held]:
        """Hold ``cpu`` at the first of these functions that the kernel has, once a task comes there.

        With ``leaving`` that is the moment when the function has returned.  The body begins the
        operation of that task, and calls Held.arrive().  All processors go on when it ends.

        Raises HarnessError if there is no such function, or QEMU does not obey; the machine
        is killed then, so that no guest stays held.
        """
        guest = self._guest
        machine = guest.machine
        if machine.gdb_port is None:
            raise HarnessError(
                "The machine has no debugger's port, so none of its processors can be held; the scenario "
                "needs @machine(hold=True)."
            )
        address = guest.symbols.address(*functions)
        try:
            with Debugger(machine.gdb_port, machine.accelerator.time_scale) as debugger:
                held = Held(guest, debugger, cpu, address, leaving)
                debugger.insert(address)
                debugger.resume()
                held.watch()
                try:
                    yield held
                finally:
                    held.end_watch()
        except DebuggerError:
            machine.kill()
            raise


class Held:
    """A processor that is to be held, and then is; see Hold.at()."""

    def __init__(self, guest: Guest, debugger: Debugger, cpu: int, address: int, leaving: bool) -> None:
        self.cpu = cpu
        self.function = guest.symbols.function_at(address)
        self._symbols = guest.symbols
        self._debugger = debugger
        self._address = address
        self._leaving = leaving
        self._seconds = ARRIVAL_SECONDS * guest.machine.accelerator.time_scale
        self._others = [number for number in range(guest.machine.layout.cpus) if number != cpu]
        # Other tasks come to the function, too, and the machine stops for each of them.
        self._watcher = threading.Thread(target=self._watch, name="hold", daemon=True)
        self._arrived = threading.Event()
        self._ended = threading.Event()
        self._error: HarnessError | None = None

    def arrive(self) -> None:
        """Wait until a task of the processor is there; the other processors go on.

        Raises HarnessError if none comes.
        """
        arrived = self._arrived.wait(self._seconds)
        if self._error is not None:
            raise self._error
        if not arrived:
            raise HarnessError(
                f"No task on processor {self.cpu} came to {self.function} within {self._seconds:.0f} s, so "
                "the window that the scenario needs was never open."
            )

    def sample(self, cpu: int) -> str:
        """Return the kernel function that another processor executes; empty in user space."""
        self._debugger.interrupt()
        registers = self._debugger.registers(cpu)
        self._debugger.resume(self._others)
        return self._symbols.function_at(registers.rip) if registers.in_kernel else ""

    def release(self) -> None:
        """Let the held processor go on."""
        self._debugger.interrupt()
        self._debugger.resume()

    def watch(self) -> None:
        """Begin to wait for the task, in a thread."""
        self._watcher.start()

    def end_watch(self) -> None:
        """End that thread, whether the task has come or not.  Raises the error that ended it before."""
        self._ended.set()
        self._watcher.join()
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        try:
            registers = self._await(self._address)
            if registers is not None and self._leaving:
                frame = int.from_bytes(self._debugger.memory(registers.rsp, _POINTER), "little")
                self._debugger.insert(frame)
                self._debugger.resume()
                registers = self._await(frame, above=registers.rsp)
            if registers is not None:
                self._debugger.resume(self._others)
        except DebuggerError as error:
            self._error = error
            registers = None
        if registers is not None or self._error is not None:
            self._arrived.set()

    def _await(self, address: int, above: int = 0) -> Registers | None:
        """Wait for this processor's stop at a breakpoint, with the stack pointer ``above`` a place.

        Removes the breakpoint.  Returns None if the wait is ended.
        """
        while not self._ended.is_set():
            stop = self._debugger.stopped(_SLICE)
            if stop is None:
                continue
            self._debugger.remove(address)
            registers = self._debugger.registers(stop.processor)
            if stop.processor == self.cpu and registers.rsp > above:
                return registers
            self._debugger.step(stop.processor)
            self._debugger.insert(address)
            self._debugger.resume()
        return None
