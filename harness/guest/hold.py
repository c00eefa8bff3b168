"""Hold a processor of the guest at a kernel function while the other processors go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from harness.guest.guest import Guest
from harness.guest.held import Entry, Held, Locks, Return, Way
from harness.lib.errors import HarnessError
from harness.vm.gdbstub import Debugger, DebuggerError

# The kernel's sleeping locks.  gcc inlines none of them.
LOCKS = (
    *("down_read", "down_read_interruptible", "down_read_killable", "down_read_trylock"),
    *("down_write", "down_write_killable", "down_write_trylock", "up_read", "up_write", "downgrade_write"),
    *("mutex_lock", "mutex_lock_nested", "mutex_lock_interruptible", "mutex_lock_killable", "mutex_trylock"),
    *("mutex_unlock", "ww_mutex_lock", "ww_mutex_lock_interruptible", "ww_mutex_trylock", "ww_mutex_unlock"),
)


class Hold:
    """Holds of one guest, whose machine has the debugger's port: ``@machine(hold=True)``.

    While a processor is held it takes no interrupt, so nothing may be started in the guest, and
    only actors that already run may be used.  A hold lasts at most a few seconds: a soft lockup
    is reported after 20.  One that lasts longer, as the guest waits for the processor, counts as a
    pause of the machine (harness.vm.pauses).
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
        address = self._guest.symbols.address(*functions)
        with self._hold(cpu, Return(address) if leaving else Entry(address)) as held:
            yield held

    @contextmanager
    def at_point(self, function: str, points: Iterable[str], number: int | None, cpu: int) -> Iterator[Held]:
        """Hold ``cpu`` at the ``number``-th call, from 1, of one of ``points`` from within a function.

        Names that the kernel lacks are left out of ``points``.  If the function returns after fewer
        calls, or ``number`` is None, Held.passed is true and nothing is held.  Raises as at() does.
        """
        symbols = self._guest.symbols
        found = frozenset(symbols.address(name) for name in points if symbols.has(name))
        way = Locks(symbols.address(function), found, number)
        with self._hold(cpu, way) as held:
            yield held

    @contextmanager
    def _hold(self, cpu: int, way: Way) -> Iterator[Held]:
        machine = self._guest.machine
        if machine.debugger is None:
            raise HarnessError(
                "The machine has no debugger's port, so none of its processors can be held; the scenario "
                "needs @machine(hold=True)."
            )
        place = self._guest.symbols.function_at(way.start)
        self._guest.recorder.step(f"other a debugger holds processor {cpu} in {place}")
        try:
            with Debugger(machine.debugger, machine.accelerator.time_scale) as debugger:
                held = Held(self._guest, debugger, cpu, way)
                held.watch()
                try:
                    yield held
                finally:
                    if held.begun is not None:
                        machine.add_hold(cpu, held.begun)
                    held.end_watch()
        except DebuggerError:
            machine.kill()
            raise
