"""Build the kernel's own test programs, statically, against the headers of the kernel under test.

The makefiles below ``tools/testing/selftests/`` write into their own folders, so they run
in a copy of the tree, which has only what test programs read.  Like the build of a
kernel, this runs makefiles of the series on the host.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from harness.kernel.build import disk_errors
from harness.kernel.builddir import toolchain
from harness.kernel.make_output import Output
from harness.kernel.tree import Tree
from harness.lib import command, contained, git
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, HarnessError, PatchproofError
from harness.lib.files import digest
from harness.lib.progress import Progress
from harness.lib.text import printable
from harness.lib.untrusted_files import copy_file, remove_folder

SELFTESTS = PurePosixPath("tools/testing/selftests")
RECIPE = "1"  # a part of every key
SECONDS = 600  # for one make
MAX_LINES = 100_000  # of one make's output
MAX_BYTES = 64 << 20  # of a program
# The parts of a tree that test programs read: headers, and those of drivers that they drive themselves.
_PARTS = (
    "Makefile",
    "arch/x86",
    "drivers/dma",
    "drivers/iommu",
    "include",
    "lib",
    "scripts",
    "tools",
    "usr",
)
_MARK = "patchproof-program: "
_PROGRAM = "program"
# Print the programs that a makefile builds and runs, once it is read.
_LIST = "patchproof-list:;@:$(foreach one,$(TEST_GEN_PROGS) $(TEST_CUSTOM_PROGS),$(info " + _MARK + "$(one)))"


class NoProgramError(PatchproofError):
    """The tree has no such test program."""


@dataclass(frozen=True)
class Wanted:
    """A program to build, by its path below tools/testing/selftests/; ``flags`` are for the compiler."""

    path: str
    flags: str = ""


Built = Path | NoProgramError | BuildError | HarnessError


def build_selftests(
    store: Store, progress: Progress, tree: Tree, headers: Path, wanted: Sequence[Wanted], log: Path
) -> dict[Wanted, Built]:
    """Return each program, from the cache or built now, or the error that there is instead.

    Raises HarnessError if nothing can be built.
    """
    compiler = toolchain()
    results: dict[Wanted, Built] = {}
    keys = {one: digest(RECIPE, tree.tree_id, compiler, one.path, one.flags) for one in wanted}
    for one, key in keys.items():
        if (entry := store.existing("selftest", key)) is not None:
            results[one] = entry / _PROGRAM
    missing = [one for one in wanted if one not in results]
    if not missing:
        return results
    with progress.stage("selftests") as stage, _copy(store, tree, headers, log) as folder:
        for one in missing:
            stage.update(one.path)
            try:
                entry = store.entry("selftest", keys[one], partial(folder.build, one))
                results[one] = entry / _PROGRAM
            except (NoProgramError, BuildError, HarnessError) as error:
                results[one] = error
    return results


@contextmanager
def _copy(store: Store, tree: Tree, headers: Path, log: Path) -> Iterator[_Copy]:
    """Write the part of ``tree`` that the selftests need into a folder, which is removed afterwards."""
    prefix = f"selftests.{tree.tree_id[:16]}."
    work = store.path("work", prefix).parent
    with store.lock(prefix.rstrip(".")), disk_errors(work):
        for leftover in work.glob(f"{prefix}*"):
            remove_folder(leftover)  # of a killed run
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=work))
        try:
            yield _Copy(tree, folder, headers, log)
        finally:
            remove_folder(folder)


class _Copy:
    """The selftests of a tree in ``top``, with what their makefiles read beside them."""

    def __init__(self, tree: Tree, top: Path, headers: Path, log: Path) -> None:
        # Without symbolic links: makefiles compare the names of their folders with the real ones.
        self._top = top.resolve()
        self._headers = headers
        self._log = log
        env = git.environment(tree.repository)
        listing = git.query(["ls-tree", "-z", "--name-only", tree.commit, "--", *_PARTS], env=env)
        parts = [name for name in listing.decode().split("\0") if name]
        archive = self._top / "archive.tar"
        command.run(
            ["git", "archive", "--format=tar", f"--output={archive}", tree.commit, "--", *parts],
            env=env,
            cwd=self._top,
            log=log,
        )
        command.run(["tar", "--extract", f"--file={archive}"], cwd=self._top, log=log)
        archive.unlink()
        # Some makefiles name the headers of their own tree, which are not installed there.
        installed = self._top / "usr" / "include"
        shutil.rmtree(installed, ignore_errors=True)
        installed.parent.mkdir(exist_ok=True)
        installed.symlink_to(headers)

    def build(self, wanted: Wanted, folder: Path) -> None:
        """Build a program into the cache entry ``folder``.

        Raises NoProgramError, BuildError, HarnessError.
        """
        path = PurePosixPath(wanted.path)
        makefile = next((one for one in path.parents if self._has_makefile(one)), None)
        if makefile is None:
            raise NoProgramError(f"This tree has no makefile for {SELFTESTS / path}.")
        directory = self._top / SELFTESTS / makefile
        target = str(path.relative_to(makefile))
        listed = self._programs(directory, wanted)
        if listed and target not in listed:
            raise NoProgramError(
                f"{SELFTESTS / makefile}/Makefile of this tree has no test program {target}; it has "
                f"{printable(', '.join(sorted(listed)))}."
            )
        if not listed and not (directory / f"{target}.c").is_file():
            raise NoProgramError(f"{SELFTESTS / makefile} of this tree has no program {target}.")
        self._make(directory, wanted, [str(directory / target) if listed else target], f"build of {path}")
        copy_file(directory, target, folder / _PROGRAM, MAX_BYTES)
        (folder / _PROGRAM).chmod(0o755)

    def _has_makefile(self, folder: PurePosixPath) -> bool:
        return folder.parts != () and (self._top / SELFTESTS / folder / "Makefile").is_file()

    def _programs(self, directory: Path, wanted: Wanted) -> set[str]:
        """Return the programs that the makefile in ``directory`` runs as tests; empty if it names none."""
        output = self._make(
            directory, wanted, ["--eval", _LIST, "patchproof-list"], f"makefile of {wanted.path}"
        )
        lines = [line.removeprefix(_MARK) for line in output.split("\n") if line.startswith(_MARK)]
        return {line.removeprefix(f"{directory}/") for line in lines}

    def _make(self, directory: Path, wanted: Wanted, arguments: Sequence[str], what: str) -> str:
        """Run make; return its output.

        Raises BuildError for a fault of the tree, HarnessError for one of the machine.
        """
        output = Output(self._top)
        lines = 0

        def line(text: str) -> None:
            nonlocal lines
            lines += 1
            if lines > MAX_LINES:
                raise BuildError(f"The {what} printed more than {MAX_LINES} lines.", log=self._log)
            output.line(text)

        compiler = " ".join(filter(None, ("gcc -static", wanted.flags)))
        argv = [
            *("timeout", "--kill-after=5", str(SECONDS)),
            *("make", "-C", str(directory), "--output-sync=target", "--no-print-directory"),
            *(f"OUTPUT={directory}", f"KHDR_INCLUDES=-isystem {self._headers}", "ARCH=x86_64"),
            *(f"CC={compiler}", *arguments),
        ]
        started = time.monotonic()
        try:
            return contained.run(
                argv,
                environment={"HOME": str(self._top)},
                read=[self._headers],
                write=[self._top],
                log=self._log,
                line=line,
            )
        except CommandError as error:
            # timeout(1) has these also if make was killed by something else, as for lack of memory.
            if error.returncode in (124, 137) and time.monotonic() - started >= SECONDS:
                raise BuildError(
                    f"The {what} did not end within {SECONDS} s.", log=self._log, tail=error.tail
                ) from error
            raise output.failure(error, what) from error
