"""The table of the files of the bases, patches/base-blobs.tsv: by it a base is chosen without its source.

A line has a path and, for each base, the first digits of the id of its git blob;
``-`` where the base has no such file.  ``python -m harness.kernel.base_blobs``
writes the table anew from the bases in patches/bases.toml, which it fetches.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from harness.kernel import base, pins
from harness.kernel.base import Base
from harness.lib import git
from harness.lib.cache import Store
from harness.lib.files import write_atomically
from harness.lib.paths import PATCHES
from harness.lib.progress import Progress

TABLE = PATCHES / "base-blobs.tsv"
DIGITS = 12
# The beginnings of the paths that series for VFIO and DMABUFs change.
PLACES = (
    *("drivers/vfio/", "drivers/dma-buf/", "drivers/iommu/iommufd/", "drivers/pci/p2pdma.c", "virt/kvm/"),
    *("include/uapi/linux/vfio", "include/uapi/linux/dma-buf", "include/uapi/linux/iommufd.h"),
    *("include/uapi/linux/udmabuf.h", "include/linux/vfio", "include/linux/dma-buf"),
    *("include/linux/dma-resv", "include/linux/iommufd.h", "include/linux/pci-p2pdma.h"),
    *("include/linux/mm.h", "include/linux/huge_mm.h"),
    *("mm/memory.c", "mm/huge_memory.c", "mm/mmap.c", "samples/vfio-mdev/", "MAINTAINERS"),
    *("Documentation/driver-api/vfio", "Documentation/driver-api/dma-buf.rst"),
    *("Documentation/userspace-api/iommufd.rst", "tools/testing/selftests/vfio/"),
)


@cache
def read(path: Path = TABLE) -> Mapping[str, Mapping[str, str]]:
    """Return the blob of each path by the version of the base; a base without the file is left out."""
    head, *lines = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {
        name: {version: blob for version, blob in zip(head[1:], blobs, strict=True) if blob != "-"}
        for name, *blobs in lines
    }


def versions(path: Path = TABLE) -> list[str]:
    """Return the versions of the bases in the table, the oldest first."""
    with path.open(encoding="utf-8") as stream:
        return stream.readline().rstrip("\n").split("\t")[1:]


def of_base(source: Base) -> dict[str, str]:
    """Return the blobs of a base's files below PLACES, by path."""
    env = git.environment(source.repository)
    listed = git.query(["ls-tree", "-r", "-z", source.commit], env=env).decode(errors="surrogateescape")
    files = (_named(entry) for entry in listed.split("\0") if entry)
    return {path: blob for path, blob in files if path.startswith(PLACES)}


def _named(entry: str) -> tuple[str, str]:
    """Return path and blob of a line of ``git ls-tree``."""
    about, _, path = entry.partition("\t")
    return path, about.split(" ")[2]


def main(path: Path = TABLE) -> int:
    """Write the table."""
    store = Store()
    bases = [base.fetch(store, Progress(store), release) for release in pins.releases()]
    blobs = [of_base(one) for one in bases]
    lines = ["\t".join(["path", *(one.version for one in bases)])]
    for name in sorted({name for known in blobs for name in known}):
        lines.append("\t".join([name, *(known.get(name, "-")[:DIGITS] for known in blobs)]))
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
