"""The folders in which kernels are built: which one a tree and a configuration get, and which are kept.

The folder ``workbench`` of the cache has a folder for each kernel release.  It holds
one source folder, which receives the tree under test, and build folders beside it:
one for each configuration that differs in more than a few options, and one for each
compiler that only checks for warnings.  Make compiles only the differences to the
tree and configuration before, and ccache has the objects of earlier ones.  Two
releases differ in nearly every object, so a change of the release in one source
folder would compile everything again.  The caller holds the lock ``workbench``.

What make leaves behind is code: it reads its own ``.cmd`` files as makefiles, and takes an object that
looks new enough for compiled.  So a tree from a mail never builds where another is built.  It has a
copy of the build folder, for itself alone.  What the harness itself remembers stands where no
makefile can write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from harness.kernel import kconfig
from harness.kernel.download import require_space
from harness.kernel.tree import Tree
from harness.lib import clock, command
from harness.lib.cache import CACHE_VARIABLE, Store
from harness.lib.errors import HarnessError
from harness.lib.files import digest, write_atomically
from harness.lib.progress import Progress
from harness.lib.untrusted_files import remove_folder

# The source of a release takes 1.5 GB, a build folder 0.3 GB.
SPACE_FOR_RELEASE = 2 << 30

_FRAGMENT = "fragment"
HOLDS = "holds"  # the tree and the kernel that a source and a build folder hold
CONFIGURED = "configured"  # digests of what .config was written for, and of .config
_BEGUN = "unfinished"  # there while a build is going, and after it was killed
_ENDED = "ended"  # its time stamp is that of the last build's end
_UNTRUSTED = ".untrusted"  # the end of the name of a folder for a tree from a mail
WARNINGS = "warnings.json"  # of the objects in it
# Configurations that differ in at most this many options share a folder, where make compiles what depends
# on them.  With more differences, every change of configuration would compile everything.
_NEAR = 8
# Options that change nearly every object: a member of struct task_struct or struct module depends on them.
_EVERYWHERE = ("CONFIG_FAULT_INJECTION=", "CONFIG_GCOV_KERNEL=")
_FOLDERS = 6  # of configurations, of all releases together: 0.3 GB each, or 1.5 GB with a debugging kernel
_RELEASES = 4  # kept, 1.5 GB of source each
_RELEASE = re.compile(r"\d+\.\d+")

# ccache's depend mode saves the preprocessor run on a miss, which would make a
# cold build half as long again.  It takes the dependencies from the compiler's
# list, which lacks a file that the assembler reads by .incbin: piggy.S would be
# found in the cache although the kernel inside has changed.  So assembler files,
# and C files with .incbin, never go through ccache.
_COMPILER = """\
#!/bin/sh
for source; do :; done
case $source in
*.S) exec {compiler} "$@" ;;
*.c) grep -q '\\.incbin' -- "$source" && exec {compiler} "$@" ;;
esac
exec ccache {compiler} "$@"
"""


def _nearest(root: Path, request: str) -> str:
    """Return the name of the build folder for a configuration: the nearest one, or a new one."""
    wanted = set(request.splitlines())
    others = {
        path.parent.name: _distance(wanted ^ set(path.read_text().splitlines()))
        for path in root.glob(f"build-*/{_FRAGMENT}")
        if path.parent.suffix != _UNTRUSTED
    }
    name = min(others, key=others.__getitem__, default="")
    return name if name and others[name] <= _NEAR else f"build-{digest(request)[:8]}"


def _distance(different: set[str]) -> int:
    """Return how far two configurations are apart, by their ``different`` lines (see _NEAR)."""
    far = any(line.startswith(_EVERYWHERE) for line in different)
    return len(different) + (_NEAR + 1 if far else 0)


def _oldest(folders: Iterable[Path], current: Path, kept: int) -> list[Path]:
    """Return the folders whose last use is the longest ago, so that ``kept`` with ``current`` remain."""
    others = [path for path in folders if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return others[kept - 1 :]


class BuildFolder:
    """The source folder of a release and one build folder, for a configuration.

    ``version`` is that of the kernel ("7.2.6").  ``request`` is the configuration as
    the text of a fragment.  ``build`` is the name of the build folder, by default
    that with the nearest configuration; each build folder belongs to one ``compiler``.
    ``untrusted`` is the tree from a mail that the folder is made for, if it is.
    """

    def __init__(
        self,
        store: Store,
        version: str,
        request: str,
        build: str = "",
        compiler: str = "gcc",
        untrusted: Tree | None = None,
    ) -> None:
        self._workbench = store.root / "workbench"
        # Without symbolic links, so that a moved cache with a link in its place builds incrementally.
        self.root = (self._workbench / kconfig.release_name(version)).resolve()
        name = build or _nearest(self.root, request)
        self.source = self.root / "src"
        self._untrusted = untrusted
        self._trusted_folder = self.root / name
        self.folder = self.root / (f"{name}{_UNTRUSTED}" if untrusted else name)
        # A makefile can write to these two alone; the rest of the folder is the harness' own.
        self.build = self.folder / "out"
        self._headers = self.folder / "headers"
        self.request = request
        self._unfinished = self.folder / _BEGUN
        self._ended = self.folder / _ENDED
        self._clock = clock.offset()
        self._fragment = self.folder / _FRAGMENT
        # One for all folders: with the name of another compiler, make would compile a copied folder again.
        self._compiler = self.root / f"{Path(compiler).name}.cc"
        self.compiler = compiler
        self._wrapper = _COMPILER.format(compiler=compiler)
        self._ccache = store.root / "ccache"

    @property
    def cold(self) -> bool:
        """Return whether no build has ended here, so that every file must be compiled."""
        return self._unfinished.exists() or not (self.build / "vmlinux").exists()

    def check_out(self, tree: Tree, progress: Progress) -> None:
        """Write ``tree`` into the source folder; first make room if this release has none yet.

        Raises HarnessError if the disk is too full for another source.
        """
        if not self.source.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            self._remove_oldest_releases()
            require_space(self._workbench, SPACE_FOR_RELEASE)
        os.utime(self.root)
        self._source_holds.unlink(missing_ok=True)
        tree.check_out(self.source, progress)
        write_atomically(self._source_holds, tree.tree_id)

    @property
    def _source_holds(self) -> Path:
        return self.root / HOLDS

    def keep(self, tree: Tree, kernel: str) -> None:
        """Record that the folders hold ``tree``, and everything of the ``kernel`` with this identity."""
        write_atomically(self.folder / HOLDS, f"{tree.tree_id} {kernel}")

    def holds(self, tree: Tree, kernel: str) -> bool:
        """Return whether the folders still are as keep() recorded them."""
        try:
            source, built = (path.read_text() for path in (self._source_holds, self.folder / HOLDS))
        except OSError:
            return False
        return source == tree.tree_id and built == f"{tree.tree_id} {kernel}"

    def prepare(self) -> None:
        """Make the build folder; first remove it if its build was killed, or the clock set back since.

        The folder of a tree from a mail is removed as well if another tree was built there, and begins
        as a copy of the folder that its base is built in.
        """
        if re.search(r"[\s:]", str(self.root)):
            raise HarnessError(
                f"The kernel cannot be built in {self.root}: its makefiles do not work below a path "
                f"with spaces or colons. Set {CACHE_VARIABLE} to another folder."
            )
        if self._unfinished.exists() or clock.is_from_the_future(self._ended):
            # After a clock was set back, a changed source is older than the object of its earlier content.
            # A file that was being written by a killed build may be half a file with a new time stamp.
            # ccache has most objects, so a new build costs little.
            remove_folder(self.folder)
        if self._untrusted is not None:
            self._begin_untrusted(self._untrusted)
        self.build.mkdir(parents=True, exist_ok=True)
        self._ccache.mkdir(exist_ok=True)
        os.utime(self.folder)
        for old in self.root.glob("*/.config"):  # earlier versions of this program built there
            remove_folder(old.parent)
        self._remove_oldest()
        write_atomically(self._fragment, self.request)
        if not self._compiler.exists() or self._compiler.read_text() != self._wrapper:
            write_atomically(self._compiler, self._wrapper)
        self._compiler.chmod(0o755)

    def _begin_untrusted(self, tree: Tree) -> None:
        owner = self.folder / "owner"
        if owner.is_file() and owner.read_text() == tree.tree_id:
            return
        for old in self.root.glob(f"*{_UNTRUSTED}"):  # of any tree from a mail: one is kept
            remove_folder(old)
        base = self._trusted_folder
        spoilt = (base / _BEGUN).exists() or clock.is_from_the_future(base / _ENDED)
        if (base / "out").is_dir() and not spoilt:
            self.folder.mkdir()
            self._unfinished.touch()
            copied = [base / "out", *base.glob(WARNINGS), *base.glob(CONFIGURED), *base.glob(_ENDED)]
            command.run(["cp", "--archive", "--reflink=auto", "--", *map(str, copied), str(self.folder)])
            self._unfinished.unlink()
        self.folder.mkdir(exist_ok=True)
        write_atomically(owner, tree.tree_id)

    def _remove_oldest(self) -> None:
        """Remove the build folders whose last use is the longest ago, above _FOLDERS."""
        for folder in _oldest(self._workbench.glob("*/build-*/"), self.folder, _FOLDERS):
            remove_folder(folder)

    def _remove_oldest_releases(self) -> None:
        """Remove what earlier versions of this program left, and the releases above _RELEASES."""
        releases = [path for path in self._workbench.iterdir() if _RELEASE.fullmatch(path.name)]
        for path in {*self._workbench.iterdir()} - {*releases}:
            remove_folder(path)
        for folder in _oldest(releases, self.root, _RELEASES):
            remove_folder(folder)
