"""Options that fragments ask for, options that vanished, and why."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from real import LATER_BASE

from harness.kernel import kconfig, kconfig_why
from harness.kernel.base import fetch
from harness.lib import command, git
from harness.lib.cache import Store
from harness.lib.errors import UsageError
from harness.lib.paths import KCONFIG
from harness.lib.progress import Progress
from harness.run.request import FRAGMENTS
from harness.series.series import DEFAULT_BASE

TREE = Path(__file__).parent / "data" / "kbuild" / "kconfig"
ON = {"X86": "y", "MMU": "y", "PCI": "y", "IOMMU": "y", "CPU_BITS": "48"}


def test_values_of_a_configuration_are_read() -> None:
    text = '#\n# Linux/x86\n#\nCONFIG_PCI=y\n# CONFIG_VT is not set\nCONFIG_LOCALVERSION=""\nCONFIG_N=16\n'
    assert kconfig.values(text) == {"PCI": "y", "VT": "n", "LOCALVERSION": '""', "N": "16"}


def test_requested_takes_the_later_fragment(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("# why\nCONFIG_PCI=y\nCONFIG_VT=n\n")
    (tmp_path / "b").write_text("# CONFIG_PCI is not set\n")
    asked = kconfig.requested([tmp_path / "a", tmp_path / "b"], "6.19")
    assert asked == {"PCI": "n", "VT": "n"}
    assert kconfig.fragment_text(asked) == "CONFIG_PCI=n\nCONFIG_VT=n\n"


@pytest.mark.parametrize(
    ("version", "there"),
    [("6.18.2", "AB"), ("6.19.6", "ABC"), ("7.2", "AC"), ("7.2-rc7", "AC"), ("7.10.3", "AD"), ("7.3", "AD")],
)
def test_requested_takes_options_of_the_release(tmp_path: Path, version: str, there: str) -> None:
    fragment = tmp_path / "fragment"
    fragment.write_text(
        "# releases: ..6.19\nCONFIG_B=y\nCONFIG_A=y\n"
        "#releases: 6.19..7.2\n# CONFIG_C is not set\n# releases:  7.3..\nCONFIG_D=y\n"
    )
    assert "".join(sorted(kconfig.requested([fragment], version))) == there


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# releases: 6.19\nCONFIG_A=y\n", "line 1 that names no range of releases"),
        ("\n# releases: ..\nCONFIG_A=y\n", "line 2 that names no range of releases"),
        ("# releases: ..6.19.2\nCONFIG_A=y\n", "line 1 that names no range of releases"),
        ("# releases: 7.3..\n\nCONFIG_A=y\n", "no option right after line 1"),
        ("# releases: 7.3..\n# releases: 7.3..\nCONFIG_A=y\n", "no option right after line 1"),
        ("CONFIG_A=y\n# releases: 7.3..\n", "ends after a line that names releases"),
    ],
)
def test_requested_refuses_malformed_releases(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(UsageError, match=says):
        kconfig.requested([tmp_path / "bad"], "6.19")


def test_release_of_no_kernel_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'next' is not the version of a kernel"):
        kconfig.release("next")


@pytest.mark.parametrize("line", ["CONFIG_PCI", "PCI=y", "CONFIG_PCI =y", "config PCI"])
def test_requested_refuses_a_malformed_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad").write_text(f"CONFIG_VT=n\n{line}\n")
    with pytest.raises(UsageError, match="line 2"):
        kconfig.requested([tmp_path / "bad"], "6.19")


def test_requested_refuses_a_missing_fragment(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        kconfig.requested([tmp_path / "nowhere"], "6.19")


def test_vanished_lists_options_with_another_value() -> None:
    asked = {"PCI": "y", "VT": "n", "KVM": "n", "VFIO": "y", "N": "16"}
    assert kconfig.dropped(asked, {"PCI": "y", "VT": "y", "VFIO": "m", "N": "8"}) == ["N", "VFIO", "VT"]


REASONS: list[tuple[str, str, Mapping[str, str], str]] = [
    ("NOWHERE", "y", {}, "this tree has no such option"),
    ("NOT_AN_OPTION", "y", {}, "this tree has no such option"),
    ("PCI_P2PDMA", "y", {}, "it depends on ZONE_DEVICE, which is not met"),
    ("PCI_P2PDMA", "y", {"PCI": "n"}, "it depends on PCI && ZONE_DEVICE, which is not met"),
    ("VFIO", "y", {"LOCKDOWN": "y"}, "it depends on !LOCKDOWN, which is not met"),
    (
        "VFIO_DMABUF",
        "y",
        {"VFIO": "y", "SYNC_FILE": "y"},
        "it has no prompt and its default needs PCI_P2PDMA",
    ),
    ("VFIO_DMABUF", "y", {"VFIO": "y", "PCI_P2PDMA": "y"}, "its default needs (SYNC_FILE || DMA_SHARED)"),
    ("VFIO_EITHER", "y", {"VFIO": "y"}, '(SYNC_FILE || DMA_SHARED) or (PLATFORM = "pc" || LOCKDOWN)'),
    ("VFIO_EITHER", "y", {"PLATFORM": '"pc"'}, "nothing in its Kconfig entry forbids it"),
    ("HOW_FAST", "y", {}, "it depends on PREEMPTION, which is not met"),
    ("CPU_WIDE", "y", {}, "it depends on CPU_BITS >= 52, which is not met"),
    ("CPU_TOOLCHAIN", "y", {"PCI": "n"}, "it depends on PCI, which is not met"),
    ("EXPERT_ONLY", "n", {}, "it cannot be off"),
    ("EXPERT_ONLY", "y", {}, "it can be set only with EXPERT, which is not met"),
    ("GENERIC_ALLOCATOR", "y", {}, "it has no prompt and is on only when selected (by PCI_P2PDMA)"),
    ("DMA_SHARED", "y", {}, "it has no prompt and is on only when selected"),
    ("MMU", "n", {}, "it is selected by X86"),
    ("CPU_HELPER", "n", {"CPU_ODD": "y"}, "it is selected by X86"),
    ("CPU_HELPER", "n", {}, "it cannot be off"),
]


@pytest.mark.parametrize(("name", "asked", "more", "reason"), REASONS)
def test_why_names_the_reason(name: str, asked: str, more: Mapping[str, str], reason: str) -> None:
    assert reason in kconfig_why.Options(TREE).why(name, asked, {**ON, **more})


def test_options_are_read_inside_the_tree_only(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").write_text("config OUTSIDE\n")
    (tmp_path / "tree" / "link").symlink_to("../outside")
    (tmp_path / "tree" / "Kconfig").write_text('source "../outside"\nsource "link"\nsource "/etc/passwd"\n')
    assert kconfig_why.Options(tmp_path / "tree").why("OUTSIDE", "y", {}) == "this tree has no such option"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("A", True),
        ("!A", False),
        ("A && B", False),
        ("A || B", True),
        ("!B && (B || A) && M", True),
        ("A = y && B != y", True),
        ("B = n", True),
        ('S = "text"', True),
        ("N < 0x20 && N > 15", True),
        ("!(A && M) || B", False),
        ("A &&", True),  # a condition that cannot be read counts as met
        ("", True),
        ("A < S", True),
    ],
)
def test_holds_evaluates_an_expression(condition: str, holds: bool) -> None:
    assert kconfig_why.holds(condition, {"A": "y", "M": "m", "S": '"text"', "N": "16"}) is holds


@functools.cache
def source(release: str) -> Path:
    """Return a folder with those files of a real base that configuring it needs."""
    store = Store()
    base = fetch(store, Progress(store), release)
    wanted = [
        "Makefile",
        "Kbuild",
        "scripts",
        "arch/x86",
        ":(glob)**/Kconfig*",
        "tools/include",
        "include/linux",
    ]
    place = Path(tempfile.mkdtemp(prefix="patchproof-linux-"))
    atexit.register(shutil.rmtree, place)
    archive = place / "archive.tar"
    command.run(
        ["git", "archive", f"--output={archive}", base.commit, "--", *wanted],
        env=git.environment(base.repository),
    )
    command.run(["tar", "--extract", f"--file={archive}", f"--directory={place}"])
    return place


EXTRA = ("debug.config", "leaks.config", "lines.config")


@pytest.mark.build
@pytest.mark.parametrize(
    ("release", "more"),
    [(DEFAULT_BASE, ()), *((DEFAULT_BASE, (one,)) for one in EXTRA), (LATER_BASE, ()), (LATER_BASE, EXTRA)],
)
def test_fragments_survive_in_the_real_kernel(tmp_path: Path, release: str, more: tuple[str, ...]) -> None:
    """No requested option vanishes, and why() calls no option impossible that kconfig has set."""
    asked = kconfig.requested([KCONFIG / name for name in (*FRAGMENTS, *more)], release)
    tree = source(release)
    (tmp_path / "fragment").write_text(kconfig.fragment_text(asked))
    command.run(
        ["make", "-s", "-C", str(tree), f"O={tmp_path}", "ARCH=x86_64", "allnoconfig"],
        env={"LC_ALL": "C", "KCONFIG_ALLCONFIG": str(tmp_path / "fragment")},
    )
    options = kconfig_why.Options(tree)
    got = kconfig.values((tmp_path / ".config").read_text())
    lost = kconfig.dropped(asked, got)
    assert [f"{name}: {options.why(name, asked[name], got)}" for name in lost] == []
    on = [name for name, value in got.items() if value == "y"]
    assert len(on) > 500
    impossible = {name: options.why(name, "y", got) for name in on}
    assert {name: why for name, why in impossible.items() if "depends on" in why or "no such" in why} == {}
