"""What can be said of a series without running it: checkpatch, and compilers asked for all their warnings."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.kernel.builddir import BuildDir
from harness.kernel.make_output import unplaced
from harness.kernel.tree import Tree
from harness.lib import command, text
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import HarnessError
from harness.lib.files import digest, write_atomically
from harness.lib.progress import Progress
from harness.series import series
from harness.series.series import Patch, Series

# What these folders hold is not compiled by kbuild for the kernel.
_NOT_KERNEL = ("Documentation", "samples", "scripts", "tools", "usr")


@dataclass(frozen=True)
class Tool:
    """A program that warns; ``programs`` are its names, ``arguments`` what make is told for it."""

    name: str
    programs: tuple[str, ...]
    compiles: bool
    arguments: tuple[str, ...]

    def program(self) -> str | None:
        """The first of its names that is on PATH, None if it is not installed."""
        return next(filter(shutil.which, self.programs), None)


# scripts/min-tool-version.sh asks for LLVM 15; a plain `clang` may be older.
_CLANGS = (*(f"clang-{version}" for version in range(30, 14, -1)), "clang")
TOOLS = (
    Tool("gcc", ("gcc",), True, ("W=1",)),
    Tool("clang", _CLANGS, True, ("W=1",)),
    Tool("sparse", ("sparse",), False, ("C=1",)),
)


def folders(tested: Series, source: Path) -> list[str]:
    """The source folders whose C files the series changes, for make: ``drivers/vfio/pci/``."""
    paths = {PurePosixPath(path) for files in series.check(tested) for file in files for path in file.paths}
    touched = {path.parent for path in paths if path.suffix == ".c" and path.parts[0] not in _NOT_KERNEL}
    return sorted(
        f"{folder}/"
        for folder in touched
        if (source / folder).is_dir() and not touched.intersection(folder.parents)
    )


@dataclass(frozen=True)
class WarningCheck:
    """Where compilers are asked; ``request`` is the configuration in a fragment's words."""

    store: Store
    progress: Progress
    request: str
    log: Path

    def new_warnings(self, tool: Tool, tree: Tree, base: Tree, where: Sequence[str]) -> list[str]:
        """What ``tool`` says of ``tree`` in the folders ``where`` that it does not say of ``base``.

        Raises BuildError if one of them does not compile.
        """
        old = {unplaced(line) for line in self._warnings(tool, base, where)}
        return [line for line in self._warnings(tool, tree, where) if unplaced(line) not in old]

    def _warnings(self, tool: Tool, tree: Tree, where: Sequence[str]) -> list[str]:
        program = tool.program()
        if program is None:
            raise HarnessError(f"The program {tool.name} is not installed.")
        version = command.run([program, "--version"]).split("\n", 1)[0]
        key = digest("1", tree.tree_id, self.request, version, *tool.arguments, *where)

        def make(folder: Path) -> None:
            compiler = program if tool.compiles else "gcc"
            bench = BuildDir(self.store, self.request, f"check-{tool.name}", compiler)
            with self.store.lock("workbench"):
                tree.files_into(bench.source, self.progress)
                with self.progress.stage("check", tool.name) as stage:
                    found = bench.all_warnings(where, tool.arguments, stage, self.log)
            write_atomically(folder / "warnings.json", json.dumps(found, indent=1))

        entry = self.store.entry("check", key, make)
        found: list[str] = json.loads((entry / "warnings.json").read_text())
        return found


def checkpatch(patches: Iterable[Patch], source: Path) -> list[list[str]]:
    """What ``scripts/checkpatch.pl --strict`` of the kernel in ``source`` says of each patch."""
    with tempfile.TemporaryDirectory(prefix="patchproof-checkpatch-") as folder:
        return [_checkpatch(patch, source, Path(folder)) for patch in patches]


def _checkpatch(patch: Patch, source: Path, folder: Path) -> list[str]:
    mail, said = folder / "patch", folder / "said"
    mail.write_bytes(patch.content)
    said.unlink(missing_ok=True)
    argv = ["perl", str(source / "scripts" / "checkpatch.pl"), f"--root={source}"]
    try:
        command.run(
            [*argv, "--strict", "--terse", "--no-summary", "--color=never", str(mail)], cwd=source, log=said
        )
    except CommandError as error:
        if error.returncode != 1:  # 1 is how it ends when it has something to say
            raise
    lines = [line.removeprefix(f"{mail}:") for line in said.read_text(errors="replace").splitlines()[1:]]
    return [text.printable(f"{patch.name}:{line}") for line in lines if line.strip()]
