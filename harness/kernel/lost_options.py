"""Decide who is at fault for a kernel option that configuring dropped: the base, or the series.

An option that the base alone loses as well is not the series' fault: the kernel is
built without it.  Neither is one that the series removes: it is defined nowhere, and
nothing in the tree asks for it any more.  Any other option that the base has, and the
series takes away, is a fault of the series.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness.kernel import configured
from harness.kernel.builddir import BuildDir, toolchain
from harness.kernel.tree import Tree, without_series
from harness.lib import command
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import BuildError
from harness.lib.files import digest, write_atomically
from harness.lib.progress import Progress, Stage

#: The reason for an option that the series removes, as the end of a clause.
REMOVED = "which the series removes"
_FOLDER = "config"  # the build folder in which the base alone is configured


def configure(
    store: Store, progress: Progress, build_dir: BuildDir, tree: Tree, stage: Stage, log: Path
) -> dict[str, str]:
    """Configure ``tree``, which is checked out; return the options that it may lack, with the reasons.

    Raises BuildError for options that the series takes away.
    """
    lost = build_dir.configure(stage, log, configured.inputs(tree))
    if not lost or tree.commit == tree.base.commit:
        return lost
    lost_by_base = _lost_by_base(store, progress, build_dir, tree, stage, log)
    taken = {name: reason for name, reason in lost.items() if name not in lost_by_base}
    removed = {name for name in taken if not _is_used(name, build_dir.source)}
    if taken := {name: reason for name, reason in taken.items() if name not in removed}:
        build_dir.end()
        raise BuildError(
            "The kernel cannot be configured as the tests need it: the series takes away options that its "
            f"base {tree.base.version} has. These options are missing:",
            log=log,
            tail="\n".join(taken.values()),
        )
    return {name: f"CONFIG_{name}, {REMOVED}" if name in removed else lost[name] for name in lost}


def _is_used(option: str, source: Path) -> bool:
    """Return whether a file of the kernel below ``source`` names an option, which takes some seconds."""
    files = [f"--include={pattern}" for pattern in ("Kconfig*", "*.[chS]", "Makefile*", "Kbuild*")]
    words = ["-e", option, "-e", f"CONFIG_{option}"]
    try:
        return bool(command.run(["grep", "-rlwFm1", *files, *words, str(source)]))
    except CommandError as error:
        if error.returncode != 1:
            raise
        return False  # grep ends with 1 if there is none


def _lost_by_base(
    store: Store, progress: Progress, build_dir: BuildDir, tree: Tree, stage: Stage, log: Path
) -> Mapping[str, str]:
    """Return the options that the base alone loses, with the reasons; asked once for each base.

    It is configured with the compiler of ``build_dir``, on which some options depend.
    """
    base = without_series(tree)
    compiler = build_dir.compiler
    name = _FOLDER if compiler == "gcc" else f"{_FOLDER}-{Path(compiler).name}"

    def make(folder: Path) -> None:
        alone = BuildDir(store, tree.base.version, build_dir.request, name, compiler)
        stage.update("configuring the base")
        alone.check_out(base, progress)
        try:
            lost = alone.configure(stage, log)
        finally:
            alone.check_out(tree, progress)
        alone.end()
        write_atomically(folder / "lost.json", json.dumps(lost, indent=1))

    # Kconfig asks the host for some programs, such as pahole.
    key = digest("3", base.tree_id, build_dir.request, toolchain(compiler), *configured.programs())
    entry = store.entry("config", key, make)
    lost: dict[str, str] = json.loads((entry / "lost.json").read_text())
    return lost
