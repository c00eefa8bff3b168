"""Compare the time from QEMU's start to a command done in the guest, for patchproof and virtme-ng.

Both boot the same kernel.  patchproof is measured until the first command's exit status, and
until QEMU's end; once booted, and once loaded from a snapshot of that machine.  virtme-ng is measured
until `vng --exec true` returns, which includes its guest's power-off.  The runs alternate, so other
load on the host affects all.

    python bench/boot.py [--runs N] [--kernel BZIMAGE] [--accel auto|kvm|tcg]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.guest.guest import Guest
from harness.kernel import apply, base, build
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, PatchproofError
from harness.lib.paths import KCONFIG
from harness.lib.progress import Progress
from harness.vm import image, machine
from harness.vm.accelerator import Accelerator, choose

FRAGMENTS = (
    *(KCONFIG / name for name in ("base.config", "vfio.config", "observe.config")),
    Path(__file__).with_name("virtme.config"),
)
OURS = "patchproof, to the first command done"
OURS_ENDED = "patchproof, to QEMU's end"
LOADED = "patchproof from a snapshot, to the first command done"
LOADED_ENDED = "patchproof from a snapshot, to QEMU's end"
SAVED = "(patchproof, to make the snapshot)"
TARGET = 0.15  # of virtme-ng's time, for LOADED
VIRTME = "virtme-ng, to QEMU's end"
PATIENCE = 120.0


def build_kernel(store: Store, progress: Progress) -> Path:
    """Build the unpatched base with the options that virtme-ng needs, one kernel for both."""
    source = base.fetch(store, progress)
    unpatched = apply.apply_series(store, progress, source, None, store.path("logs", "bench", "apply.log"))
    return build.build_kernel(
        store, progress, unpatched, FRAGMENTS, store.path("logs", "bench", "build.log")
    ).bzimage


def ours(bzimage: Path, rootfs: image.Image, accelerator: Accelerator) -> dict[str, float]:
    """Return the seconds of each measurement of patchproof: of a boot, and of a load of its snapshot."""
    with tempfile.TemporaryDirectory() as folder:
        booted = machine.boot(bzimage, rootfs, run_dir=Path(folder) / "booted", accelerator=accelerator)
        with booted:
            guest = Guest(booted)
            done = _first_command(guest)
            agent = guest.handover()
            started = time.monotonic()
            saved = booted.save()
            save = time.monotonic() - started
        found = {OURS: done, OURS_ENDED: time.monotonic() - booted.started - save, SAVED: save}
        with contextlib.closing(saved):
            run_dir = Path(folder) / "loaded"
            loaded = machine.load(saved, bzimage, rootfs, run_dir=run_dir, accelerator=accelerator)
            with loaded:
                again = Guest(loaded)
                again.take_over(agent, {})
                found[LOADED] = _first_command(again)
            found[LOADED_ENDED] = time.monotonic() - loaded.started
    return found


def _first_command(guest: Guest) -> float:
    """Run a command and return the seconds since QEMU's start."""
    guest.script("true")
    return time.monotonic() - guest.machine.started


def virtme(bzimage: Path, accelerator: Accelerator) -> float:
    """Return the seconds that `vng` takes to run one command.  Raises HarnessError if it does not."""
    vng = Path(sys.executable).with_name("vng")
    if not vng.exists():
        raise HarnessError("virtme-ng is not installed. Run `tox -e bench`, or pip install '.[bench]'.")
    with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as shared:
        # A file shows that the command ran.  vng's exit status does not, and the command's output is
        # lost on a host without udev: the guest uses the host's programs.
        ran = Path(shared) / "ran"
        argv = [
            *(str(vng), "--run", str(bzimage), "--cpus", "2", "--memory", "1G"),
            *("--force-9p", "--disable-microvm", "--rwdir", shared),
            *(["--disable-kvm"] if accelerator.name == "tcg" else []),
            *("--exec", f"touch {ran}"),
        ]
        # vng starts programs of its own folder.
        environment = dict(os.environ) | {"PATH": f"{vng.parent}:{os.environ.get('PATH', os.defpath)}"}
        started = time.monotonic()
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            cwd="/",
            env=environment,
        )
        seconds = time.monotonic() - started
        if not ran.exists():
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise HarnessError(
                f"`{' '.join(argv)}` did not run its command.", tail="\n".join(said.splitlines()[-10:])
            )
    return seconds


def measure(
    runs: int, bzimage: Path, guest: image.Image, accelerator: Accelerator, progress: Progress
) -> dict[str, list[float]]:
    """Return the seconds of every run, by what was measured."""
    names = (OURS, OURS_ENDED, SAVED, LOADED, LOADED_ENDED, VIRTME)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with progress.stage("bench boot") as stage:
        for number in range(runs):
            stage.update(f"run {number + 1} of {runs}")
            for name, value in ours(bzimage, guest, accelerator).items():
                seconds[name].append(value)
            seconds[VIRTME].append(virtme(bzimage, accelerator))
    return seconds


def table(seconds: dict[str, list[float]]) -> Table:
    """Make a table of medians, ranges, and the ratio to virtme-ng's median."""
    reference = statistics.median(seconds[VIRTME])
    shown = Table(title="QEMU's start to a command done")
    for heading in ("what", "median s", "least s", "most s", "ratio"):
        shown.add_column(heading, justify="left" if heading == "what" else "right")
    for what, values in seconds.items():
        median = statistics.median(values)
        figures = (median, min(values), max(values), median / reference)
        shown.add_row(what, *(f"{figure:.2f}" for figure in figures))
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; only an error makes the exit status other than 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="how often each is run (default: %(default)s)")
    parser.add_argument("--kernel", type=Path, help="this kernel instead of the base; it needs virtme.config")
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")

    options = parser.parse_args(arguments)
    store = Store()
    progress = Progress(store)
    try:
        bzimage = options.kernel or build_kernel(store, progress)
        guest = image.build(store, progress, store.path("logs", "bench", "image.log"))
        accelerator = choose(store, options.accel, "qemu-system-x86_64", bzimage)
        seconds = measure(options.runs, bzimage.absolute(), guest, accelerator, progress)
    except PatchproofError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    console = Console()
    console.print(table(seconds))
    ratio = statistics.median(seconds[LOADED]) / statistics.median(seconds[VIRTME])
    console.print(f"A loaded machine takes {ratio:.2f} of virtme-ng's time (target: at most {TARGET}).")
    console.print(f"accelerator: {accelerator.name} ({accelerator.reason})", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
