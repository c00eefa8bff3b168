"""The folders in which kernels are configured and compiled.

The folder ``workbench`` of the cache has a folder for each kernel release.  It holds
one source folder, which receives the tree under test, and build folders beside it:
one for each configuration that differs in more than a few options, and one for each
compiler that only checks for warnings.  Make compiles only the differences to the
tree and configuration before, and ccache has the objects of earlier ones.  Two
releases differ in nearly every object, so a change of the release in one source
folder would compile everything again.  The caller holds the lock ``workbench``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from harness.kernel import kconfig, kconfig_why
from harness.kernel.download import require_space
from harness.kernel.make_output import CONFIGURATION, Output, without_position
from harness.kernel.tree import Tree
from harness.lib import clock, command
from harness.lib.cache import CACHE_VARIABLE, Store
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, HarnessError
from harness.lib.files import digest, write_atomically
from harness.lib.progress import Progress, Stage

# With less free space (bytes) than this, a failed build proves nothing about the tree.
SPACE_LEFT = 16 << 20
BZIMAGE = Path("arch/x86/boot/bzImage")
# Three kernels of this configuration with all their objects take 0.2 GB.
CCACHE_SIZE = "2G"
# The source of a release takes 1.5 GB, a build folder 0.3 GB.
SPACE_FOR_RELEASE = 2 << 30

_WARNINGS = ".patchproof-warnings.json"
_FRAGMENT = ".patchproof-fragment"
_HOLDS = ".patchproof-holds"  # the tree and the kernel that a source and a build folder hold
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


def make_environment(variables: Mapping[str, str]) -> list[str]:
    """Return the beginning of a make command: a fixed environment, without the user's but TMPDIR."""
    environment = {"PATH": command.SYSTEM_PATH, "LC_ALL": "C"}
    if "TMPDIR" in os.environ:
        environment["TMPDIR"] = os.environ["TMPDIR"]
    return [
        *("env", "-i", *(f"{name}={value}" for name, value in (environment | dict(variables)).items())),
        # When the harness is killed, make ends, and ends its compilers.
        *("setpriv", "--pdeathsig", "TERM"),
    ]


class BuildDir:
    """The source folder of a release and one build folder, for a configuration.

    ``version`` is that of the kernel ("7.2.6").  ``request`` is the configuration as
    the text of a fragment.  ``build`` is the name of the build folder, by default
    that with the nearest configuration; each build folder belongs to one ``compiler``.
    """

    def __init__(
        self, store: Store, version: str, request: str, build: str = "", compiler: str = "gcc"
    ) -> None:
        self._workbench = store.root / "workbench"
        # Without symbolic links, so that a moved cache with a link in its place builds incrementally.
        self.root = (self._workbench / kconfig.release_name(version)).resolve()
        build = build or _nearest(self.root, request)
        self.source = self.root / "src"
        self.build = self.root / build
        self.request = request
        self._unfinished = self.build / ".patchproof-unfinished"
        self._ended = self.build / ".patchproof-ended"  # its time stamp is that of the last build's end
        self._clock = clock.offset()
        self._fragment = self.build / _FRAGMENT
        self._compiler = self.root / f"{build}.cc"
        self.compiler = compiler
        self._wrapper = _COMPILER.format(compiler=compiler)
        self._ccache = store.root / "ccache"
        self._begun_cold = False
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
        write_atomically(self.build / _HOLDS, f"{tree.tree_id} {kernel}")

    def holds(self, tree: Tree, kernel: str) -> bool:
        """Return whether the folders still are as keep() recorded them."""
        try:
            source, built = (path.read_text() for path in (self._source_holds, self.build / _HOLDS))
        except OSError:
            return False
        return source == tree.tree_id and built == f"{tree.tree_id} {kernel}"

    def prepare(self) -> None:
        """Make the build folder; first remove it if its build was killed, or the clock set back since."""
        if re.search(r"[\s:]", str(self.root)):
            raise HarnessError(
                f"The kernel cannot be built in {self.root}: its makefiles do not work below a path "
                f"with spaces or colons. Set {CACHE_VARIABLE} to another folder."
            )
        if self._unfinished.exists() or clock.is_from_the_future(self._ended):
            # After a clock was set back, a changed source is older than the object of its earlier content.
            # A file that was being written by a killed build may be half a file with a new time stamp.
            # ccache has most objects, so a new build costs little.
            shutil.rmtree(self.build)
        self.build.mkdir(parents=True, exist_ok=True)
        self._remove_oldest()
        write_atomically(self._fragment, self.request)
        if not self._compiler.exists() or self._compiler.read_text() != self._wrapper:
            write_atomically(self._compiler, self._wrapper)
        self._compiler.chmod(0o755)

    def _remove_oldest(self) -> None:
        """Remove the build folders whose last use is the longest ago, above _FOLDERS."""
        for folder in _oldest(self._workbench.glob("*/build-*/"), self.build, _FOLDERS):
            shutil.rmtree(folder)

    def _remove_oldest_releases(self) -> None:
        """Remove what earlier versions of this program left, and the releases above _RELEASES."""
        releases = [path for path in self._workbench.iterdir() if _RELEASE.fullmatch(path.name)]
        for path in {*self._workbench.iterdir()} - {*releases}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for folder in _oldest(releases, self.root, _RELEASES):
            shutil.rmtree(folder)

    def configure_argv(self) -> list[str]:
        """Return the command that sets every option to no except those of the fragment."""
        return self._make({"KCONFIG_ALLCONFIG": str(self._fragment)}, "allnoconfig")

    def build_argv(self, headers: Path) -> list[str]:
        """Return the command that builds the image and installs ``linux/`` into the folder ``headers``.

        If the kernel has modules, it also makes the table of symbols that a module is linked with.
        """
        modules = ["modules"] if self._has_modules() else []
        targets = ["bzImage", *modules, "headers_install"]
        return self._make({}, *_AT_ONCE, *targets, f"INSTALL_HDR_PATH={headers.parent}")

    def _has_modules(self) -> bool:
        """Return whether the configuration, or before there is one the request, has modules."""
        config = self.build / ".config"
        text = config.read_text() if config.exists() else self.request
        return kconfig.values(text).get("MODULES") == "y"

    def module_argv(self, source: Path, output: Path) -> list[str]:
        """Return the command that builds the module of the folder ``source`` in the folder ``output``."""
        return self._make({}, *_AT_ONCE, f"M={source}", f"MO={output}", "modules")

    def _make(self, extra: dict[str, str], *arguments: str) -> list[str]:
        """Return a make command in a fixed environment, without the user's variables but TMPDIR."""
        environment = {
            "CCACHE_DIR": str(self._ccache),
            "CCACHE_MAXSIZE": CCACHE_SIZE,
            "CCACHE_DEPEND": "1",
            "KBUILD_BUILD_TIMESTAMP": "2026-01-01",
            "KBUILD_BUILD_USER": "patchproof",
            "KBUILD_BUILD_HOST": "patchproof",
            "KBUILD_BUILD_VERSION": "1",
        }
        return [
            *make_environment(environment | extra),
            *("make", "-C", str(self.source), f"O={self.build}", "ARCH=x86_64", f"CC={self._compiler}"),
            *("LOCALVERSION=", "--no-print-directory", *arguments),
        ]

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
        (self.build / _HOLDS).unlink(missing_ok=True)
        try:
            self._run(self.configure_argv(), "configuration of the kernel", stage, log)
        except BuildError:
            self.end()  # make ended by itself and removed unfinished files
            raise
        asked = kconfig.values(self.request)
        got = kconfig.values((self.build / ".config").read_text())
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

    def make(self, stage: Stage, log: Path, headers: Path) -> None:
        """Build what is configured; ``headers`` then holds ``linux/``.  Raises the errors of configure()."""
        cold = self._begun_cold
        try:
            output = self._run(self.build_argv(headers), "build of the kernel", stage, log, cold=cold)
        except BuildError:
            self.end()
            raise
        if cold:
            write_atomically(self._objects, str(output.steps))
        self.end()

    def make_module(self, stage: Stage, log: Path, source: Path, output: Path) -> None:
        """Build a module against the kernel that was made here.  Raises the errors of configure()."""
        self._run(self.module_argv(source, output), "build of the test importer", stage, log)

    def all_warnings(
        self, folders: Sequence[str], arguments: Sequence[str], stage: Stage, log: Path
    ) -> list[str]:
        """Return all warnings of the source ``folders``, compiled again with more ``arguments`` for make.

        The build folder is configured.  Raises the errors of configure().
        """
        for folder in folders:
            for old in (self.build / folder).rglob("*.o"):
                old.unlink()
        argv = self._make({}, *_AT_ONCE, *arguments, *folders)
        try:
            output = self._run(argv, "compilation", stage, log)
        except BuildError:
            self.end()
            raise
        self.end()
        return list(dict.fromkeys(line for lines in output.warnings.values() for line in lines))

    def new_warnings(self, tree: Tree) -> list[str]:
        """Return the warnings of the tree just built that its base, as last built here, does not have.

        A tree without patches has none; its warnings become those of the base.
        """
        state = self._state()
        lines = list(dict.fromkeys(line for lines in state["now"].values() for line in lines))
        base = {"commit": tree.base.commit, "config": digest(self.request)}
        if tree.series is None or not tree.series.patches:
            state["base"] = {**base, "lines": lines}
            write_atomically(self.build / _WARNINGS, json.dumps(state, indent=1))
            return []
        old = {
            without_position(line) for line in state["base"]["lines"] if state["base"].items() >= base.items()
        }
        return [line for line in lines if without_position(line) not in old]

    def _run(self, argv: list[str], what: str, stage: Stage, log: Path, *, cold: bool = False) -> Output:
        # Each configuration tells all warnings of kconfig anew.
        warnings: dict[str, list[str]] = {CONFIGURATION: []} if argv == self.configure_argv() else {}
        output = Output(self.source, warnings=warnings)
        total = f" of about {self._objects.read_text()}" if cold and self._objects.exists() else ""

        def line(text: str) -> None:
            if step := output.line(text):
                stage.update(f"{step} ({output.steps}{total})")

        try:
            command.run(argv, log=log, line=line)
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
            self._keep_warnings(output)
        return output

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.build / _WARNINGS).read_text())
        except FileNotFoundError:
            state = {"now": {}, "base": {"lines": []}}
        return cast(dict[str, Any], state)

    def _keep_warnings(self, output: Output) -> None:
        """Store the warnings of each object, until the object is compiled again or its source is gone."""
        state = self._state()
        state["now"] = {
            target: lines
            for target, lines in {**state["now"], **output.warnings}.items()
            if lines and (target in output.warnings or target == CONFIGURATION or self._has_source(target))
        }
        write_atomically(self.build / _WARNINGS, json.dumps(state, indent=1))

    def _has_source(self, target: str) -> bool:
        return any((self.source / target).with_suffix(suffix).exists() for suffix in (".c", ".S"))
