"""Configure and build the kernel under test, or take a kernel that the user built.

A tree is built in a build folder, and the result is copied to a cache entry for
(tree, configuration, toolchain), so no tree is built twice.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.kernel import kconfig, lost_options, profile
from harness.kernel.builddir import BZIMAGE, BuildDir, toolchain
from harness.kernel.kconfig_why import is_on
from harness.kernel.tree import Tree, without_series
from harness.kernel.workbench import FOLDER, workbench
from harness.lib import sandbox
from harness.lib.cache import Store
from harness.lib.errors import BuildError, HarnessError, UsageError
from harness.lib.files import digest, file_digest, write_atomically
from harness.lib.progress import Progress

ARCH = "x86_64"
# The factors by which debugging options slow the kernel down; other options hardly do.
_SLOWDOWN = {"KASAN": 4.0, "PROVE_LOCKING": 2.0}
# A part of every key: change it when a change of the recipe changes the kernel.
RECIPE = "2"


@dataclass(frozen=True)
class Kernel:
    """A kernel image with the user-space headers that belong to it.

    ``headers`` is the folder that holds ``linux/vfio.h``.  ``config`` and
    ``vmlinux`` (symbols, no debug info) are None for a kernel built elsewhere.
    ``identity`` is the digest of the kernel's cache key, or of a prebuilt image.
    ``warnings`` are the compiler's warnings about this tree that the base does not have.
    ``missing`` are the options that were asked for and that the tree lacks through no fault of
    the series, with the reasons.  ``contained`` says what contained its build, as Sandbox.words does.
    """

    bzimage: Path
    headers: Path
    config: Path | None
    vmlinux: Path | None
    release: str
    identity: str
    compiler: str
    warnings: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    contained: str = ""

    @property
    def time_scale(self) -> float:
        """Return the factor for deadlines of an ordinary kernel; 1 for a kernel built elsewhere."""
        built_in = self.options or {}
        return max((factor for name, factor in _SLOWDOWN.items() if built_in.get(name) == "y"), default=1.0)

    def absent(self, option: str) -> str:
        """Return why the kernel lacks an option, as a clause; empty if it has it, or if that is unknown."""
        if self.options is None or is_on(option, self.options):
            return ""
        if self.missing.get(option, "").endswith(lost_options.REMOVED):
            return f"needs CONFIG_{option}, {lost_options.REMOVED}"
        if option in self.missing:
            return f"needs CONFIG_{option}, which the base does not have"
        return f"needs CONFIG_{option}, which is off in this kernel"

    @cached_property
    def options(self) -> dict[str, str] | None:
        """Return its configuration by option (without ``CONFIG_``); None for a kernel built elsewhere."""
        return None if self.config is None else kconfig.values(self.config.read_text(errors="replace"))


def build_kernel(
    store: Store,
    progress: Progress,
    tree: Tree,
    fragments: Sequence[Path],
    log: Path,
    then: Callable[[Kernel], None] | None = None,
) -> Kernel:
    """Return the kernel of ``tree`` with ``allnoconfig`` plus ``fragments``, from the cache or built now.

    ``then`` is called with a kernel that was built now, while the build folder still holds it and
    no other run can build.

    Raises BuildError when the tree does not configure or compile, or the series takes
    away an option that a fragment asks for and the base has, UsageError for a malformed
    fragment, and HarnessError when the machine fails (no space, no memory, no compiler).
    """
    request = kconfig.fragment_text(kconfig.requested(fragments, tree.base.version))
    compiler = toolchain()
    counted = profile.sources(tree) if profile.is_wanted(request) else []
    key = digest(RECIPE, ARCH, tree.tree_id, request, compiler, *counted)

    if tree.untrusted is not None and not store.existing("kernel", key):
        # Its build folder begins as a copy of the one in which the base was built.
        base = without_series(tree)
        with contextlib.suppress(BuildError):  # the series may mend it, and is judged by its own build
            build_kernel(store, progress, base, fragments, log)

    def make(folder: Path) -> None:
        with workbench(store), disk_errors(store.root / FOLDER):
            build_dir = BuildDir(store, tree.base.version, request, untrusted=tree.untrusted)
            build_dir.check_out(tree, progress)
            build_dir.count_lines(counted)
            with progress.stage("build", "cold" if build_dir.cold else "incremental") as stage:
                missing = lost_options.configure(store, progress, build_dir, tree, stage, log)
                for reason in missing.values():
                    progress.say(f"build: without {reason}")
                build_dir.make(stage, log)
            build_dir.keep(tree, key)
            warnings = build_dir.new_warnings(tree)
            for text in warnings:
                progress.say(f"build: {text}")
            build_dir.collect(folder)
            shutil.copyfile(log, folder / "build.log")
            try:
                release = release_of(folder / "bzImage")
            except UsageError as error:
                raise BuildError(f"The build left no kernel image: {error.message}", log=log) from error
            meta = {
                "release": release,
                "compiler": compiler,
                "warnings": warnings,
                "missing": missing,
                "contained": sandbox.current().words,
            }
            write_atomically(folder / "meta.json", json.dumps(meta, indent=1))
            if then is not None:
                then(_kernel_of(folder, key))

    return _kernel_of(store.entry("kernel", key, make), key)


def kernel_in_cache(store: Store, identity: str) -> Kernel | None:
    """Return the kernel that was built here under this ``identity``; None if the cache does not have it."""
    found = store.existing("kernel", identity) if re.fullmatch(r"[0-9a-f]{64}", identity) else None
    return None if found is None else _kernel_of(found, identity)


def _kernel_of(entry: Path, key: str) -> Kernel:
    meta = json.loads((entry / "meta.json").read_text())
    return Kernel(
        bzimage=entry / "bzImage",
        headers=entry / "include",
        config=entry / "config",
        vmlinux=entry / "vmlinux",
        release=meta["release"],
        identity=key,
        compiler=meta["compiler"],
        warnings=tuple(meta["warnings"]),
        missing=meta.get("missing", {}),
        contained=meta.get("contained", ""),
    )


def remove_from_cache(store: Store, built: Kernel) -> None:
    """Remove a kernel that was built here from the cache, unless another run uses it."""
    store.discard("kernel", built.identity)


def prebuilt(bzimage: Path, headers: Path) -> Kernel:
    """Return a kernel that the user built.  Raises UsageError unless it is an x86 bzImage with headers."""
    release = release_of(bzimage)
    if not (headers / "linux" / "vfio.h").is_file():
        nested = headers / "include"
        hint = f" Did you mean {nested}?" if (nested / "linux" / "vfio.h").is_file() else ""
        raise UsageError(
            f"The headers folder {headers} has no linux/vfio.h. Give the `include` folder that "
            f"`make headers_install` makes.{hint}"
        )
    return Kernel(
        bzimage=bzimage.absolute(),
        headers=headers.absolute(),
        config=None,
        vmlinux=None,
        release=release,
        identity=digest("prebuilt", file_digest(bzimage)),
        compiler="not known (built elsewhere)",
    )


def release_of(bzimage: Path) -> str:
    """Return the release (``6.19.0``) in the setup header of an x86 boot image; ``unknown`` without one.

    The layout is that of Documentation/arch/x86/boot.rst: ``HdrS`` at 0x202, at
    0x20e the offset of the version text less 0x200.  Raises UsageError for a file
    that is not such an image.
    """
    try:
        with bzimage.open("rb") as stream:
            setup = stream.read(0x10000)
    except OSError as error:
        raise UsageError(f"The kernel image {bzimage} cannot be read: {error.strerror}.") from error
    if setup[0x202:0x206] != b"HdrS" or len(setup) < 0x210:
        raise UsageError(
            f"The file {bzimage} is not an x86 bzImage (no header with HdrS at 0x202). A kernel build "
            f"leaves it at {BZIMAGE}; vmlinux is another file."
        )
    (pointer,) = struct.unpack_from("<H", setup, 0x20E)
    words = setup[pointer + 0x200 :].split(b"\0", 1)[0][:256].split() if pointer else []
    release = words[0].decode("ascii", errors="replace") if words else ""
    return release[:64] if release.isprintable() and release else "unknown"


def make_lines(store: Store, fragments: Sequence[Path], version: str) -> list[str]:
    """Return the commands that configure and build, quoted for a shell (for ``--dry-run``)."""
    build_dir = BuildDir(store, version, kconfig.fragment_text(kconfig.requested(fragments, version)))
    return [shlex.join(argv) for argv in build_dir.command_lines()]


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raise HarnessError, which says what to do, for a failing write below ``folder``."""
    try:
        yield
    except OSError as error:
        raise HarnessError(
            f"Building below {folder} failed: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else "")
            + ". `python -m harness clean` empties the cache."
        ) from error
