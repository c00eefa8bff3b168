"""The real kernel and image for tests that boot, made once and kept in the user's cache."""

from __future__ import annotations

import functools
from pathlib import Path

from harness.kernel import apply, base, build
from harness.lib.cache import Store
from harness.lib.paths import KCONFIG
from harness.lib.progress import Progress
from harness.vm import image
from harness.vm.accelerator import Accelerator, choose

# Beside the default base, a kernel of this release is built and run.  The series and the scenarios know 7.1
# and 7.3 as well; these are for a run by hand.
LATER_BASE = "7.2"
FRAGMENTS = [KCONFIG / name for name in ("base.config", "vfio.config", "observe.config")]


@functools.cache
def _store() -> Store:
    return Store()


@functools.cache
def base_kernel() -> build.Kernel:
    """Build the unpatched base with the configuration that every series is tested with."""
    store, progress = _store(), Progress(_store())
    logs = store.path("logs", "tests")
    source = base.fetch(store, progress)
    unpatched = apply.apply_series(store, progress, source, None, logs / "apply.log")
    return build.build_kernel(store, progress, unpatched, FRAGMENTS, logs / "build.log")


@functools.cache
def guest_image() -> image.Image:
    """Build the guest's root file system."""
    store = _store()
    return image.build(store, Progress(store), Path(store.path("logs", "tests", "image.log")))


@functools.cache
def accelerator() -> Accelerator:
    """Return the accelerator that `--accel auto` chooses on this host."""
    return choose(_store(), "auto", "qemu-system-x86_64", base_kernel().bzimage)
