"""A kernel source of six files, as a tarball and as a base, for tests that need one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from harness.kernel import tarball
from harness.kernel.base import Base
from harness.lib.progress import Stage

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
    """A tar header; for links ``content`` is the target."""
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


def make_base(folder: Path) -> Base:
    """The small kernel in a repository of its own below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = folder / "base.git"
    archive = make_tarball(folder / "linux.tar.xz")
    commit = tarball.into_repository(archive, repository, "Linux 6.19.6\n", Stage("fetch", None, None))
    return Base("6.19.6", "6.19", "a test", commit, repository)
