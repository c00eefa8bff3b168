"""Snapshots: what a loaded machine has of the saved one, and what happens if it cannot be loaded."""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import real

from harness.actor.build import build_actor
from harness.actor.start import start_python
from harness.actor.transcript import Transcript
from harness.guest.guest import Guest
from harness.guest.health import KernelHealth
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.kernel.dialect import Interfaces
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.run import machines as machines_module
from harness.run.machines import Machines, ModuleSource
from harness.run.needs import Needs
from harness.run.positive_control import Proof
from harness.run.request import Request
from harness.run.snapshots import Saved, Shared, Snapshots
from harness.vm import snapshot
from harness.vm.hardware import MIB, PAGE
from harness.vm.pci_devices import Layout
from harness.vm.ram_bar import RamBar

LAYOUT = Layout(ram=4 * MIB, ram2=4 * MIB, display=4 * MIB, pair=4 * MIB, rng=True)
PATIENCE = 60.0
UNUSED: Any = None
RAM = b"\x1d0000:00:11.0:00.0/ram-memory" + struct.pack(">QQ", 4 * MIB, 0xF8000000)


def test_address_of_a_ram_bar_is_cleared() -> None:
    state = snapshot.without_address(b"QEVM" + RAM + b"rest" + RAM, "ram", 4 * MIB)
    assert state == b"QEVM" + RAM[:-8] + bytes(8) + b"rest" + RAM


@pytest.mark.parametrize(("role", "size"), [("ram2", 4 * MIB), ("ram", 8 * MIB)])
def test_state_without_a_ram_bar_is_refused(role: str, size: int) -> None:
    with pytest.raises(HarnessError, match="without the RAM BAR"):
        snapshot.without_address(b"QEVM" + RAM, role, size)


def test_copied_memory_is_equal_and_cannot_be_changed() -> None:
    memory = snapshot.create_memory("test", 8 * MIB)
    os.pwrite(memory, b"first", 0)
    os.pwrite(memory, b"last", 8 * MIB - 4)
    copy = snapshot.copy_memory(memory)
    assert os.pread(copy, 8 * MIB, 0) == b"first" + bytes(8 * MIB - 9) + b"last"
    assert os.fstat(copy).st_blocks * 512 < MIB
    with pytest.raises(PermissionError):
        os.pwrite(copy, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(copy, 4096)
    for one in (memory, copy):
        os.close(one)


def saved_in_this_process() -> Saved:
    """Return a snapshot without a guest, whose memory begins with the word `saved`."""
    memory = snapshot.create_memory("test", MIB)
    os.pwrite(memory, b"saved", 0)
    saved = snapshot.Snapshot("machine-1", memory, b"", UNUSED, UNUSED, b"")
    return Saved(saved, LAYOUT, Proof(()), UNUSED, (), {}, None)


def test_snapshot_of_another_process_has_a_memory_of_its_own(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "test")
    saved = saved_in_this_process()
    shared = Shared(os.getpid(), os.fstat(saved.snapshot.memory).st_ino, saved)
    others = Snapshots(results.journal())
    others.adopt([shared])
    saved.snapshot.close()
    adopted = others.of(LAYOUT)
    assert adopted is not None
    assert os.pread(adopted.memory, 5, 0) == b"saved"
    others.close()


@pytest.mark.parametrize("reused", [False, True])
def test_snapshot_whose_memory_is_gone_is_left_out(tmp_path: Path, reused: bool) -> None:
    results = ResultsFolder.create(tmp_path, "test")
    saved = saved_in_this_process()
    shared = Shared(os.getpid(), os.fstat(saved.snapshot.memory).st_ino, saved)
    other = snapshot.create_memory("other", MIB)
    if reused:
        os.dup2(other, saved.snapshot.memory)  # another file has its number
    else:
        os.close(saved.snapshot.memory)
    journal = results.journal()
    journal.plan([])
    others = Snapshots(journal)
    others.adopt([shared])
    assert others.of(LAYOUT) is None
    (note,) = read(results.dir).notes
    assert note.startswith("The snapshot of machine-1 is not used by all processes of the run: ")


# --- a real machine


@dataclass
class Run:
    """The machines of a run, each with LAYOUT: the first one is booted, and later ones are loaded."""

    machines: Machines
    results: ResultsFolder

    def next(self) -> Guest:
        """End the machine and return the guest of another one."""
        self.machines.end("the test needs another")
        return self.machines.guest_for(Needs(LAYOUT))

    def current(self) -> Guest:
        """Return the guest of the running machine."""
        return self.machines.guest_for(Needs(LAYOUT))

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = (self.results.dir / "events.jsonl").read_text().splitlines()
        return [one for one in map(json.loads, lines) if one["event"] == event]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("snapshots")
    results, kernel = ResultsFolder.create(folder, "test"), real.base_kernel()
    journal = results.journal()
    journal.plan([])
    machines = Machines(Request(), results, journal)
    actor = build_actor(Store(), kernel.headers, folder / "actor.log")
    headers = Interfaces.of(kernel.headers)
    image, importer = real.guest_image(), cast(ModuleSource, None)  # no scenario needs the importer
    machines.software = machines_module.TestedSoftware(
        kernel, image, actor, "none", headers, real.accelerator(), importer
    )
    yield Run(machines, results)
    machines.close()


def beside(started: Run, folder: Path) -> Run:
    """Return other machines with the same software, which have started none."""
    results = ResultsFolder.create(folder, "beside")
    journal = results.journal()
    journal.plan([])
    other = Run(Machines(Request(), results, journal), results)
    other.machines.software = started.machines.software
    return other


def said(guest: Guest, script: str) -> str:
    done = guest.script(script)
    assert done.status == 0, done.stderr.decode()
    return done.stdout.decode().strip()


CONFIGURATION = "for d in /sys/bus/pci/devices/*; do echo $d; od -An -tx1 -N 64 $d/config; done"
PROGRAMS = "cat /proc/[0-9]*/comm | grep -x -e sshd -e sh -e agent | sort"
TEMPLATES = "for p in /proc/[0-9]*; do ! grep -qs -e --template $p/cmdline || echo $p; done"
SAME = ("head -1 /proc/meminfo", CONFIGURATION)
RANDOM = "od -An -tx1 -N 16 /dev/urandom"


@pytest.mark.vm
def test_loaded_machine_is_as_the_saved_one(started: Run) -> None:
    """Compare with the machine that was saved, which has run on."""
    booted = started.next()
    health = KernelHealth.of(booted)
    same = [said(booted, script) for script in SAME]
    programs = said(booted, PROGRAMS).split()
    assert set(programs) == {"agent", "sh", "sshd"}
    said(booted, "echo later >/run/marker")
    loaded = started.next()
    assert [one.get("snapshot") for one in started.events("machine-up")] == [None, "machine-1"]
    assert [said(loaded, script) for script in SAME] == same
    deadline = time.monotonic() + PATIENCE
    while len(left := said(loaded, PROGRAMS).split()) >= len(programs) or "sshd" in left:
        assert time.monotonic() < deadline, left  # those of the saved machine end
    assert KernelHealth.of(loaded) == health
    assert "marker" not in said(loaded, "ls /run")
    detectors = [one["detectors"] for one in started.events("detectors")]
    assert detectors[0] == detectors[1]
    assert "Linux version" in loaded.machine.console.since()


@pytest.mark.vm
def test_snapshot_of_another_process_is_loaded(started: Run, tmp_path: Path) -> None:
    started.current()
    other = beside(started, tmp_path)
    other.machines.snapshots.adopt(started.machines.snapshots.all())
    assert said(other.current(), "echo alive") == "alive"
    other.machines.close()
    assert [one.get("snapshot") for one in other.events("machine-up")] == ["machine-1"]


@pytest.mark.vm
def test_loaded_machine_forks_python_probes_without_a_login(started: Run, tmp_path: Path) -> None:
    run = beside(started, tmp_path)
    run.machines.snapshots.many = True
    run.current()
    guest = run.next()
    (process,) = said(guest, TEMPLATES).split()
    probe = start_python(guest, Transcript(tmp_path / "transcript.txt"), {})
    assert probe.say("version").startswith("protocol=")
    assert process in said(guest, TEMPLATES).split()
    deadline = time.monotonic() + PATIENCE
    while "sshd" in (left := said(guest, PROGRAMS).split()):
        assert time.monotonic() < deadline, left  # those of the saved machine end
    run.machines.close()


@pytest.mark.vm
def test_parallel_machine_is_loaded_from_the_usual_one(started: Run) -> None:
    started.current()
    guest = started.machines.guest_for(Needs(replace(LAYOUT, parallel=True)))
    command = guest.machine.command
    assert "thread=multi" in command[command.index("-accel") + 1]
    assert started.events("machine-up")[-1]["snapshot"] == "machine-1"
    assert said(guest, "grep -c ^processor /proc/cpuinfo") == "2"


@pytest.mark.vm
def test_loaded_machine_has_a_clock_and_entropy_of_its_own(started: Run) -> None:
    first = said(started.current(), RANDOM)
    other = started.next()
    assert said(other, RANDOM) != first
    assert abs(int(said(other, "date +%s")) - time.time()) < PATIENCE


@pytest.mark.vm
def test_loaded_machine_shares_its_ram_bar_with_the_host(started: Run) -> None:
    guest = started.current()
    with RamBar(guest.machine.ram_bar) as bar:
        assert bar.pages() == [0] * (LAYOUT.ram // PAGE)
        bar.stamp(seed=5)
    address = guest.devices["ram"].address
    program = f"""
import mmap, os, struct
device = "/sys/bus/pci/devices/{address}"
open(device + "/enable", "w").write("1")
bar = mmap.mmap(os.open(device + "/resource2", os.O_RDWR), 0)
print(len(bar), struct.unpack_from("<I", bar, 4096)[0])
"""
    done = guest.run(["python3", "-"], program.encode())
    assert done.stdout.split() == [b"%d" % LAYOUT.ram, b"6"], done.stderr


@pytest.mark.vm
def test_damaged_snapshot_is_a_boot_with_a_note(started: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    started.current()

    def damaged(self: Snapshots, layout: Layout) -> snapshot.Snapshot | None:
        whole = whole_snapshot(self, layout)
        return whole and replace(whole, state=whole.state[: len(whole.state) // 2])

    whole_snapshot = Snapshots.of
    monkeypatch.setattr(Snapshots, "of", damaged)
    said(started.next(), "true")
    assert "snapshot" not in started.events("machine-up")[-1]
    # On a busy host another note tells how slow the guest is.
    notes = "\n".join(one["text"] for one in started.events("note"))
    assert re.search("A machine could not be started from the snapshot of machine-1, .*: QEMU exited", notes)
