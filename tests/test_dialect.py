"""The dialect of a kernel, by its headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kernel import dialect
from harness.lib.errors import BuildError

LINES = {
    "feature": ("vfio.h", "#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE 13\n"),
    "ioctl": ("dma-buf.h", "#define DMA_BUF_IOCTL_REVOKE\t_IO(DMA_BUF_BASE, 4)\n"),
    "map": ("vfio.h", "/* DMA_BUF_IOCTL_REVOKE and VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE are not here */\n"),
}


def headers(folder: Path, kind: str) -> Path:
    name, line = LINES[kind]
    (folder / "linux").mkdir()
    (folder / "linux" / name).write_text(line)
    return folder


@pytest.mark.parametrize("kind", LINES)
def test_auto_is_the_dialect_of_the_headers(tmp_path: Path, kind: str) -> None:
    assert dialect.resolve("auto", headers(tmp_path, kind)) == kind


@pytest.mark.parametrize(("promised", "kind"), [("base", "map"), *((kind, kind) for kind in LINES)])
def test_promised_dialect_in_the_headers_is_kept(tmp_path: Path, promised: str, kind: str) -> None:
    assert dialect.resolve(promised, headers(tmp_path, kind)) == promised


@pytest.mark.parametrize(
    ("promised", "kind"), [("feature", "map"), ("feature", "ioctl"), ("ioctl", "map"), ("base", "ioctl")]
)
def test_promised_dialect_not_in_the_headers_is_an_error(tmp_path: Path, promised: str, kind: str) -> None:
    with pytest.raises(BuildError, match=f"promises the dialect {promised}, .* of the dialect {kind}"):
        dialect.resolve(promised, headers(tmp_path, kind))
