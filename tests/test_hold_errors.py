"""A hold that cannot be: its error is a sentence, and no guest is left held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from test_gdbstub import GOODBYE, GREETING, Qemu, packet

from harness.guest.guest import Guest
from harness.guest.held import NeverHeldError
from harness.guest.hold import Hold
from harness.guest.symbols import Symbols
from harness.lib import private
from harness.lib.errors import HarnessError
from harness.vm.accelerator import Accelerator
from harness.vm.pci_devices import Layout
from harness.vm.recorder import NoRecord, Recorder

ADDRESS = 0x1000
INSERT = (packet("Z1,1000,1"), b"+" + packet("OK"))
REMOVE = (packet("z1,1000,1"), b"+" + packet("OK"))


@dataclass
class Machine:
    """A machine as a hold sees it, whose debugger's port is ``debugger``; counts how often it is killed."""

    debugger: Path | None
    layout: Layout = field(default_factory=lambda: Layout(cpus=3))
    accelerator: Accelerator = field(default_factory=lambda: Accelerator("tcg", 0.02, ""))
    killed: int = 0

    def kill(self) -> None:
        self.killed += 1


@dataclass
class HeldGuest:
    """A guest on that machine, whose kernel has one function."""

    machine: Machine
    symbols: Symbols = field(default_factory=lambda: Symbols([("a_function", ADDRESS)]))
    recorder: Recorder = field(default_factory=NoRecord)

    def hold(self) -> Hold:
        return Hold(cast(Guest, cast(Any, self)))


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A port that accepts a connection and says nothing, as one that a debugger uses already."""
    with private.listen(tmp_path / "debugger"):
        yield tmp_path / "debugger"


def test_machine_without_a_port_is_a_harness_error() -> None:
    guest = HeldGuest(Machine(None))
    with pytest.raises(HarnessError, match=r"has no debugger's port.*@machine\(hold=True\)"):
        guest.hold().at("a_function", cpu=1).__enter__()
    assert guest.machine.killed == 0


def test_port_in_use_costs_the_machine(silent: Path) -> None:
    guest = HeldGuest(Machine(silent))
    with pytest.raises(HarnessError, match="was silent"):
        guest.hold().at("a_function", cpu=1).__enter__()
    assert guest.machine.killed == 1


def test_absent_function_keeps_the_machine(silent: Path) -> None:
    guest = HeldGuest(Machine(silent))
    with pytest.raises(HarnessError, match="has no function another"):
        guest.hold().at("another", cpu=1).__enter__()
    assert guest.machine.killed == 0


def test_task_that_does_not_come_keeps_the_machine() -> None:
    """The processors go on: the machine is interrupted, the breakpoint removed, the debugger detached."""
    interrupt = (b"\x03", b"$T02thread:p01.01;#03")
    server = Qemu([*GREETING, INSERT, (packet("vCont;c"), b"+"), interrupt, REMOVE, GOODBYE])
    guest = HeldGuest(Machine(server.path))
    with (
        pytest.raises(HarnessError, match="No task on processor 1 came to a_function"),
        guest.hold().at("a_function", cpu=1) as held,
    ):
        held.arrive()
    server.close()
    assert (server.unexpected, guest.machine.killed) == ([], 0)


def test_operation_that_ends_elsewhere_is_not_waited_for() -> None:
    interrupt = (b"\x03", b"$T02thread:p01.01;#03")
    server = Qemu([*GREETING, INSERT, (packet("vCont;c"), b"+"), interrupt, REMOVE, GOODBYE])
    machine = Machine(server.path, accelerator=Accelerator("tcg", 100.0, ""))
    with (
        pytest.raises(NeverHeldError, match="came to a_function before its operation ended"),
        HeldGuest(machine).hold().at("a_function", cpu=1) as held,
    ):
        held.arrive(lambda: True)


def test_machine_that_does_not_stop_any_more_is_killed() -> None:
    server = Qemu([*GREETING, INSERT, (packet("vCont;c"), b"+"), (b"\x03", b"")])
    guest = HeldGuest(Machine(server.path))
    with pytest.raises(HarnessError, match="was silent"), guest.hold().at("a_function", cpu=1):
        pass
    assert guest.machine.killed == 1
