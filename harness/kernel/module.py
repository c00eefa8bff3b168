"""Build the test importer, a kernel module of our own, for the kernel under test.

A module fits only the kernel that it was built with.  So it is built in the build folder
of that kernel, which is made once more if it has moved on to another tree.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from harness.kernel.build import Kernel, disk_errors
from harness.kernel.held import build_dir_of
from harness.kernel.tree import Tree
from harness.kernel.workbench import FOLDER, workbench
from harness.lib.cache import Store
from harness.lib.errors import BuildError, HarnessError
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
    found = store.existing(KIND, _key(kernel))
    return None if found is None else found / f"{NAME}.ko"


def build_module(
    store: Store, progress: Progress, tree: Tree, kernel: Kernel, fragments: Sequence[Path], log: Path
) -> Path:
    """Return the module for ``kernel``, which build_kernel() made of the other arguments; cached.

    Raises BuildError if it does not compile, HarnessError if the machine fails.
    """

    def make(folder: Path) -> None:
        build_dir = build_dir_of(store, progress, tree, kernel, fragments, log)
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

    if (found := module_in_cache(store, kernel)) is not None:
        return found
    with workbench(store), disk_errors(store.root / FOLDER):
        return store.entry(KIND, _key(kernel), make) / f"{NAME}.ko"


def build_early(
    store: Store, progress: Progress, tree: Tree, fragments: Sequence[Path], log: Path
) -> Callable[[Kernel], None]:
    """Return the argument ``then`` of build_kernel() that builds the module beside its kernel.

    Later the build folder may hold the kernel of another run.  An error is left to whoever needs
    the module.
    """

    def build(kernel: Kernel) -> None:
        if not kernel.absent("MODULES"):
            with suppress(BuildError, HarnessError):
                build_module(store, progress, tree, kernel, fragments, log)

    return build


def remove_from_cache(store: Store, kernel: Kernel) -> None:
    """Remove the module for a kernel from the cache, unless another run uses it."""
    store.discard(KIND, _key(kernel))
