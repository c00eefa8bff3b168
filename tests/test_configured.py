"""A build folder is configured again only if something has changed that its configuration depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_kernel import DMABUF, SmallKernel

from harness.kernel import configured
from harness.kernel.build_folder import CONFIGURED

OTHER = DMABUF.replace("1", "2")
KCONFIG = (Path(__file__).parent / "data" / "kbuild" / "tree" / "Kconfig").read_text()


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


def has_configured(small: SmallKernel) -> bool:
    """Return whether the last build ran ``make allnoconfig``."""
    return " allnoconfig\n" in small.log.read_text()


def test_build_of_other_sources_is_not_configured_again(small: SmallKernel) -> None:
    first = small.build()
    assert has_configured(small)
    second = small.build({"drivers/dmabuf.c": OTHER})
    assert not has_configured(small)
    assert second.options == first.options
    assert small.compiled() == ["drivers/dmabuf.o"]


@pytest.mark.parametrize(
    ("changed", "content"),
    [
        ("Kconfig", f"{KCONFIG}\n"),
        ("Makefile", None),
        ("drivers/options", "config X\n"),
        ("scripts/cc-version.sh", "echo GCC 120200\n"),
        ("scripts/kconfig/conf.c", "int main(void) { return 1; }\n"),
    ],
)
def test_build_of_a_changed_input_is_configured_again(
    small: SmallKernel, changed: str, content: str | None
) -> None:
    small.build()
    makefile = (small.repository / "Makefile").read_text()
    small.build({changed: content or f"{makefile}\n"})
    assert has_configured(small)


def test_build_of_another_fragment_is_configured_again(small: SmallKernel) -> None:
    small.build()
    small.fragment.write_text("CONFIG_PCI=y\n")
    built = small.build({"drivers/dmabuf.c": OTHER})
    assert has_configured(small)
    assert built.options == {"PCI": "y"}


def test_configuration_that_a_build_has_changed_is_made_anew(small: SmallKernel) -> None:
    small.build()
    (small.build_folder / ".config").write_text("CONFIG_PCI=y\n")
    built = small.build({"drivers/dmabuf.c": OTHER})
    assert has_configured(small)
    assert built.options == {"PCI": "y", "VFIO_PCI": "y"}


def test_build_after_a_program_came_is_configured_again(
    small: SmallKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.build()
    monkeypatch.setattr(configured, "programs", lambda: ["/usr/bin 1"])
    small.build({"drivers/dmabuf.c": OTHER})
    assert has_configured(small)


def test_configuration_without_its_record_is_made_anew(small: SmallKernel) -> None:
    small.build()
    (small.build_folder.parent / CONFIGURED).unlink()
    small.build({"drivers/dmabuf.c": OTHER})
    assert has_configured(small)


def test_tree_from_a_mail_takes_the_configuration_of_its_base(small: SmallKernel) -> None:
    small.build()
    small.build({"drivers/dmabuf.c": OTHER}, untrusted=True)
    assert not has_configured(small)
    small.build({"Kconfig": f"{KCONFIG}\n"}, untrusted=True)
    assert has_configured(small)


def test_inputs_are_neither_sources_nor_documentation(small: SmallKernel) -> None:
    tree = small.tree({"Documentation/a.rst": "a\n", "include/uapi/b.h": "\n", "scripts/c.h": "\n"})
    names = [entry.partition(b"\t")[2].decode() for entry in configured.inputs(tree)]
    assert {"Kconfig", "Makefile", "scripts/c.h"} <= {*names}
    assert not [name for name in names if name.endswith((".c", ".rst", "b.h"))]
