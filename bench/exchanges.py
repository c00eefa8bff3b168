"""Exchanges of a DMABUF in a guest, step by step: export, map, load from every page, revoke."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from bench.curves import Kinds, Laps, measure, show
from harness.actor.actor import Actor
from harness.actor.build import build_actor
from harness.actor.handles import Device, Range
from harness.actor.start import start_actor
from harness.actor.transcript import Transcript
from harness.guest.guest import Guest
from harness.kernel.apply import apply_series
from harness.kernel.build import build_kernel
from harness.kernel.fetch import fetch_base
from harness.lib.cache import Store
from harness.lib.progress import Progress
from harness.run.request import DEFAULT_SERIES, Request, load
from harness.vm import image, machine
from harness.vm.accelerator import choose
from harness.vm.hardware import GIB, MIB, PAGE
from harness.vm.pci_devices import Layout

#: At the most every page of the RAM BAR of 64 MiB is a range of its own.
RANGES = (1, 2, 16, 64, 256, 1024, 4096, 16384)
SIZES = tuple(4**power for power in range(10))  # pages, from 4 KiB to 1 GiB
LAYOUT = Layout(ram=64 * MIB, ram2=MIB, bigram=GIB)
BARS = ("ram2", "display", "ram", "bigram")  # of 1, 16, 64 and 1024 MiB
STEP = 617  # pages from one range to the next; it is odd, so no page of a BAR comes twice
PMD = 2 * MIB  # what one entry of a page table of the second level maps (x86)
DEADLINE = 600  # seconds, for loads from every page


@contextmanager
def running(store: Store, progress: Progress) -> Iterator[tuple[Guest, Actor]]:
    """Boot the kernel of the default series, and start the C actor.  Raises PatchproofError."""
    request = Request(series=DEFAULT_SERIES)
    tested = load(request).series
    logs = store.path("logs", "bench", "growth.log").parent
    source = fetch_base(store, progress, tested.base)
    tree = apply_series(store, progress, source, tested, logs / "apply.log")
    kernel = build_kernel(store, progress, tree, request.fragments, logs / "build.log")
    rootfs = image.build(store, progress, logs / "image.log")
    binary = build_actor(store, kernel.headers, logs / "probes.log")
    accelerator = choose(store, request.accel, request.qemu, kernel.bzimage)
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as folder:
        run_dir, transcript = Path(folder) / "machine", Transcript(Path(folder) / "transcript.txt")
        booted = machine.boot(kernel.bzimage, rootfs, run_dir=run_dir, accelerator=accelerator, layout=LAYOUT)
        with booted:
            guest = Guest(booted)
            with start_actor(guest, binary, transcript) as actor:
                yield guest, actor


@contextmanager
def opened(guest: Guest, actor: Actor, role: str) -> Iterator[tuple[Device, int, int]]:
    """Open a device; yield it with its BAR of memory and that BAR's pages, which the host has by then."""
    with guest.bind(role) as function:
        device, bar = actor.open(function.address), function.memory_bar
        assert bar is not None
        with actor.map(device, bar=bar) as mapping:
            actor.say("touch", mapping.name, deadline=DEADLINE)
        yield device, bar, function.bars[bar] // PAGE
        device.close()


def exchange(device: Device, bar: int, ranges: Sequence[Range], huge: bool) -> tuple[dict[str, float], str]:
    """Export a DMABUF, map it, load from every page, and revoke it.

    With ``huge`` the mapping is at a multiple of 2 MiB, and asks for huge pages.  Returns the seconds of
    each step, and the number of page faults.
    """
    actor = device.actor
    laps = Laps()
    buffer = actor.export(device, bar, ranges)
    laps.end("export")
    mapping = actor.map(buffer, align=PMD if huge else None)
    if huge:
        mapping.advise("hugepage")
    laps.end("map")
    answer = actor.say("touch", mapping.name, deadline=DEADLINE)
    laps.end("load")
    actor.revoke(buffer)
    laps.end("revoke")
    mapping.unmap()
    buffer.close()
    return laps.times, answer.partition("faults=")[2]


class Exchanges:
    """Exchanges of DMABUFs of several sizes, ``runs`` of each; ``huge`` as for exchange()."""

    def __init__(self, runs: int, huge: bool = False) -> None:
        self._runs = runs
        self._huge = huge
        self._kinds: Kinds = {}
        self._faults: dict[int, str] = {}

    def add(self, device: Device, bar: int, size: int, ranges: Sequence[Range]) -> None:
        """Measure an exchange of these ranges, as one of this ``size``."""

        def once() -> dict[str, float]:
            times, self._faults[size] = exchange(device, bar, ranges, self._huge)
            return times

        measure(self._kinds, size, self._runs, once)

    def show(self, console: Console, title: str, size: str) -> None:
        """Print the tables."""
        show(console, title, size, self._kinds, {"page faults": self._faults}, milliseconds=True)


def growth_of_ranges(console: Console, guest: Guest, actor: Actor, counts: Sequence[int], runs: int) -> None:
    """Print how an exchange grows with the ranges of the DMABUF, each another page of the RAM BAR."""
    measured = Exchanges(runs)
    with opened(guest, actor, "ram") as (device, bar, whole):
        for count in (number for number in counts if number <= whole):
            scattered = [Range(number * STEP % whole * PAGE, PAGE) for number in range(count)]
            measured.add(device, bar, count, scattered)
    measured.show(console, "ranges of one page, scattered over a BAR of 64 MiB", "ranges")


def growth_of_size(console: Console, guest: Guest, actor: Actor, runs: int) -> None:
    """Print how an exchange grows with the pages of the DMABUF, and with the size of the BAR."""
    bars, parts, huge = Exchanges(runs), Exchanges(runs), Exchanges(runs, huge=True)
    for role in (one for one in BARS if one in guest.devices):
        with opened(guest, actor, role) as (device, bar, whole):
            bars.add(device, bar, whole, [Range(0, whole * PAGE)])
            if role == BARS[-1]:
                for pages in SIZES:
                    parts.add(device, bar, pages, [Range(0, pages * PAGE)])
                    huge.add(device, bar, pages, [Range(0, pages * PAGE)])
    parts.show(console, "one range, a part of a BAR of 1 GiB", "pages")
    huge.show(console, "the same, mapped by huge pages where they fit", "pages")
    bars.show(console, "one range, a whole BAR", "pages")
