"""Small kernels: a source of six files as a tarball and as a base, one that builds, and a boot image."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.kernel import tarball
from harness.kernel.base import Base
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.builddir import BuildDir
from harness.kernel.tree import Tree
from harness.lib import git
from harness.lib.cache import Store
from harness.lib.progress import Progress, Stage
from harness.series.series import Patch, Series

CORE = "".join(f"int line_{number};\n" for number in range(1, 61))

FILES: dict[str, tuple[int, str]] = {
    "Makefile": (0o644, "VERSION = 6\nPATCHLEVEL = 19\nSUBLEVEL = 6\nEXTRAVERSION =\nNAME = Small\n"),
    "Kconfig": (0o644, 'mainmenu "small"\n'),
    ".gitignore": (0o644, "*.o\n"),
    "drivers/vfio/pci/core.c": (0o644, CORE),
    "drivers/vfio/pci/Makefile": (0o644, "obj-y += core.o\n"),
    "scripts/tool.sh": (0o755, "#!/bin/sh\necho tool\n"),
}
LINKS = {"include/dt-bindings": "../scripts"}


def member(
    name: str, content: str = "", *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE
) -> tarfile.TarInfo:
    """Make a tar header; for links ``content`` is the target."""
    info = tarfile.TarInfo(name)
    info.mode, info.type = mode, kind
    if kind == tarfile.REGTYPE:
        info.size = len(content.encode())
    else:
        info.linkname = content
    return info


def make_tarball(path: Path, *extra: tuple[tarfile.TarInfo, str]) -> Path:
    """Write linux-6.19.6.tar.xz, with ``extra`` members at the end."""
    with tarfile.open(path, "w:xz") as archive:
        archive.addfile(member("linux-6.19.6", mode=0o755, kind=tarfile.DIRTYPE))
        for name, (mode, content) in FILES.items():
            info = member(f"linux-6.19.6/{name}", content, mode=mode)
            archive.addfile(info, io.BytesIO(content.encode()))
        for name, target in LINKS.items():
            archive.addfile(member(f"linux-6.19.6/{name}", target, kind=tarfile.SYMTYPE))
        for info, content in extra:
            archive.addfile(info, io.BytesIO(content.encode()))
    return path


def make_source_package(folder: Path, source: Path) -> Path:
    """Write linux-source-7.3_7.3.4-1_all.deb, which holds the tarball ``source`` as Debian's package does."""
    content = folder / "package"
    inside = content / "usr" / "src" / "linux-source-7.3.tar.xz"
    inside.parent.mkdir(parents=True)
    shutil.copyfile(source, inside)
    (content / "usr" / "share").mkdir()
    (content / "usr" / "share" / "copyright").write_text("after the tarball, or before it\n" * 100)
    (content / "DEBIAN").mkdir()
    fields = {"Package": "linux-source-7.3", "Version": "7.3.4-1", "Architecture": "all"}
    fields |= {"Maintainer": "a test", "Description": "a test"}
    (content / "DEBIAN" / "control").write_text("".join(f"{key}: {text}\n" for key, text in fields.items()))
    package = folder / "linux-source-7.3_7.3.4-1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(content), str(package)], check=True, capture_output=True)
    return package


def make_base(folder: Path) -> Base:
    """Import the small kernel into a repository of its own below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = folder / "base.git"
    archive = make_tarball(folder / "linux.tar.xz")
    commit = tarball.import_tarball(archive, repository, "Linux 6.19.6\n", Stage("fetch", None, None))
    return Base("6.19.6", "6.19", "a test", commit, repository)


# --- one that builds

BUILD_TREE = Path(__file__).parent / "data" / "kbuild" / "tree"
DMABUF = "int dmabuf(void);\n\nint dmabuf(void)\n{\n\treturn 1;\n}\n"  # its drivers/dmabuf.c


class SmallKernel:
    """A kernel of a few files in git, with a cache, a fragment and a log to build it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "cache")
        self.fragment = folder / "small.config"
        self.fragment.write_text("CONFIG_PCI=y\nCONFIG_VFIO_PCI=y\n")
        self.log = folder / "build.log"
        self.repository = folder / "repository"
        shutil.copytree(BUILD_TREE, self.repository)
        self._git("init", "--quiet")
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message=base")
        self.base = Base("6.19.6", "6.19", "a test", self._git("rev-parse", "HEAD"), self.repository / ".git")

    def tree(self, changes: Mapping[str, str | None] | None = None, *, untrusted: bool = False) -> Tree:
        """Commit the base with ``changes``, path to new content or None to remove it; return the tree."""
        if not changes:
            return self._tree(self.base.commit, None)
        self._git("checkout", "--quiet", "--force", self.base.commit)
        for name, content in changes.items():
            path = self.repository / name
            if content is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message=series")
        patch = Patch("0001-x.patch", b"", "x")
        series = Series("x", "x", "6.19", "base", (patch,), {}, "a test", untrusted=untrusted)
        return self._tree(self._git("rev-parse", "HEAD"), series)

    def change_base(self, changes: Mapping[str, str | None]) -> None:
        """Let the base have these changes from now on."""
        self.base = replace(self.base, commit=self.tree(changes).commit)

    def build(self, changes: Mapping[str, str | None] | None = None, *, untrusted: bool = False) -> Kernel:
        """Build the base with ``changes``; ``log`` then holds this build alone."""
        self.log.unlink(missing_ok=True)
        progress = Progress(self.store, io.StringIO())
        return build_kernel(
            self.store, progress, self.tree(changes, untrusted=untrusted), [self.fragment], self.log
        )

    @property
    def build_folder(self) -> Path:
        """The folder that the next build uses."""
        return BuildDir(self.store, self.base.version, "").build

    def compiled(self) -> list[str]:
        """The objects that the last build compiled."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sorted(line.split()[1] for line in lines if line.startswith(("  CC ", "  AS ")))

    def _tree(self, commit: str, series: Series | None) -> Tree:
        return Tree(
            self.base.repository, commit, self._git("rev-parse", f"{commit}^{{tree}}"), self.base, series
        )

    def _git(self, *arguments: str) -> str:
        added = git.environment()
        inherited = {name: value for name, value in os.environ.items() if name not in added}
        given = {name: value for name, value in added.items() if value is not None}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.repository,
            env=inherited | given,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


# --- boot images


def bzimage(path: Path, release: bytes = b"6.19.0-v4 (me@home) #1 SMP", pointer: int = 0x100) -> Path:
    """Write a file with the header of a boot image (Documentation/arch/x86/boot.rst)."""
    setup = bytearray(0x1000)
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x20E, pointer)
    if pointer:
        setup[pointer + 0x200 : pointer + 0x200 + len(release)] = release
    path.write_bytes(setup)
    return path


def headers(folder: Path) -> Path:
    """Make a headers folder with an empty linux/vfio.h."""
    (folder / "linux").mkdir(parents=True)
    (folder / "linux" / "vfio.h").touch()
    return folder
