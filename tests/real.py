"""The real kernel and image for tests that boot, made once and kept in the user's cache."""

from __future__ import annotations

import functools
from pathlib import Path

from harness import base, image, kernel, qemu, tree
from harness.options import KCONFIG
from harness.progress import Progress
from harness.store import Store

FRAGMENTS = [KCONFIG / name for name in ("base.config", "vfio.config", "observe.config")]


@functools.cache
def _store() -> Store:
    return Store()


@functools.cache
def base_kernel() -> kernel.Kernel:
    """Build the unpatched base with the configuration that every series is tested with."""
    store, progress = _store(), Progress(_store())
    logs = store.path("logs", "tests")
    source = base.fetch(store, progress)
    unpatched = tree.apply(store, progress, source, None, logs / "apply.log")
    return kernel.build(store, progress, unpatched, FRAGMENTS, logs / "build.log")


@functools.cache
def guest_image() -> image.Image:
    """Build the guest's root file system."""
    store = _store()
    return image.build(store, Progress(store), Path(store.path("logs", "tests", "image.log")))


@functools.cache
def accelerator() -> qemu.Accelerator:
    """Return the accelerator that `--accel auto` chooses on this host."""
    return qemu.choose(_store(), "auto", "qemu-system-x86_64", base_kernel().bzimage)
