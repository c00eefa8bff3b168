"""Configure and compile a kernel in its build folder, contained, and take the result out.

A tree from a mail reads the compiled objects in ccache, and stores none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.kernel import configured, kconfig, kconfig_why, profile
from harness.kernel.build_folder import CONFIGURED, HOLDS, WARNINGS, BuildFolder
from harness.kernel.make_output import CONFIGURATION, Output
from harness.kernel.object_warnings import ObjectWarnings
from harness.kernel.tree import Tree
from harness.lib import clock, command, contained, sandbox
from harness.lib.build_limits import TooMuchError
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, HarnessError
from harness.lib.files import digest, write_atomically
from harness.lib.progress import Stage
from harness.lib.untrusted_files import copy_file, copy_folder, read_file, remove_folder

# With less free space (bytes) than this, a failed build proves nothing about the tree.
SPACE_LEFT = 16 << 20
BZIMAGE = Path("arch/x86/boot/bzImage")
# Three kernels of this configuration with all their objects take 0.2 GB.
CCACHE_SIZE = "2G"
#: The largest files that are taken from a build, in bytes.
IMAGE_BYTES = 256 << 20
VMLINUX_BYTES = 2 << 30
CONFIG_BYTES = 1 << 20
HEADER_BYTES = 4 << 20

_AT_ONCE = (f"-j{len(os.sched_getaffinity(0))}", "--output-sync=target")


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


class BuildDir(BuildFolder):
    """A build folder, and make in it; the arguments are those of BuildFolder."""

    _begun_cold = False  # whether the folder was cold before its configuration
    _profiled: Sequence[str] = ()  # the C files whose lines are counted

    @property
    def _warnings(self) -> ObjectWarnings:
        return ObjectWarnings(self.folder / WARNINGS, self.source)

    @property
    def _objects(self) -> Path:
        """The file with the number of objects that the last cold build compiled, for the progress line."""
        return self.root / "objects"

    def configure_argv(self) -> list[str]:
        """Return the make command that sets every option to no except those of the fragment."""
        return self._make(f"KCONFIG_ALLCONFIG={self._fragment}", "allnoconfig")

    def build_argv(self) -> list[str]:
        """Return the make command that builds the image and installs the headers.

        If the kernel has modules, it also makes the table of symbols that a module is linked with.
        """
        modules = ["modules"] if self._has_modules() else []
        targets = ["bzImage", *modules, "headers_install"]
        counting = profile.make_arguments(self._profiled)
        return self._make(*_AT_ONCE, *targets, f"INSTALL_HDR_PATH={self._headers}", *counting)

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

    def configure(self, stage: Stage, log: Path, inputs: Sequence[bytes] = ()) -> dict[str, str]:
        """Begin a build, which the caller ends: write ``.config``, and return the options that it lacks.

        ``inputs`` is what the configuration of the tree depends on (configured.inputs()).  If all of it
        is as it was for the ``.config`` that is there, make is not asked again.  The result maps names
        to reasons.  Raises BuildError for a fault of the tree, HarnessError for a fault of the machine.
        """
        cold = self.cold
        self.prepare()
        self._begun_cold = cold
        self._unfinished.touch()
        self._clock = clock.offset()
        (self.folder / HOLDS).unlink(missing_ok=True)
        host = (toolchain(self.compiler), *configured.programs())
        wanted = digest("1", self.request, *host, *inputs) if inputs else ""
        if not (wanted and self._is_configured(wanted)):
            (self.folder / CONFIGURED).unlink(missing_ok=True)
            with self._ended_if_refused():
                self._run(self.configure_argv(), "configuration of the kernel", stage, log)
            write_atomically(self.folder / CONFIGURED, f"{wanted} {digest(self._config())}")
        asked = kconfig.values(self.request)
        got = kconfig.values(self._config())
        lost = kconfig.dropped(asked, got)
        options = kconfig_why.Options(self.source) if lost else None
        return {
            name: f"CONFIG_{name}={asked[name]}: {options.why(name, asked[name], got)}"
            for name in lost
            if options is not None
        }

    def _is_configured(self, wanted: str) -> bool:
        """Return whether ``.config`` is there as it was written for ``wanted``, and unchanged since."""
        record = self.folder / CONFIGURED
        try:
            return record.exists() and record.read_text() == f"{wanted} {digest(self._config())}"
        except BuildError:
            return False  # a build has removed it, or made a link of it

    def end(self) -> None:
        """End a build in which no program was killed.  Raises HarnessError if the clock was set back."""
        clock.require_not_set_back(self._clock, "build")
        self._ended.touch()
        self._unfinished.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _ended_if_refused(self) -> Iterator[None]:
        """End the build if make in the ``with`` block ends by itself with an error of the tree.

        It has removed unfinished files then.  A build that took too much was killed with its compilers.
        """
        try:
            yield
        except TooMuchError:
            raise
        except BuildError:
            self.end()
            raise

    def count_lines(self, paths: Sequence[str]) -> None:
        """Instrument the objects of these C files in the next build, for gcov."""
        self._profiled = tuple(paths)

    def make(self, stage: Stage, log: Path) -> None:
        """Build what is configured.  Raises the errors of configure()."""
        cold = self._begun_cold
        remove_folder(self._headers)
        self._headers.mkdir()
        with self._ended_if_refused():
            output = self._run(
                self.build_argv(), "build of the kernel", stage, log, write=[self._headers], cold=cold
            )
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
        """Copy what was built into ``folder``: bzImage, vmlinux, config, include/, and the notes of gcov.

        Raises BuildError for anything that is no file of a possible size.
        """
        copy_file(self.build, BZIMAGE, folder / "bzImage", IMAGE_BYTES)
        copy_file(self.build, "vmlinux", folder / "vmlinux", VMLINUX_BYTES)
        copy_file(self.build, ".config", folder / "config", CONFIG_BYTES)
        copy_folder(self._headers, "include", folder / "include", HEADER_BYTES)
        profile.collect(self.build, self._profiled, folder / profile.NOTES)

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
        with self._ended_if_refused():
            output = self._run(argv, "compilation", stage, log)
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
                raise HarnessError.in_place_of(
                    failure,
                    f"The {what} failed while {self.build} could not be written ({reason}). Make room there "
                    "(`python -m harness clean` empties the cache), or look at the disk.",
                ) from error
            raise failure from error
        finally:
            self._warnings.keep(output.warnings)
        return output
