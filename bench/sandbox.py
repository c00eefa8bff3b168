"""Measure what the sandbox costs of a build: the same objects with it and without it, in turns.

    python bench/sandbox.py [--pairs N]

Both sides compile the folders anew in one configured build folder, without ccache.  The result is the
median of the ratios of the pairs, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from harness.kernel import apply, kconfig
from harness.kernel.builddir import BuildDir
from harness.kernel.fetch import fetch_base
from harness.lib import sandbox
from harness.lib.cache import Store
from harness.lib.progress import Progress
from harness.run.request import Request

FOLDERS = ("lib/", "drivers/vfio/", "drivers/dma-buf/")
TARGET = 1.05


def main() -> int:
    """Print the seconds of each pair, and the ratio beside its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="pairs of builds (default: %(default)s)")
    pairs = parser.parse_args().pairs
    store = Store()
    progress = Progress(store)
    log = store.path("logs", "bench-sandbox.log")
    base = fetch_base(store, progress, "6.19", None)
    tree = apply.apply_series(store, progress, base, None, log)
    request = kconfig.fragment_text(kconfig.requested(Request(series="baseline").fragments, base.version))
    build_dir = BuildDir(store, base.version, request, "bench")
    seconds: dict[str, list[float]] = {sandbox.ON: [], sandbox.OFF: []}
    with store.lock("workbench"):
        build_dir.check_out(tree, progress)
        with progress.stage("bench") as stage:
            build_dir.configure(stage, log)
            for number in range(-1, pairs):  # the first pair is not counted: it makes what all need
                order = (sandbox.ON, sandbox.OFF) if number % 2 else (sandbox.OFF, sandbox.ON)
                for mode in order:
                    sandbox.choose(mode)
                    started = time.monotonic()
                    build_dir.all_warnings(FOLDERS, ["CCACHE_DISABLE=1"], stage, log)
                    if number >= 0:
                        seconds[mode].append(time.monotonic() - started)
    ratios = [on / off for on, off in zip(seconds[sandbox.ON], seconds[sandbox.OFF], strict=True)]
    for mode, values in seconds.items():
        print(f"{mode:>4}: median {statistics.median(values):.1f} s of {len(values)}")
    print(
        f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f} "
        f"(target: at most {TARGET})"
    )
    return 0 if statistics.median(ratios) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
