"""Which dialect a run tests, by the headers of the kernel and by what the series adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_kernel import DMABUF, SmallKernel

from harness.kernel.added_names import AddedNames
from harness.kernel.choice import Choice, choose
from harness.kernel.dialect import REVOKING, Interfaces
from harness.kernel.tree import Tree
from harness.lib.errors import BuildError, HarnessError

VFIO, IOMMUFD, CODE = "include/linux/vfio.h", "include/linux/iommufd.h", "drivers/dmabuf.c"
FEATURE = "#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE 15\n"
DEVICE_IOCTL = "#define VFIO_DEVICE_PCI_DMABUF_REVOKE 0x3b7a\n"
RENAMED = "#define VFIO_DEVICE_FEATURE_DMABUF_REVOKE 13\n"

Chosen = Callable[..., Choice]


@pytest.fixture
def kernel(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


@pytest.fixture
def chosen(kernel: SmallKernel) -> Chosen:
    """Choose for the changes of a series, promised ``auto``, on the small kernel or on one with ``base``."""

    def choose_for(
        changes: dict[str, str | None], *, base: dict[str, str | None] | None = None, promised: str = "auto"
    ) -> Choice:
        before = kernel.tree(base)
        tree = kernel.tree({**(base or {}), **changes})
        headers = kernel.repository / "include"
        return choose(promised, Interfaces.of(headers), rebased(tree, before))

    return choose_for


def rebased(tree: Tree, base: Tree) -> Tree:
    return replace(tree, base=replace(tree.base, commit=base.commit))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({VFIO: RENAMED}, "the constants VFIO_DEVICE_FEATURE_DMABUF_REVOKE = 13 (linux/vfio.h)"),
        ({VFIO: "#define VFIO_DEVICE_PCI_REVOKE_DMABUF\t_IO(';', 100 + 23)\n"}, "REVOKE_DMABUF = 15227 ("),
        ({VFIO: "enum { VFIO_A, VFIO_B_REVOKE };\n"}, "VFIO_B_REVOKE = 1 (linux/vfio.h)"),
        ({VFIO: "#define VFIO_REVOKE _IOW(';', 1, struct r)\n"}, "VFIO_REVOKE (linux/vfio.h)"),
        ({IOMMUFD: "#define IOMMU_IOAS_REVOKE 0x3b90\n"}, "IOMMU_IOAS_REVOKE = 15248 (linux/iommufd.h)"),
        ({VFIO: "struct vfio_dmabuf_revoke { int fd; };\n"}, "the names vfio_dmabuf_revoke ("),
        ({CODE: DMABUF.replace("dmabuf(", "dmabuf_revoke(")}, "the names dmabuf_revoke (drivers/dmabuf.c)"),
        ({"drivers/Revoker.c": "int Revoke;\n"}, "the names Revoke (drivers/Revoker.c)"),
        (
            {"include/uapi/linux/vfio.h": "#define VFIO_DEVICE_FEATURE_DMA_BUF_CUT 15\n"},
            "VFIO_DEVICE_FEATURE_DMA_BUF_CUT (include/uapi/linux/vfio.h)",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unknown_interface_of_a_series_is_a_problem(
    chosen: Chosen, changes: dict[str, str | None], words: str
) -> None:
    choice = chosen(changes)
    assert choice.dialect == "map"
    assert words in choice.problem
    assert 'dialect = "map"' in choice.problem


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {CODE: f"/* revoke it */ // revoke\n{DMABUF}"},
        {CODE: DMABUF.replace("return 1", 'return sizeof("revoke")')},
        {"drivers/vfio.rst": "To revoke, call revoke().\n"},
        {VFIO: "/*\n * #define VFIO_DEVICE_FEATURE_DMABUF_REVOKE 13\n */\n"},
        {VFIO: "#define VFIO_DEVICE_FEATURE_DMA_BUF 11\n"},
    ],
)
def test_words_that_are_no_code_are_no_problem(chosen: Chosen, changes: dict[str, str | None]) -> None:
    assert chosen(changes) == Choice("map")


@pytest.mark.parametrize("place", ["include/keys.h", "drivers/keys.c"])
def test_name_that_the_base_has_elsewhere_is_no_problem(chosen: Chosen, place: str) -> None:
    base: dict[str, str | None] = {place: "int key_revoke;\n"}
    assert chosen({CODE: f"extern int key_revoke;\n{DMABUF}"}, base=base) == Choice("map")
    assert "my_key_revoke" in chosen({CODE: f"extern int my_key_revoke;\n{DMABUF}"}, base=base).problem


@pytest.mark.parametrize(
    "text", ["/* They revoke it. */\nint keys;\n", "struct key { int revoke; };\n"], ids=["comment", "member"]
)
def test_bare_word_in_a_header_of_the_base_hides_no_new_name(chosen: Chosen, text: str) -> None:
    changes: dict[str, str | None] = {CODE: f"int revoke;\n{DMABUF}"}
    assert "the names revoke (drivers/dmabuf.c)" in chosen(changes, base={"include/keys.h": text}).problem


def test_comment_of_the_base_hides_no_new_name(chosen: Chosen) -> None:
    base: dict[str, str | None] = {"drivers/other.c": "/* int my_revoke; */\nint other;\n"}
    assert "my_revoke" in chosen({CODE: f"int my_revoke;\n{DMABUF}"}, base=base).problem


@pytest.mark.parametrize(
    ("base", "series", "dialect", "left_out"),
    [
        ({}, {VFIO: FEATURE}, "feature", ""),
        ({}, {VFIO: FEATURE, CODE: f"int revoke;\n{DMABUF}"}, "feature", ""),
        ({VFIO: FEATURE}, {}, "feature", ""),
        ({VFIO: FEATURE}, {CODE: f"int revoke;\n{DMABUF}"}, "feature", ""),
        (
            {VFIO: FEATURE},
            {VFIO: FEATURE + DEVICE_IOCTL},
            "device-ioctl",
            "VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE",
        ),
        ({}, {VFIO: FEATURE + RENAMED}, "feature", "VFIO_DEVICE_FEATURE_DMABUF_REVOKE"),
    ],
)
def test_known_interface_is_the_dialect(
    chosen: Chosen,
    base: dict[str, str | None],
    series: dict[str, str | None],
    dialect: str,
    left_out: str,
) -> None:
    choice = chosen(series, base=base)
    assert (choice.dialect, choice.problem) == (dialect, "")
    assert left_out in choice.note
    assert bool(left_out) == bool(choice.note)


def test_unknown_interface_beside_that_of_the_base_is_a_problem(chosen: Chosen) -> None:
    choice = chosen({VFIO: FEATURE + RENAMED}, base={VFIO: FEATURE})
    assert choice.dialect == "feature"
    assert "VFIO_DEVICE_FEATURE_DMABUF_REVOKE" in choice.problem


def test_several_new_interfaces_are_a_problem(chosen: Chosen) -> None:
    choice = chosen({VFIO: FEATURE + DEVICE_IOCTL})
    assert choice.dialect == "feature"
    assert "feature 15 (VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE in linux/vfio.h), device-ioctl (" in choice.problem


@pytest.mark.parametrize(
    ("promised", "text", "left_out"),
    [
        ("device-ioctl", FEATURE + DEVICE_IOCTL, "VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE"),
        ("feature", FEATURE + RENAMED, "VFIO_DEVICE_FEATURE_DMABUF_REVOKE"),
        ("map", RENAMED, "VFIO_DEVICE_FEATURE_DMABUF_REVOKE"),
    ],
)
def test_promised_dialect_leaves_the_others_out_aloud(
    chosen: Chosen, promised: str, text: str, left_out: str
) -> None:
    choice = chosen({VFIO: text}, promised=promised)
    assert (choice.dialect, choice.problem) == (promised, "")
    assert f"The dialect {promised} is tested, but not {left_out}" in choice.note


@pytest.mark.parametrize("promised", ["auto", "map"])
def test_new_constants_without_a_revoke_are_noted(chosen: Chosen, promised: str) -> None:
    guard = "#define _LINUX_UDMABUF_H\n"
    header = f"{guard}#define VFIO_DEVICE_PCI_RECLAIM 0x3b7b\nenum {{ VFIO_CUT_NOW }};\n"
    choice = chosen({"include/uapi/linux/vfio.h": header}, promised=promised)
    assert (choice.dialect, choice.problem) == ("map", "")
    uapi = "include/uapi/linux/vfio.h"
    assert f"uses: VFIO_CUT_NOW ({uapi}), VFIO_DEVICE_PCI_RECLAIM ({uapi}). If" in choice.note
    assert chosen({"include/linux/vfio.h": header}).note == ""
    assert chosen({uapi: header, VFIO: FEATURE}).note == ""


def test_new_constants_of_a_memory_attribute_are_not_noted(chosen: Chosen) -> None:
    flags = "enum { VFIO_DMABUF_ATTR_WC = 1 << 28 };\n"
    assert chosen({"include/uapi/linux/vfio.h": flags, VFIO: flags}) == Choice("map")
    assert "VFIO_DMABUF_ATTR_WC" in chosen({"include/uapi/linux/vfio.h": flags}).note


def test_promise_of_an_absent_dialect_blames_the_series(chosen: Chosen) -> None:
    with pytest.raises(BuildError, match=r"VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE in linux/vfio\.h"):
        chosen({VFIO: RENAMED}, promised="feature")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RENAMED, "VFIO_DEVICE_FEATURE_DMABUF_REVOKE = 13"),
        ("struct vfio_revoke { int a; };\n", "vfio_revoke"),
        ("/* revoke */\n", ""),
    ],
)
def test_headers_alone_show_an_unknown_interface(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux/vfio.h").write_text(text)
    choice = choose("auto", Interfaces.of(tmp_path), None)
    assert words in choice.problem
    assert bool(words) == bool(choice.problem)


def test_headers_alone_show_an_unknown_call(tmp_path: Path) -> None:
    (tmp_path / "linux").mkdir()
    known = "#define DMA_BUF_IOCTL_SYNC 1\n#define VFIO_DEVICE_GET_GFX_DMABUF 2\n"
    header = tmp_path / "linux/vfio.h"
    header.write_text(known)
    assert choose("auto", Interfaces.of(tmp_path), None) == Choice("map")
    header.write_text(f"{known}#define VFIO_DEVICE_FEATURE_DMA_BUF_CUT 15\n")
    choice = choose("auto", Interfaces.of(tmp_path), None)
    assert "no scenario uses: VFIO_DEVICE_FEATURE_DMA_BUF_CUT (linux/vfio.h)." in choice.note
    header.write_text(f"{known}{FEATURE}#define VFIO_DEVICE_FEATURE_DMA_BUF_CUT 16\n")
    assert choose("auto", Interfaces.of(tmp_path), None) == Choice("feature")


def test_problem_shows_hostile_names_cut_and_counted(chosen: Chosen) -> None:
    names = "".join(f"#define VFIO_REVOKE_{'x' * 300}_{number} {number}\n" for number in range(20))
    choice = chosen({VFIO: names})
    assert "and 12 more" in choice.problem
    assert len(choice.problem) < 4000


def test_git_that_cannot_search_the_base_is_no_answer(kernel: SmallKernel) -> None:
    tree = kernel.tree({CODE: f"int my_revoke;\n{DMABUF}"})
    added = AddedNames.of(tree)
    assert added.like(REVOKING, tree) == {"my_revoke": CODE}
    gone = replace(tree, base=replace(tree.base, commit="1" * 40))
    with pytest.raises(HarnessError, match="git grep"):
        added.like(REVOKING, gone)
