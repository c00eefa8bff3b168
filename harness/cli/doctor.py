"""The host: are the packages there that the harness needs, and what else should one know of it?"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.packages import how_to_install, missing, packages
from harness.lib import apt, command
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError
from harness.vm import accelerator, qemu

GIB = 1 << 30
# Measured after a first run: sources 1.7, objects 0.3, base repository 0.4, image,
# kernel and ccache 0.3 GiB, and room for the tarball while it is unpacked.
DISK_NEEDED = 4 * GIB
# The guest and, at another time, the largest link.
MEMORY_NEEDED = 2 * GIB


@dataclass(frozen=True)
class Finding:
    """One finding of ``doctor``: ``good`` is None where it is only said, not judged."""

    subject: str
    found: str
    good: bool | None = None
    advice: str = ""


def doctor(store: Store, qemu_program: str, stream: TextIO) -> ExitCode:
    """Print what this host has; OK when all that is needed is there, else HARNESS."""
    rows = examine(store, qemu_program)
    table = Table("", "host", "found", box=None, header_style="bold")
    marks = {True: Text("ok", "green"), False: Text("no", "bold red"), None: Text("")}
    for row in rows:
        table.add_row(marks[row.good], row.subject, Text(row.found))
    # A log has no width; what is in it should be found again in one piece.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else 1000)
    console.print(table)
    for row in rows:
        if row.advice:
            console.print(Text(f"\n{row.subject}: {row.advice}"))
    return ExitCode.HARNESS if any(row.good is False for row in rows) else ExitCode.OK


def examine(store: Store, qemu_program: str) -> list[Finding]:
    """Everything that ``doctor`` shows.  Changes nothing but the remembered answer about KVM."""
    return [
        _distribution(),
        _packages(),
        _qemu(qemu_program),
        _kvm(store, qemu_program),
        _compiler(),
        _processors(),
        _memory(Path("/proc/meminfo").read_text()),
        _disk(store),
        _mirror(),
        _cache(store),
    ]


def _distribution() -> Finding:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        name = "unknown"
    machine = platform.machine()
    return Finding("system", f"{name}, {machine}", machine == "x86_64")


def _packages() -> Finding:
    needed = packages()
    lacking = missing(needed)
    if lacking:
        return Finding("packages", f"missing: {' '.join(lacking)}", False, how_to_install(lacking))
    return Finding("packages", f"all {len(needed)} installed", True)


def _qemu(program: str) -> Finding:
    try:
        info = qemu.probe(program)
        info.require()
    except HarnessError as error:
        return Finding("QEMU", "not usable", False, error.message)
    return Finding("QEMU", f"{info.version} at {info.path}, has {', '.join(qemu.DEVICES)}", True)


def _kvm(store: Store, program: str) -> Finding:
    """KVM is a matter of speed, so it is said and not judged."""
    kernels = sorted((store.root / "kernel").glob("*/bzImage"), key=lambda path: path.stat().st_mtime)
    if not Path("/dev/kvm").exists():
        return Finding("KVM", "there is no /dev/kvm; software emulation is used")
    if not kernels:
        return Finding("KVM", "there is /dev/kvm; no kernel is built yet that could show whether it works")
    try:
        chosen = accelerator.choose(store, "auto", program, kernels[-1])
    except HarnessError as error:
        return Finding("KVM", f"not tried: {error.message}")
    return Finding("KVM", f"{'works' if chosen.name == 'kvm' else 'does not work'}: {chosen.reason}")


def _compiler() -> Finding:
    try:
        lines = [command.run([tool, "--version"]).split("\n", 1)[0] for tool in ("gcc", "ld")]
    except HarnessError as error:
        return Finding("compiler", "not usable", False, error.message)
    return Finding("compiler", ", ".join(lines), True)


def _processors() -> Finding:
    return Finding("processors", str(len(os.sched_getaffinity(0))))


def _memory(meminfo: str) -> Finding:
    """``meminfo`` is the text of /proc/meminfo (kB, which are KiB)."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return Finding(
        "memory",
        f"{total / GIB:.1f} GiB, {available / GIB:.1f} available (needs {MEMORY_NEEDED / GIB:.0f})",
        available >= MEMORY_NEEDED,
    )


def _disk(store: Store) -> Finding:
    free = shutil.disk_usage(store.root).free
    filled = (store.root / "workbench").exists()
    needed = GIB if filled else DISK_NEEDED
    return Finding(
        "disk",
        f"{free / GIB:.0f} GiB free at {store.root} (needs {needed / GIB:.0f} more)",
        free >= needed,
        "" if free >= needed else "`python -m harness clean` empties the cache; PATCHPROOF_CACHE moves it.",
    )


def _mirror() -> Finding:
    try:
        found = apt.mirrors()
    except HarnessError as error:
        return Finding("Debian mirror", f"not known: {error.message}")
    return Finding("Debian mirror", found[0] if found else "apt names none; the guest image needs one")


def _cache(store: Store) -> Finding:
    kinds = {"base": "base sources", "kernel": "kernels", "image": "images"}
    counted = [f"{len(list((store.root / kind).glob('[!.]*')))} {name}" for kind, name in kinds.items()]
    return Finding("cache", f"{store.root}: {', '.join(counted)}")
