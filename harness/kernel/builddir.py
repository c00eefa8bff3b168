"""The folders in which kernels are configured and compiled.

The folder ``workbench`` of the cache has a folder for each kernel release.  It holds
one source folder, which receives the tree under test, and build folders beside it:
one for each configuration that differs in more than a few options, and one for each
compiler that only checks for warnings.  Make compiles only the differences to the
tree and configuration before, and ccache has the objects of earlier ones.  Two
releases differ in nearly every object, so a change of the release in one source
folder would compile everything again.  The caller holds the lock ``workbench``.

What make leaves behind is code: it reads its own ``.cmd`` files as makefiles, and takes an object that
looks new enough for compiled.  So a tree from a mail never builds where another is built.  It has a
copy of the build folder, for itself alone, and reads the compiled objects in ccache without storing any.
Everything runs in the sandbox of harness/lib/sandbox.py, and what the harness itself remembers
stands where no makefile can write.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.kernel import kconfig, kconfig_why
from harness.kernel.download import require_space
from harness.kernel.make_output import CONFIGURATION, Output
from harness.kernel.object_warnings import ObjectWarnings
from harness.kernel.tree import Tree
from harness.lib import clock, command, contained, sandbox
from harness.lib.cache import CACHE_VARIABLE, Store
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, HarnessError
from harness.lib.files import digest, write_atomically
from harness.lib.progress import Progress, Stage
from harness.lib.untrusted_files import copy_file, copy_folder, read_file, remove_folder

# With less free space (bytes) than this, a failed build proves nothing about the tree.
SPACE_LEFT = 16 << 20
BZIMAGE = Path("arch/x86/boot/bzImage")
# Three kernels of this configuration with all their objects take 0.2 GB.
CCACHE_SIZE = "2G"
# The source of a release takes 1.5 GB, a build folder 0.3 GB.
SPACE_FOR_RELEASE = 2 << 30

#: The largest files that are taken from a build, in bytes.
IMAGE_BYTES = 256 << 20
VMLINUX_BYTES = 2 << 30
CONFIG_BYTES = 1 << 20
HEADER_BYTES = 4 << 20

_FRAGMENT = "fragment"
_HOLDS = "holds"  # the tree and the kernel that a source and a build folder hold
_BEGUN = "unfinished"  # there while a build is going, and after it was killed
_ENDED = "ended"  # its time stamp is that of the last build's end
_UNTRUSTED = ".untrusted"  # the end of the name of a folder for a tree from a mail
# Configurations that differ in at most this many options share a folder, where make compiles what depends
# on them.  With more differences, every change of configuration would compile everything.
_NEAR = 8
# Options that change nearly every object: a member of struct task_struct depends on them.
_EVERYWHERE = ("CONFIG_FAULT_INJECTION=",)
_FOLDERS = 6  # of configurations, of all releases together: 0.3 GB each, or 1.5 GB with a debugging kernel
_RELEASES = 4  # kept, 1.5 GB of source each
_RELEASE = re.compile(r"\d+\.\d+")
_AT_ONCE = (f"-j{len(os.sched_getaffinity(0))}", "--output-sync=target")

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


def toolchain(compiler: str = "gcc") -> str:
    """Return the versions of compiler and linker, as these print them."""
    found = (command.run([tool, "--version"], env={"PATH": command.SYSTEM_PATH}) for tool in (compiler, "ld"))
    return ", ".join(text.split("\n", 1)[0].strip() for text in found)


def _why_not_writable(folder: Path) -> str:
    """Return why SPACE_LEFT bytes cannot be written below ``folder``, or an empty text."""
    if shutil.disk_usage(folder).free < SPACE_LEFT:
        return "no space left"
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            os.posix_fallocate(stream.fileno(), 0, SPACE_LEFT)
    except OSError as error:
        return error.strerror or str(error)
    return ""


class BuildDir:
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
        self._begun_cold = False
        self._warnings = ObjectWarnings(self.folder / "warnings.json", self.source)
        # The number of objects that the last cold build compiled, for the progress line.
        self._objects = self.root / "objects"

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
        return self.root / _HOLDS

    def keep(self, tree: Tree, kernel: str) -> None:
        """Record that the folders hold ``tree``, and everything of the ``kernel`` with this identity."""
        write_atomically(self.folder / _HOLDS, f"{tree.tree_id} {kernel}")

    def holds(self, tree: Tree, kernel: str) -> bool:
        """Return whether the folders still are as keep() recorded them."""
        try:
            source, built = (path.read_text() for path in (self._source_holds, self.folder / _HOLDS))
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
            copied = [base / "out", *base.glob(self._warnings.path.name), *base.glob(_ENDED)]
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

    def configure_argv(self) -> list[str]:
        """Return the make command that sets every option to no except those of the fragment."""
        return self._make(f"KCONFIG_ALLCONFIG={self._fragment}", "allnoconfig")

    def build_argv(self) -> list[str]:
        """Return the make command that builds the image and installs the headers.

        If the kernel has modules, it also makes the table of symbols that a module is linked with.
        """
        modules = ["modules"] if self._has_modules() else []
        targets = ["bzImage", *modules, "headers_install"]
        return self._make(*_AT_ONCE, *targets, f"INSTALL_HDR_PATH={self._headers}")

    def _has_modules(self) -> bool:
        """Return whether the configuration, or before there is one the request, has modules."""
        exists = os.path.lexists(self.build / ".config")
        text = self._config() if exists else self.request
        return kconfig.values(text).get("MODULES") == "y"

    def _config(self) -> str:
        """Return the text of ``.config``.  Raises BuildError if make left no such file."""
        return read_file(self.build, ".config", CONFIG_BYTES).decode(errors="replace")

    def _make(self, *arguments: str) -> list[str]:
        return [
            *("make", "-C", str(self.source), f"O={self.build}", "ARCH=x86_64", f"CC={self._compiler}"),
            *("LOCALVERSION=", "--no-print-directory", *arguments),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of make.  A tree from a mail takes objects from ccache and stores none."""
        reading = {"CCACHE_READONLY": "1", "CCACHE_TEMPDIR": "/tmp", "CCACHE_NOSTATS": "1"}  # noqa: S108
        return {
            "CCACHE_DIR": str(self._ccache),
            "CCACHE_MAXSIZE": CCACHE_SIZE,
            "CCACHE_DEPEND": "1",
            "KBUILD_BUILD_TIMESTAMP": "2026-01-01",
            "KBUILD_BUILD_USER": "patchproof",
            "KBUILD_BUILD_HOST": "patchproof",
            "KBUILD_BUILD_VERSION": "1",
            **(reading if self._untrusted is not None else {}),
        }

    def command_lines(self) -> list[list[str]]:
        """Return the commands that configure and build, with the sandbox that they run in."""
        lines = []
        for argv, more in ((self.configure_argv(), []), (self.build_argv(), [self._headers])):
            seen, changed = self._mounts([], more)
            lines.append(sandbox.contained(argv, environment=self.environment, read=seen, write=changed))
        return lines

    def _mounts(self, read: Sequence[Path], write: Sequence[Path]) -> tuple[list[Path], list[Path]]:
        seen = [self.source, self._compiler, self._fragment, *read]
        changed = [self.build, *write]
        (seen if self._untrusted is not None else changed).append(self._ccache)
        return seen, changed

    def configure(self, stage: Stage, log: Path) -> dict[str, str]:
        """Begin a build, which the caller ends: write ``.config``, and return the options that it lacks.

        The result maps names to reasons.  Raises BuildError for a fault of the tree,
        HarnessError for a fault of the machine.
        """
        cold = self.cold
        self.prepare()
        self._begun_cold = cold
        self._unfinished.touch()
        self._clock = clock.offset()
        (self.folder / _HOLDS).unlink(missing_ok=True)
        try:
            self._run(self.configure_argv(), "configuration of the kernel", stage, log)
        except BuildError:
            self.end()  # make ended by itself and removed unfinished files
            raise
        asked = kconfig.values(self.request)
        got = kconfig.values(self._config())
        lost = kconfig.dropped(asked, got)
        options = kconfig_why.Options(self.source) if lost else None
        return {
            name: f"CONFIG_{name}={asked[name]}: {options.why(name, asked[name], got)}"
            for name in lost
            if options is not None
        }

    def end(self) -> None:
        """End a build in which no program was killed.  Raises HarnessError if the clock was set back."""
        clock.require_not_set_back(self._clock, "build")
        self._ended.touch()
        self._unfinished.unlink(missing_ok=True)

    def make(self, stage: Stage, log: Path) -> None:
        """Build what is configured.  Raises the errors of configure()."""
        cold = self._begun_cold
        remove_folder(self._headers)
        self._headers.mkdir()
        try:
            output = self._run(
                self.build_argv(), "build of the kernel", stage, log, write=[self._headers], cold=cold
            )
        except BuildError:
            self.end()
            raise
        if cold:
            write_atomically(self._objects, str(output.steps))
        self.end()

    def make_module(self, stage: Stage, log: Path, source: Path, output: Path) -> None:
        """Build the module of the folder ``source`` in the folder ``output``, for the kernel made here.

        Raises the errors of configure().
        """
        argv = self._make(*_AT_ONCE, f"M={source}", f"MO={output}", "modules")
        self._run(argv, "build of the test importer", stage, log, read=[source], write=[output])

    def collect(self, folder: Path) -> None:
        """Copy what was built into ``folder``: bzImage, vmlinux, config and include/.

        Raises BuildError for anything that is no file of a possible size.
        """
        copy_file(self.build, BZIMAGE, folder / "bzImage", IMAGE_BYTES)
        copy_file(self.build, "vmlinux", folder / "vmlinux", VMLINUX_BYTES)
        copy_file(self.build, ".config", folder / "config", CONFIG_BYTES)
        copy_folder(self._headers / "include", folder / "include", HEADER_BYTES)

    def all_warnings(
        self, folders: Sequence[str], arguments: Sequence[str], stage: Stage, log: Path
    ) -> list[str]:
        """Return all warnings of the source ``folders``, compiled again with more ``arguments`` for make.

        The build folder is configured.  Raises the errors of configure().
        """
        objects = ["find", *folders, "-name", "*.o", "-delete"]
        with contextlib.suppress(CommandError):  # of a folder that is not there yet
            contained.run(objects, write=[self.build], folder=self.build, log=log)
        argv = self._make(*_AT_ONCE, *arguments, *folders)
        try:
            output = self._run(argv, "compilation", stage, log)
        except BuildError:
            self.end()
            raise
        self.end()
        return list(dict.fromkeys(line for lines in output.warnings.values() for line in lines))

    def new_warnings(self, tree: Tree) -> list[str]:
        """Return the warnings of the tree just built that its base, as last built here, does not have."""
        return self._warnings.new(tree, self.request)

    def _run(
        self,
        argv: list[str],
        what: str,
        stage: Stage,
        log: Path,
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        cold: bool = False,
    ) -> Output:
        # Each configuration tells all warnings of kconfig anew.
        warnings: dict[str, list[str]] = {CONFIGURATION: []} if argv == self.configure_argv() else {}
        output = Output(self.source, warnings=warnings)
        total = f" of about {self._objects.read_text()}" if cold and self._objects.exists() else ""

        def line(text: str) -> None:
            if step := output.line(text):
                stage.update(f"{step} ({output.steps}{total})")

        seen, changed = self._mounts(read, write)
        try:
            contained.run(argv, environment=self.environment, read=seen, write=changed, log=log, line=line)
        except CommandError as error:
            failure = output.failure(error, what)
            if isinstance(failure, BuildError) and (reason := _why_not_writable(self.build)):
                # Not every tool reports a write that failed.
                raise HarnessError(
                    f"The {what} failed while {self.build} could not be written ({reason}). Make room there "
                    "(`python -m harness clean` empties the cache), or look at the disk.",
                    log=failure.log,
                    tail=failure.tail,
                ) from error
            raise failure from error
        finally:
            self._warnings.keep(output.warnings)
        return output
