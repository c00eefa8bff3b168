"""The dialect of a kernel: which user-space interface its installed headers offer for revocation."""

from __future__ import annotations

import re
from pathlib import Path

from harness.lib.errors import BuildError

# The dialect, the header that tells it, and the constant that the header then has.
SIGNS = (
    ("feature", "linux/vfio.h", "VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE"),
    ("ioctl", "linux/dma-buf.h", "DMA_BUF_IOCTL_REVOKE"),
)


def of_headers(headers: Path) -> str:
    """``feature`` or ``ioctl`` by what the headers define; ``map`` if they know no revocation."""
    for dialect, name, constant in SIGNS:
        header = headers / name
        text = header.read_text(errors="replace") if header.is_file() else ""
        if re.search(rf"^\s*#\s*define\s+{constant}\b", text, re.MULTILINE):
            return dialect
    return "map"


def settle(promised: str, headers: Path) -> str:
    """The dialect to test: the promised one, or what the headers say where that is ``auto``.

    Raises BuildError if the headers do not offer what the series promises: every
    scenario would then fail, and none would say why.
    """
    found = of_headers(headers)
    if promised == "auto":
        return found
    if found != ("map" if promised == "base" else promised):
        raise BuildError(
            f"The series promises the dialect {promised}, but the installed headers are those of the dialect "
            f"{found}. The constants that tell: {', '.join(f'{c} in {h} ({d})' for d, h, c in SIGNS)}."
        )
    return promised
