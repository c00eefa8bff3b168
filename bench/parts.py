"""Show what the time of a scenario is spent on, from a real run.

    python bench/parts.py [OPTIONS OF harness run]

The run is that of `python -m harness run`, in this process, with a stopwatch around the functions
of PARTS.  A part has the time of its functions without that of the parts within.  By default the
scenarios are those of SELECTION on the default series, without the base and the kernel's own tests.

There are three clocks: that of the wall, the processor time of this program, and that of QEMU.
A scenario's overhead is all its wall time but that of its operations and of its own code.
"""

from __future__ import annotations

import functools
import importlib
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.cli.main import main as run_command
from harness.lib import interruption
from harness.lib.errors import ExitCode

SELECTION = "MAP,ALIAS,ERR,LIFE,REV"
START, OPERATIONS, END = "start of actors", "operations", "end of actors"
BIND, HEALTH, SCRIPTS = "bind and unbind", "health", "other scripts in the guest"
JOURNAL, TRANSCRIPT, CONSOLE = "journal", "transcript", "search of the console"
MEMORY, MACHINE = "clearing of memory", "machines"
BODY, BETWEEN = "the scenario's own code, and pytest", "between scenarios"
#: The part that each function belongs to; a function is named by module, class and method.
PARTS = {
    "harness.run.scenario:ScenarioRun.actor": START,
    "harness.actor.session:Wire.ask": OPERATIONS,
    "harness.run.scenario:ScenarioRun.end_actors": END,
    "harness.guest.guest:Guest._bind": BIND,
    "harness.run.examine_kernel:Examiner.begin": HEALTH,
    "harness.run.examine_kernel:Examiner.examine": HEALTH,
    "harness.guest.health:KernelHealth.of": HEALTH,
    "harness.guest.guest:Guest.script": SCRIPTS,
    "harness.journal.writer:JournalWriter._write": JOURNAL,
    "harness.actor.transcript:Transcript._line": TRANSCRIPT,
    "harness.actor.transcript:Transcript.reply": TRANSCRIPT,
    "harness.vm.console:Console.splats": CONSOLE,
    "harness.run.scenario:ScenarioRun._clear_memories": MEMORY,
    "harness.run.machines:Machines._boot": MACHINE,
    "harness.run.machines:Machines.end": MACHINE,
    "harness.run.machines:Machines.retire": MACHINE,
}
#: A function that does the work of the part that calls it.
INHERITS = ("harness.guest.guest:Guest.script",)
USEFUL = (OPERATIONS, BODY, MACHINE)
Times = tuple[float, float, float]  # seconds of the wall, of this program, of QEMU


@dataclass
class Spent:
    """The seconds of one scenario by part, and how often each part was entered."""

    seconds: dict[str, Times] = field(default_factory=dict)
    entered: Counter[str] = field(default_factory=Counter)

    def wall(self, part: str) -> float:
        """Return the seconds of the wall clock in a part."""
        return self.seconds.get(part, (0.0, 0.0, 0.0))[0]


class Stopwatch:
    """Three clocks, and the parts that are being measured, the innermost last."""

    def __init__(self) -> None:
        self.scenarios: list[Spent] = []
        self.between = Spent()
        self._now = self.between
        self._parts = [BETWEEN]
        self._qemu: int | None = None  # QEMU's process id
        self._last = self._read()

    def enter(self, part: str) -> None:
        """Begin a part."""
        self._add()
        self._parts.append(part)
        self._now.entered[part] += 1

    def leave(self) -> None:
        """End the part that was begun last."""
        self._add()
        self._parts.pop()

    @property
    def part(self) -> str:
        """The innermost part."""
        return self._parts[-1]

    def begin_scenario(self) -> None:
        """Begin a scenario."""
        self._add()
        self._now = Spent()
        self._parts = [BODY]

    def end_scenario(self) -> None:
        """End the scenario, and keep what it spent."""
        self._add()
        self.scenarios.append(self._now)
        self._now = self.between
        self._parts = [BETWEEN]

    def watch(self, qemu: int) -> None:
        """Measure the processor time of this process from now on."""
        self._qemu = qemu
        self._last = self._read()

    def _read(self) -> Times:
        qemu = 0.0
        if self._qemu is not None:
            try:
                # The processor-time clock of another process (clock_getcpuclockid(3)).
                qemu = time.clock_gettime((~self._qemu << 3) | 2)
            except OSError:
                self._qemu = None  # it has ended
        return time.perf_counter(), time.process_time(), qemu

    def _add(self) -> None:
        now = self._read()
        before = self._now.seconds.get(self.part, (0.0, 0.0, 0.0))
        wall, own, qemu = (max(new - old, 0.0) for new, old in zip(now, self._last, strict=True))
        self._now.seconds[self.part] = (before[0] + wall, before[1] + own, before[2] + qemu)
        self._last = now


def measured(function: Callable[..., Any], part: str | None, watch: Stopwatch) -> Callable[..., Any]:
    """Return ``function`` with a stopwatch; without a ``part`` its time belongs to its caller's part."""

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        if part is None and watch.part not in (BODY, BETWEEN):
            return function(*args, **kwargs)
        watch.enter(part or SCRIPTS)
        try:
            return function(*args, **kwargs)
        finally:
            watch.leave()

    return timed


def place_of(name: str) -> tuple[Any, str]:
    """Return the class and the name of the method for a key of PARTS."""
    module, _, path = name.partition(":")
    owner, _, method = path.partition(".")
    return getattr(importlib.import_module(module), owner), method


def instrument(watch: Stopwatch) -> None:
    """Put the stopwatch around the functions of PARTS, and around each scenario."""
    for name, part in PARTS.items():
        owner, method = place_of(name)
        raw = vars(owner)[method]
        shown = None if name in INHERITS else part
        if isinstance(raw, classmethod):
            setattr(owner, method, classmethod(measured(raw.__func__, shown, watch)))
        elif isinstance(raw, staticmethod):
            setattr(owner, method, staticmethod(measured(raw.__func__, shown, watch)))
        else:
            setattr(owner, method, measured(raw, shown, watch))
    scenario, _ = place_of("harness.run.scenario:ScenarioRun.begin")
    guest, _ = place_of("harness.guest.guest:Guest.__init__")
    begin, end, make = scenario.begin, scenario.end, guest.__init__

    def begun(self: Any) -> None:
        watch.begin_scenario()
        begin(self)

    def ended(self: Any) -> bool:
        try:
            return bool(end(self))
        finally:
            watch.end_scenario()

    def made(self: Any, machine: Any, *args: Any, **kwargs: Any) -> None:
        make(self, machine, *args, **kwargs)
        watch.watch(machine._qemu.pid)

    scenario.begin, scenario.end, guest.__init__ = begun, ended, made


def table(scenarios: Sequence[Spent], between: Spent) -> Table:
    """Make a table with a row for each part: milliseconds for each scenario that used a machine."""
    shown = Table(title=f"parts of {len(scenarios)} scenarios, in ms for each")
    for heading in ("part", "times", "median", "mean", "this program", "QEMU"):
        shown.add_column(heading, justify="left" if heading == "part" else "right")
    parts = {part for one in scenarios for part in one.seconds}
    rows = []
    for part in parts:
        walls = [one.wall(part) for one in scenarios]
        means = [
            statistics.mean(one.seconds.get(part, (0.0, 0.0, 0.0))[clock] for one in scenarios)
            for clock in range(3)
        ]
        times = statistics.mean(one.entered[part] for one in scenarios)
        rows.append((means[0], part, times, statistics.median(walls), means))
    for _, part, times, median, means in sorted(rows, reverse=True):
        shown.add_row(part, f"{times:.1f}", *(f"{1000 * seconds:.1f}" for seconds in (median, *means)))
    rest = between.seconds.get(BETWEEN, (0.0, 0.0, 0.0))
    shown.add_row(BETWEEN, "", "", *(f"{1000 * seconds / len(scenarios):.1f}" for seconds in rest))
    whole = [sum(times[0] for times in one.seconds.values()) for one in scenarios]
    overhead = [all_ - sum(map(one.wall, USEFUL)) for all_, one in zip(whole, scenarios, strict=True)]
    shown.add_section()
    for name, walls in (("whole", whole), ("overhead", overhead)):
        shown.add_row(name, "", *(f"{1000 * f(walls):.1f}" for f in (statistics.median, statistics.mean)))
    return shown


def main(arguments: Sequence[str]) -> int:
    """Run the scenarios and print one table; return the exit code of the run if it is none of a verdict."""
    interruption.install()
    watch = Stopwatch()
    instrument(watch)
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as folder:
        chosen = arguments or ("-q", "--requirement", SELECTION)
        code = run_command(
            ["run", "--machines", "1", "--no-base", "--selftests", "none", "--results", folder, *chosen]
        )
    used = [one for one in watch.scenarios if one.entered[HEALTH]]
    if not used:
        print("No scenario of this selection used a machine.", file=sys.stderr)
        return code or int(ExitCode.HARNESS)
    Console().print(table(used, watch.between))
    return code if code == ExitCode.HARNESS else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
