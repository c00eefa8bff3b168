"""The host's Debian packages: list, check, install."""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.lib import command, interruption
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import HarnessError
from harness.lib.paths import PROJECT, VMIMAGE
from harness.lib.progress import Progress, Stage

PACKAGES = VMIMAGE / "host-packages.txt"
FOR_TESTS = PROJECT / "tests" / "host-packages.txt"  # those that only the project's own tests need


APT_SECONDS = 300.0  # for the end of another program of apt
_LOCKED = "Could not get lock"  # what apt says


@dataclass(frozen=True)
class Package:
    """A Debian package, and the program that shows it on other systems (``-`` if none does)."""

    name: str
    program: str


def packages(*listed: Path) -> list[Package]:
    """Return the packages in the files ``listed``, by default PACKAGES, in their order."""
    texts = [path.read_text() for path in listed or (PACKAGES,)]
    lines = (line.split("#")[0].split() for text in texts for line in text.splitlines())
    return [Package(words[0], words[1]) for words in lines if words]


def missing(needed: Sequence[Package]) -> list[str]:
    """Return the names of the packages that are not installed, by dpkg.

    Without dpkg, a package counts as missing if its program is not on PATH.
    """
    if not _has_dpkg():
        return [p.name for p in needed if p.program != "-" and shutil.which(p.program) is None]
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"]
    # dpkg-query exits with 1 if it does not know a package; its output is complete nevertheless.
    listing = command.capture([*query, *(p.name for p in needed)])
    return absent((p.name for p in needed), listing.stdout.decode(errors="replace"))


def absent(names: Iterable[str], listing: str) -> list[str]:
    """Return the ``names`` that ``listing`` does not list as installed.

    ``listing`` is the output of dpkg-query, a line ``NAME STATUS`` for each package.
    """
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def install_argv(names: Sequence[str]) -> list[str]:
    """Return the command that installs ``names``."""
    return ["apt-get", "install", "--yes", "--no-install-recommends", *names]


def ensure(store: Store, progress: Progress, *listed: Path) -> None:
    """Install the missing packages, as root on Debian; else raise HarnessError with the command to run.

    ``listed`` are as for packages().  Needs no network if nothing is missing.
    """
    needed = packages(*listed)
    lacking = missing(needed)
    if not lacking:
        return
    if not _has_dpkg() or os.geteuid() != 0:
        raise HarnessError(how_to_install(lacking))
    log = store.path("logs", "packages.log")
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    wait = ["-o", f"DPkg::Lock::Timeout={APT_SECONDS:.0f}"]
    with store.lock("packages"), progress.stage("packages") as stage:
        lacking = missing(needed)  # without those that another run has installed meanwhile
        if not lacking:
            return
        stage.note("installing " + " ".join(lacking))
        update = partial(command.run, ["apt-get", "update"], log=log, env=quiet, line=stage.update)
        _when_free(update, stage)
        command.run([*install_argv(lacking), *wait], log=log, env=quiet, line=stage.update)
    if still := missing(needed):
        raise HarnessError(
            f"apt-get installed the missing packages, but these are still missing: {' '.join(still)}.",
            log=log,
        )


def _when_free(update: Callable[[], str], stage: Stage) -> None:
    """Call ``update``, again while another program holds the lock of apt's lists: apt does not wait."""
    deadline = time.monotonic() + APT_SECONDS
    told = False
    while True:
        try:
            update()
        except CommandError as error:
            if _LOCKED not in error.tail or time.monotonic() > deadline:
                raise
            if not told:
                holder = next(line for line in error.tail.splitlines() if _LOCKED in line)
                stage.note(f"waiting for another program of apt: {holder}")
            told = True
        else:
            return
        interruption.until(threading.Event().wait, 1.0)


def how_to_install(lacking: Sequence[str]) -> str:
    """Return a message that names the missing packages, and how to install them."""
    named = f"Host packages are missing: {' '.join(lacking)}."
    if not _has_dpkg():
        return f"{named} These are Debian's names; install what your distribution calls them."
    sudo = "" if os.geteuid() == 0 else "sudo "
    return (
        f"{named} Only root can install them. Run:\n"
        f"    {sudo}apt-get update && {sudo}{shlex.join(install_argv(lacking))}"
    )


def _has_dpkg() -> bool:
    return shutil.which("dpkg-query") is not None and shutil.which("apt-get") is not None
