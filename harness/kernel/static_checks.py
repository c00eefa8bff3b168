"""Check a series without running it: checkpatch, and compilers with all their warnings."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.kernel import lost_options
from harness.kernel.builddir import BuildDir
from harness.kernel.make_output import without_position
from harness.kernel.tree import Tree
from harness.kernel.workbench import workbench
from harness.lib import command, contained, git, text
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, HarnessError
from harness.lib.files import digest, write_atomically
from harness.lib.progress import Progress
from harness.series import series
from harness.series.mail import Mail
from harness.series.series import Patch, Series

# Folders whose files are no part of the kernel itself.
_NOT_KERNEL = ("Documentation", "samples", "scripts", "tools", "usr")


@dataclass(frozen=True)
class Tool:
    """A program that warns.

    ``programs`` are its names on PATH, in order of preference; ``arguments`` go to
    make.  ``compiles`` is true for a compiler, false for a checker beside gcc.
    """

    name: str
    programs: tuple[str, ...]
    compiles: bool
    arguments: tuple[str, ...]

    def program(self) -> str | None:
        """Return the first of its names that is on PATH; None if there is none."""
        return next((name for name in self.programs if shutil.which(name, path=command.SYSTEM_PATH)), None)


_TOP = PurePosixPath()
_COMMAND = 2  # lines of a log that show the command, before its output
# scripts/min-tool-version.sh asks for LLVM 15; a plain `clang` may be older.
_CLANGS = (*(f"clang-{version}" for version in range(30, 14, -1)), "clang")
TOOLS = (
    Tool("gcc", ("gcc",), True, ("W=1",)),
    Tool("clang", _CLANGS, True, ("W=1",)),
    Tool("sparse", ("sparse",), False, ("C=1",)),
)


def folders(tested: Series, source: Path) -> list[str]:
    """Return the source folders whose C files the series changes, for make: ``drivers/vfio/pci/``.

    ``source`` is the base.  A folder that the series adds counts for the one that it is in, unless that is
    at the top: then nothing is compiled for it.
    """
    paths = {PurePosixPath(path) for files in series.check(tested) for file in files for path in file.paths}
    changed = {path.parent for path in paths if path.suffix == ".c" and path.parts[0] not in _NOT_KERNEL}
    touched = {_existing(folder, source) for folder in changed} - {_TOP}
    return sorted(f"{folder}/" for folder in touched if not touched.intersection(folder.parents))


def _existing(folder: PurePosixPath, source: Path) -> PurePosixPath:
    """Return the folder, or the nearest one around it that is in ``source``; empty if that is at the top."""
    if (source / folder).is_dir():
        return folder
    return next((one for one in folder.parents if len(one.parts) > 1 and (source / one).is_dir()), _TOP)


@dataclass(frozen=True)
class WarningCheck:
    """A check for compiler warnings; ``request`` is the configuration as the text of a fragment."""

    store: Store
    progress: Progress
    request: str
    log: Path

    def new_warnings(self, tool: Tool, tree: Tree, base: Tree, source_folders: Sequence[str]) -> list[str]:
        """Return the warnings of ``tool`` about ``source_folders`` in ``tree`` that ``base`` does not have.

        Raises BuildError if a folder does not compile, HarnessError if ``tool`` is not installed.
        """
        old = {without_position(line) for line in self._warnings(tool, base, source_folders)}
        return [
            line for line in self._warnings(tool, tree, source_folders) if without_position(line) not in old
        ]

    def failure_on_base(self, tool: Tool, base: Tree, source_folders: Sequence[str]) -> str:
        """Return why ``tool`` does not get through the base, which blames no patch; empty if it does."""
        try:
            self._warnings(tool, base, source_folders)
        except BuildError as error:
            return error.message
        return ""

    def _warnings(self, tool: Tool, tree: Tree, source_folders: Sequence[str]) -> list[str]:
        program = tool.program()
        if program is None:
            raise HarnessError(f"The program {tool.name} is not installed.")
        version = command.run([program, "--version"]).split("\n", 1)[0]
        key = digest("1", tree.tree_id, self.request, version, *tool.arguments, *source_folders)

        def make(folder: Path) -> None:
            compiler = program if tool.compiles else "gcc"
            build_dir = BuildDir(
                self.store,
                tree.base.version,
                self.request,
                f"check-{tool.name}",
                compiler,
                untrusted=tree.untrusted,
            )
            with workbench(self.store):
                build_dir.check_out(tree, self.progress)
                with self.progress.stage("check", tool.name) as stage:
                    lost_options.configure(self.store, self.progress, build_dir, tree, stage, self.log)
                    found = build_dir.all_warnings(source_folders, tool.arguments, stage, self.log)
            write_atomically(folder / "warnings.json", json.dumps(found, indent=1))

        entry = self.store.entry("check", key, make)
        found: list[str] = json.loads((entry / "warnings.json").read_text())
        return found


def checkpatch(patches: Iterable[Patch], source: Path) -> list[list[str]]:
    """Return the lines of ``scripts/checkpatch.pl --strict`` in ``source`` about each patch."""
    with tempfile.TemporaryDirectory(prefix="patchproof-checkpatch-") as folder:
        return [_checkpatch(patch, source, Path(folder)) for patch in patches]


def _as_plain_text(patch: Patch) -> bytes:
    """Return the mail of a patch as git format-patch writes it: its text decoded, lines ending with LF."""
    sent = Mail(patch.content)
    if patch.content.endswith(sent.text):
        return patch.content
    head = f"From: {sent.header('From')}\nDate: {sent.header('Date')}\nSubject: {patch.subject}\n\n"
    return head.encode(errors="replace") + sent.text


def _checkpatch(patch: Patch, source: Path, folder: Path) -> list[str]:
    mail, output = folder / "patch", folder / "output"
    mail.write_bytes(_as_plain_text(patch))
    output.unlink(missing_ok=True)
    argv = ["perl", str(source / "scripts" / "checkpatch.pl"), f"--root={source}"]
    # Neither ~/.checkpatch.conf nor the configuration of git, which checkpatch calls.
    settings = git.environment(git.NO_REPOSITORY, more={"HOME": str(folder)})
    env = {name: value for name, value in settings.items() if value is not None}
    options = ("--strict", "--terse", "--no-summary", "--color=never")
    try:
        words = [*argv, *options, str(mail)]
        contained.run(words, environment=env, read=[source, mail], folder=source, log=output)
    except CommandError as error:
        if error.returncode != 1:  # 1: checkpatch has warnings
            raise
    lines = [
        line.removeprefix(f"{mail}:") for line in output.read_text(errors="replace").splitlines()[_COMMAND:]
    ]
    return [text.printable(f"{patch.name}:{line}") for line in lines if line.strip()]
