"""The build folder of a kernel that was built before, with that kernel in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.kernel import kconfig, lost_options
from harness.kernel.build import Kernel
from harness.kernel.builddir import BuildDir
from harness.kernel.tree import Tree
from harness.lib.cache import Store
from harness.lib.progress import Progress


def build_dir_of(
    store: Store, progress: Progress, tree: Tree, kernel: Kernel, fragments: Sequence[Path], log: Path
) -> BuildDir:
    """Return the build folder with ``kernel``, which build_kernel() made of the other arguments.

    If it holds another kernel meanwhile, this one is made once more.  The caller holds the lock
    ``workbench``.  Raises BuildError, HarnessError.
    """
    request = kconfig.fragment_text(kconfig.requested(fragments, tree.base.version))
    build_dir = BuildDir(store, tree.base.version, request, untrusted=tree.untrusted)
    if not build_dir.holds(tree, kernel.identity):
        build_dir.check_out(tree, progress)
        with progress.stage("build", "again") as stage:
            lost_options.configure(store, progress, build_dir, tree, stage, log)
            build_dir.make(stage, log)
        build_dir.keep(tree, kernel.identity)
    return build_dir
