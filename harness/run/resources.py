"""The resources of a run, known before it begins: memory, disk, processes, open files, ports."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.kernel import space
from harness.lib import resources
from harness.lib.cache import Store
from harness.lib.resources import MIB, Need, Room
from harness.run import snapshots
from harness.run.needs import LARGEST, USUAL, is_big
from harness.run.request import AUTO, Request
from harness.run.schedule import Job
from harness.series.series import DEFAULT_BASE
from harness.vm import image, qemu_memory
from harness.vm.pci_devices import Layout

#: This program itself, with pytest and the scenarios.
OWN_MEMORY = 192 * MIB
#: Seconds of work, by the recorded durations, for each of which AUTO boots one more machine.
WORTH_A_MACHINE = 40.0
#: Layouts of the machines of the whole suite: many scenarios share the usual one.
WHOLE_SUITE = (*[USUAL] * 100, LARGEST)
#: A build: its largest program, git with the tarball of the source, and one compiler for each processor.
BUILD_MEMORY = 384 * MIB
COMPILER_MEMORY = 192 * MIB
#: The guest's packages while they are unpacked, and the image that is packed from them.
IMAGE_ROOM = 256 * MIB
UNPACKED_ROOM = 512 * MIB
#: Temporary files of git and the compilers.
TEMPORARY_ROOM = 64 * MIB
#: An ordinary run of the whole suite writes a tenth of this to its results folder.
RESULTS_ROOM = 256 * MIB
#: Threads of QEMU and of this program, and the processes of make for each processor.
PROCESSES, PROCESSES_OF_JOB = 64, 12
OPEN_FILES = 256
LARGEST_FILE, LARGEST_FILE_OF_BUILD = 64, 512  # MiB: a console's log; the packed source


def needs(store: Store, request: Request, release: str, layouts: Iterable[Layout] = ()) -> list[Need]:
    """Return what a run of ``request`` needs of this host, beside what the host has.

    ``release`` is that of the kernel to build; ``layouts`` are those of the scenarios' machines,
    of which ``request.machines`` run side by side.
    """
    layouts = list(layouts)
    machines = most_machines(request, layouts)
    builds = request.kernel is None
    jobs = len(os.sched_getaffinity(0)) if builds else 0
    limit = LARGEST_FILE_OF_BUILD if builds else LARGEST_FILE
    free_size = resources.file_size_available()
    ports = 2 * machines
    found = [
        _memory(request, layouts, machines, jobs),
        *resources.disk(_rooms(store, request, release)),
        Need(
            "processes",
            PROCESSES * machines + PROCESSES_OF_JOB * jobs,
            resources.processes_available(),
            "processes and threads",
            f"make with -j{jobs}, QEMU, this program" if builds else "QEMU, this program",
            "Raise the limit (`ulimit -u`, or that of the container), or end other processes.",
        ),
        Need(
            "open files",
            OPEN_FILES,
            resources.open_files_available(),
            "open files",
            "in one process",
            "Raise the limit (`ulimit -n`).",
        ),
        Need(
            "ports",
            ports,
            resources.loopback_ports(ports),
            "TCP ports of 127.0.0.1",
            "the login over SSH and the agent in the guest"
            + (f" of each of {machines} machines" if machines > 1 else ""),
            "End programs that hold ports, or widen /proc/sys/net/ipv4/ip_local_port_range.",
        ),
    ]
    if free_size is not None:
        advice = "Raise the limit (`ulimit -f`)."
        found.append(Need("file size", limit, free_size, "MiB", "the largest file that is written", advice))
    return found


def machines_at_once(request: Request, jobs: Sequence[Job]) -> int:
    """Return how many machines run these scenarios side by side, each at least one.

    With AUTO they are no more than the work is worth.
    """
    shared = [one for one in jobs if not one.needs.quiet]
    most = most_machines(request, [one.needs.layout for one in shared])
    if request.machines == AUTO:
        most = min(most, 1 + int(sum(one.seconds for one in shared) / WORTH_A_MACHINE))
    return most


def big_beside(machines: int) -> bool:
    """Return whether the host has the memory for the largest machine while all but one of the others run."""
    usual = qemu_memory.needed(USUAL) * (machines - 1)
    return usual + qemu_memory.needed(LARGEST) + OWN_MEMORY * machines <= resources.memory_available()


def most_machines(request: Request, layouts: Sequence[Layout]) -> int:
    """Return how many machines a run has at most, for scenarios with these layouts.

    With AUTO they are three for two processors, as a machine waits for a quarter of its time (for
    resets, DMA, and answers), and no more than the memory is enough for.  It is one where a second
    one would cost more than it gains, or would not be kept.
    """
    shared = [one for one in layouts if not is_big(one)]
    most = request.machines
    if most == AUTO and (request.until_violated or request.keep_vm or request.coverage):
        most = 1
    elif most == AUTO:
        each = OWN_MEMORY + max(map(qemu_memory.needed, shared), default=qemu_memory.needed(USUAL))
        processors = len(os.sched_getaffinity(0))
        most = min(processors * 3 // 2, resources.memory_available() // each)
    return max(1, min(most, len(shared)))


def of_first_run(store: Store) -> list[Need]:
    """Return what a run with everything needs, of the default base and with the largest machine."""
    return needs(store, Request(), DEFAULT_BASE, WHOLE_SUITE)


def _memory(request: Request, layouts: Sequence[Layout], machines: int, jobs: int) -> Need:
    """Return the memory for this many machines side by side, their snapshots, and the build before them.

    Snapshots count only if the host has the memory: a run does without them.
    """
    largest = max(layouts, key=qemu_memory.needed, default=USUAL)
    shared = [one for one in layouts if not is_big(one)] if machines > 1 else []
    side_by_side = max(map(qemu_memory.needed, shared), default=0) * machines
    machine, build = qemu_memory.needed(largest), BUILD_MEMORY + jobs * COMPILER_MEMORY if jobs else 0
    own, running = OWN_MEMORY * machines, max(machine, side_by_side)
    saved = snapshots.LIMIT * machines if request.snapshots else 0
    available = resources.memory_available()
    room = saved if own + running + saved <= available else 0
    parts = ", ".join(f"{name} {size // MIB}" for name, size in qemu_memory.parts(largest).items() if size)
    return Need(
        "memory",
        (own + max(running + room, build)) // MIB,
        available // MIB,
        "MiB",
        f"this program {own // MIB}, and one machine at a time ({parts})"
        + (f", or {machines} side by side ({side_by_side // MIB})" if machines > 1 else "")
        + (f", with snapshots of up to {room // MIB}" if room else ", without snapshots")
        + (f", or before it make with -j{jobs} ({build // MIB})" if jobs else ""),
        "End other programs, give the machine or the container more memory, or choose "
        + ("fewer machines (--machines), or " if machines > 1 else "")
        + "scenarios with a smaller machine (-m, -k, --requirement).",
    )


def _rooms(store: Store, request: Request, release: str) -> list[Room]:
    temporary = Path(tempfile.gettempdir())
    found = [Room(request.results, RESULTS_ROOM, "results")]
    if request.kernel is None:
        found += space.rooms(store, release, request.tree)
    found.append(Room(temporary, TEMPORARY_ROOM, "temporary files"))
    if not (store.root / "image" / image.rootfs_recipe()).is_dir():
        found.append(Room(store.root, IMAGE_ROOM, "guest image"))
        found.append(Room(temporary, UNPACKED_ROOM, "packages of the guest"))
    return found
