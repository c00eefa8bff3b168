"""Report whether the host has what the harness needs: packages, QEMU, KVM, resources, a mirror."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.table import Table
from rich.text import Text

from harness.cli.packages import how_to_install, missing, packages
from harness.lib import apt, command, sandbox
from harness.lib.cache import Store
from harness.lib.console import Console
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.resources import Need
from harness.run import resources
from harness.run.request import Request
from harness.vm import accelerator, qemu_program

_NO_BETTER = (
    "A scenario that this hits is a harness-error. No version is known to be better: docs/findings.md has "
    "what was measured."
)


@dataclass(frozen=True)
class Finding:
    """A finding of ``doctor``; ``good`` is None if it is only reported, not judged."""

    subject: str
    found: str
    good: bool | None = None
    advice: str = ""


def doctor(store: Store, program: str, stream: TextIO) -> ExitCode:
    """Print the findings; return OK if none is bad, else HARNESS."""
    rows = examine(store, program)
    table = Table("", "host", "found", box=None, header_style="bold")
    marks = {True: Text("ok", "green"), False: Text("no", "bold red"), None: Text("")}
    for row in rows:
        table.add_row(marks[row.good], row.subject, Text(row.found))
    # In a file a long line is not wrapped, so that it can be searched for.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else 1000)
    console.print(table)
    for row in rows:
        if row.advice:
            console.print(Text(f"\n{row.subject}: {row.advice}"))
    return ExitCode.HARNESS if any(row.good is False for row in rows) else ExitCode.OK


def examine(store: Store, program: str) -> list[Finding]:
    """Return the findings that ``doctor`` shows.  Changes only the cached answer whether KVM works."""
    return [
        _distribution(),
        _packages(),
        _qemu(program),
        _kvm(store, program),
        _compiler(),
        _sandbox(),
        _processors(),
        *map(_resource, resources.of_first_run(store)),
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
        info = qemu_program.probe(program)
        info.require()
    except HarnessError as error:
        return Finding("QEMU", "not usable", False, error.message)
    why = "the first on PATH" if program == Request().qemu else "named by --qemu"
    found = f"{info.version} at {info.path} ({why}), has {', '.join(qemu_program.DEVICES)}"
    return Finding("QEMU", found, True, info.known_fault and f"{info.known_fault} {_NO_BETTER}")


def _kvm(store: Store, program: str) -> Finding:
    """Report whether KVM works; without it a run is only slower, so it is not judged."""
    kernels = sorted((store.root / "kernel").glob("*/bzImage"), key=lambda path: path.stat().st_mtime)
    if not Path("/dev/kvm").exists():
        return Finding("KVM", "there is no /dev/kvm; software emulation is used")
    if not kernels:
        return Finding(
            "KVM", "there is /dev/kvm; only a boot shows whether it works, and no kernel is built yet"
        )
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


def _sandbox() -> Finding:
    """Report whether builds can be contained; without that a run works, so it is not judged."""
    found = sandbox.tried()
    if found.on:
        return Finding("sandbox", f"{found.reason} contains builds", True)
    advice = (
        "The makefiles and scripts of a series run as you. Test only what you trust, or install the "
        "package bubblewrap and allow user namespaces (docs/security.md)."
    )
    return Finding("sandbox", f"builds are not contained: {found.reason}", None, advice)


def _processors() -> Finding:
    return Finding("processors", str(len(os.sched_getaffinity(0))))


def _resource(need: Need) -> Finding:
    return Finding(need.subject, str(need), need.met, "" if need.met else need.advice)


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
