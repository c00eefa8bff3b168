"""The dialect of a kernel: the user-space interface for revocation in its installed headers."""

from __future__ import annotations

import re
from pathlib import Path

from harness.lib.errors import BuildError

# Each dialect with the header and the constant that identify it.
CONSTANTS = (
    ("feature", "linux/vfio.h", "VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE"),
    ("ioctl", "linux/dma-buf.h", "DMA_BUF_IOCTL_REVOKE"),
)


def of_headers(headers: Path) -> str:
    """Return ``feature`` or ``ioctl`` by the constants in the headers; ``map`` without revocation."""
    for dialect, name, constant in CONSTANTS:
        header = headers / name
        text = header.read_text(errors="replace") if header.is_file() else ""
        if re.search(rf"^\s*#\s*define\s+{constant}\b", text, re.MULTILINE):
            return dialect
    return "map"


def resolve(promised: str, headers: Path) -> str:
    """Return the dialect to test: ``promised``, or the dialect of the headers for ``auto``.

    Raises BuildError if the headers do not offer the promised dialect: every
    scenario would fail without naming the reason.
    """
    found = of_headers(headers)
    if promised == "auto":
        return found
    if found != ("map" if promised == "base" else promised):
        raise BuildError(
            f"The series promises the dialect {promised}, but the installed headers are those of the dialect "
            f"{found}. The constants that identify them: "
            f"{', '.join(f'{constant} in {header} ({name})' for name, header, constant in CONSTANTS)}."
        )
    return promised
