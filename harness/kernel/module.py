"""Build the test importer, a kernel module of our own, for the kernel under test.

A module fits only the kernel that it was built with.  So it is built in the build folder
of that kernel, which is made once more if it has moved on to another tree.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.kernel import kconfig, lost_options
from harness.kernel.build import Kernel, disk_errors
from harness.kernel.builddir import BuildDir
from harness.kernel.tree import Tree
from harness.lib.cache import Store
from harness.lib.files import digest
from harness.lib.paths import PROBES
from harness.lib.progress import Progress
from harness.lib.untrusted_files import copy_file, remove_folder

KIND = "module"
NAME = "patchproof_importer"  # also in probes/importer_uapi.h
# A part of every key: change it when a change of the recipe changes the module.
_RECIPE = "2"
_MODULE_BYTES = 64 << 20


def sources() -> list[Path]:
    """Return the files that the module is made of, by name."""
    listed = [path for path in (PROBES / "importer").iterdir() if path.suffix in (".c", ".h")]
    return sorted([*listed, PROBES / "importer" / "Kbuild", PROBES / "importer_uapi.h"])


def _key(kernel: Kernel) -> str:
    content = [part for path in sources() for part in (path.name, path.read_bytes())]
    return digest(_RECIPE, kernel.identity, *content)


def is_built(store: Store, kernel: Kernel) -> bool:
    """Return whether the cache has the module for ``kernel``."""
    return module_in_cache(store, kernel) is not None


def module_in_cache(store: Store, kernel: Kernel) -> Path | None:
    """Return the module for ``kernel`` if the cache has it."""
    path = store.path(KIND, _key(kernel)) / f"{NAME}.ko"
    return path if path.is_file() else None


def build_module(
    store: Store, progress: Progress, tree: Tree, kernel: Kernel, fragments: Sequence[Path], log: Path
) -> Path:
    """Return the module for ``kernel``, which build_kernel() made of the other arguments; cached.

    Raises BuildError if it does not compile, HarnessError if the machine fails.
    """

    def make(folder: Path) -> None:
        request = kconfig.fragment_text(kconfig.requested(fragments, tree.base.version))
        build_dir = BuildDir(store, tree.base.version, request, untrusted=tree.untrusted)
        waiting = partial(progress.say, "build: waiting for the build of another run")
        with store.lock("workbench", waiting=waiting), disk_errors(build_dir.root):
            if not build_dir.holds(tree, kernel.identity):
                build_dir.check_out(tree, progress)
                with progress.stage("build", "again") as stage:
                    lost_options.configure(store, progress, build_dir, tree, stage, log)
                    build_dir.make(stage, log)
                build_dir.keep(tree, kernel.identity)
            with progress.stage("module") as stage:
                work = build_dir.root / "module"
                remove_folder(work)
                source, output = work / "src", work / "out"
                source.mkdir(parents=True)
                output.mkdir()
                for path in sources():
                    shutil.copyfile(path, source / path.name)
                build_dir.make_module(stage, log, source, output)
                copy_file(output, f"{NAME}.ko", folder / f"{NAME}.ko", _MODULE_BYTES)

    return store.entry(KIND, _key(kernel), make) / f"{NAME}.ko"


def remove_from_cache(store: Store, kernel: Kernel) -> None:
    """Remove the module for a kernel from the cache."""
    shutil.rmtree(store.path(KIND, _key(kernel)), ignore_errors=True)
