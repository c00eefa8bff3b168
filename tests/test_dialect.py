"""The interfaces of a kernel, by its headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kernel import dialect
from harness.kernel.dialect import Interfaces
from harness.lib.errors import BuildError
from harness.run.scenario import revoke_via

LINES = {
    "feature": ("vfio.h", "#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE 13\n"),
    "device-ioctl": ("vfio.h", "#define VFIO_DEVICE_PCI_DMABUF_REVOKE\t_IO(VFIO_TYPE, VFIO_BASE + 22)\n"),
    "ioctl": ("dma-buf.h", "#define DMA_BUF_IOCTL_REVOKE\t_IO(DMA_BUF_BASE, 4)\n"),
    "map": ("vfio.h", "/* DMA_BUF_IOCTL_REVOKE and\n#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE 13 */\n"),
}
MEMATTR = "#define VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR 15\n"
ATTRIBUTES = {
    "none": "#define VFIO_DMA_BUF_MEMATTR_WC 1\n",
    "flags": "#define SHIFT 28\n#define VFIO_EXPORT_WC (1U << SHIFT)\n",
    "set": f"/* Upon VFIO_DEVICE_FEATURE_SET choose what VFIO_DEVICE_FEATURE_GET made. */\n{MEMATTR}",
    "get-set": f"/* Upon VFIO_DEVICE_FEATURE_SET set. Upon\n * VFIO_DEVICE_FEATURE_GET tell. */\n{MEMATTR}",
}


def write(folder: Path, name: str, text: str) -> Path:
    (folder / "linux").mkdir(exist_ok=True)
    with (folder / "linux" / name).open("a") as file:
        file.write(text)
    return folder


def headers(folder: Path, *kinds: str) -> Path:
    for kind in kinds:
        write(folder, *LINES[kind])
    return folder


@pytest.mark.parametrize("kind", LINES)
def test_auto_is_the_dialect_of_the_headers(tmp_path: Path, kind: str) -> None:
    assert dialect.resolve("auto", Interfaces.of(headers(tmp_path, kind))) == kind


@pytest.mark.parametrize(("promised", "kind"), [("base", "map"), *((kind, kind) for kind in LINES)])
def test_promised_dialect_in_the_headers_is_kept(tmp_path: Path, promised: str, kind: str) -> None:
    assert dialect.resolve(promised, Interfaces.of(headers(tmp_path, kind))) == promised


@pytest.mark.parametrize(
    ("promised", "kind"),
    [
        ("feature", "map"),
        ("feature", "ioctl"),
        ("ioctl", "map"),
        ("base", "ioctl"),
        ("feature", "device-ioctl"),
    ],
)
def test_promised_dialect_not_in_the_headers_is_an_error(tmp_path: Path, promised: str, kind: str) -> None:
    with pytest.raises(BuildError, match=f"promises the dialect {promised}, .* of the dialect {kind}"):
        dialect.resolve(promised, Interfaces.of(headers(tmp_path, kind)))


@pytest.mark.parametrize("promised", ["feature", "ioctl"])
def test_promised_dialect_beside_another_is_kept(tmp_path: Path, promised: str) -> None:
    assert dialect.resolve(promised, Interfaces.of(headers(tmp_path, "feature", "ioctl"))) == promised


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_attribute_is_that_of_the_headers(tmp_path: Path, kind: str) -> None:
    found = Interfaces.of(write(tmp_path, "vfio.h", ATTRIBUTES[kind]))
    assert (found.attribute, found.revoke) == (kind, ())


def test_attribute_at_the_wrong_bits_is_flags_nevertheless(tmp_path: Path) -> None:
    text = "#define VFIO_DMA_BUF_MEMATTR_SHIFT 24\n#define VFIO_DMA_BUF_MEMATTR_WC (1U << 24)\n"
    assert Interfaces.of(write(tmp_path, "vfio.h", text)).attribute == "flags"


@pytest.mark.parametrize(("revoke", "attribute"), [("device-ioctl", "get-set"), ("feature", "set")])
def test_attribute_without_a_comment_is_that_of_the_revision(
    tmp_path: Path, revoke: str, attribute: str
) -> None:
    found = Interfaces.of(write(headers(tmp_path, revoke), "vfio.h", MEMATTR))
    assert ([one.kind for one in found.revoke], found.attribute) == ([revoke], attribute)


def test_numbers_of_features_are_those_of_the_headers(tmp_path: Path) -> None:
    text = "#define VFIO_DEVICE_FEATURE_MASK (0xffff)\n#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE (0x0e)\n"
    found = Interfaces.of(write(tmp_path, "vfio.h", text + MEMATTR))
    assert found.numbers == {"revoke": 14, "memattr": 15}
    assert found.unused_feature(14, 13) == 13
    assert found.unused_feature(14, 15) == 16
    assert Interfaces().unused_feature(13) == 13


def test_interfaces_are_told_with_their_constants(tmp_path: Path) -> None:
    assert str(Interfaces.of(tmp_path)) == "revoke: none; memory attributes: none"
    write(headers(tmp_path, "feature"), "vfio.h", ATTRIBUTES["set"])
    assert str(Interfaces.of(tmp_path)) == (
        "revoke: feature 13 (VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE in linux/vfio.h); "
        "memory attributes: set by feature 15 (VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR in linux/vfio.h)"
    )


def test_names_that_may_revoke_are_unknown_interfaces(tmp_path: Path) -> None:
    text = "#define VFIO_DEVICE_FEATURE_DMABUF_REVOKE (0xd)\nstruct vfio_revoke { int a; }; /* to_revoke */\n"
    write(headers(tmp_path, "ioctl"), "vfio.h", text)
    write(tmp_path, "vfio_pci.h", "enum { VFIO_PCI_REVOKE_ALL = 3, };\n")
    write(tmp_path, "input.h", "#define EVIOCREVOKE 1\n")
    found = Interfaces.of(tmp_path)
    assert found.unknown == {
        "VFIO_DEVICE_FEATURE_DMABUF_REVOKE = 13": "linux/vfio.h",
        "VFIO_PCI_REVOKE_ALL = 3": "linux/vfio_pci.h",
    }
    assert found.names == {"vfio_revoke": "linux/vfio.h"}


def test_missing_interface_is_named_with_its_constant() -> None:
    reason = dialect.missing(("feature", "ioctl"), ("flags",), "device-ioctl", "get-set")
    assert "feature (VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE in linux/vfio.h) or ioctl (DMA_BUF_IOC" in reason
    assert "this kernel has the dialect device-ioctl" in reason
    assert "by: flags of an export; this kernel has: set and read by feature" in reason
    assert dialect.missing((), (), "map", "none") == ""
    assert dialect.missing(("map",), ("none", "set"), "map", "none") == ""


def test_dialect_without_a_call_that_revokes_says_so() -> None:
    assert (revoke_via("map"), revoke_via("base")) == ("none", None)
