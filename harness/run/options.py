"""The options of a run, said once for argparse and once for pytest with the same words."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.lib.errors import UsageError
from harness.lib.paths import KCONFIG

DEFAULT_SERIES = "reference-feature"
ANY_SEED = "random"
FRAGMENTS = ("base.config", "vfio.config", "observe.config")


@dataclass(frozen=True)
class Request:
    """What the user wants tested, and on what."""

    series: str | None = None
    patches: int | None = None
    mutant: str | None = None
    tree: Path | None = None
    kernel: Path | None = None
    headers: Path | None = None
    kconfig: tuple[Path, ...] = ()
    accel: str = "auto"
    qemu: str = "qemu-system-x86_64"
    results: Path = Path("results")
    keep_vm: bool = False
    resume: Path | None = None
    repeat: int = 1
    random_order: str = ""
    requirement: tuple[str, ...] = ()
    variants: str = "all"
    until_violated: bool = False

    def __post_init__(self) -> None:
        if (self.kernel is None) != (self.headers is None):
            raise UsageError(
                "--kernel and --headers belong together: the probes are compiled against the "
                "headers of the kernel under test (`make headers_install`)."
            )
        if self.patches is not None and self.series is None:
            raise UsageError("--patches counts those of --series, and no series is given.")
        if self.mutant is not None and (self.series is None or self.patches is not None):
            raise UsageError("A mutant changes the whole of a series: --mutant goes with --series alone.")
        if self.kernel is not None and (self.tree is not None or self.kconfig):
            raise UsageError("--kernel skips the build, so --tree and --kconfig have no effect with it.")

    @property
    def fragments(self) -> tuple[Path, ...]:
        """The kernel config fragments, the user's last so that they win."""
        return tuple(KCONFIG / name for name in FRAGMENTS) + self.kconfig


def add_source(add: Callable[..., Any]) -> None:
    """Options that name the kernel under test; ``add`` is add_argument or addoption."""
    add(
        "--series",
        metavar="NAME|DIR|MBOX",
        help=f"a name below patches/, a folder of patches, or an mbox file (default: {DEFAULT_SERIES}, "
        "or none with --tree or --kernel)",
    )
    add(
        "--patches",
        metavar="N",
        type=int,
        help="only the first N patches of the series; its manifest says what they alone give",
    )
    add(
        "--mutant",
        metavar="NAME",
        help="the series with this fault, one of patches/mutants/SERIES/; the scenarios that must see it "
        "come first",
    )
    add(
        "--tree",
        metavar="DIR",
        type=Path,
        help="a kernel git checkout: test what is checked out there, uncommitted changes included; "
        "DIR itself is not touched",
    )


def add_kernel(add: Callable[..., Any]) -> None:
    """Options of configuring and building."""
    add(
        "--kconfig",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="one more kernel config fragment (repeatable), e.g. vmimage/kconfig/debug.config",
    )


def add_machine(add: Callable[..., Any]) -> None:
    """Options of the virtual machine."""
    add("--kernel", metavar="BZIMAGE", type=Path, help="boot this kernel instead of building one")
    add(
        "--headers",
        metavar="DIR",
        type=Path,
        help="its user-space headers, as `make headers_install` leaves them",
    )
    add_qemu(add)


def add_qemu(add: Callable[..., Any]) -> None:
    """Options of QEMU."""
    add("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="accelerator (default: auto)")
    add(
        "--qemu", metavar="PATH", default="qemu-system-x86_64", help="the QEMU program (default: %(default)s)"
    )


def add_run(add: Callable[..., Any]) -> None:
    """Options of a whole run."""
    add(
        "--results",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="where the folder of this run is made (default: results)",
    )
    add(
        "--requirement",
        metavar="ID[,ID]",
        action="append",
        default=[],
        help="only the scenarios that check one of these requirements; a group such as MAP means all of it "
        "(repeatable)",
    )
    add(
        "--variants",
        choices=("all", "one"),
        help="of a scenario that runs with several devices, probes or ways in: all of them, or the first "
        "(default: all; `prefixes`: one)",
    )
    add(
        "--until-violated",
        action="store_true",
        help="end the run at the first scenario that the kernel unexpectedly fails",
    )
    add("--keep-vm", action="store_true", help="leave the machine running at the end, until Ctrl-C")
    add(
        "--repeat",
        metavar="N",
        type=_count,
        default=1,
        help="go through the scenarios N times; verdicts that differ fail the run",
    )
    add(
        "--random-order",
        metavar="SEED",
        nargs="?",
        const=ANY_SEED,
        default="",
        type=_seed,
        help="shuffle the scenarios, those that share a machine among themselves; with the same SEED, a "
        "number, in the same way (default: one is chosen, and stands in the last line of the report)",
    )


def add_resume(add: Callable[..., Any]) -> None:
    """Options of a run that has a past."""
    add(
        "--resume",
        metavar="RESULTS",
        type=Path,
        help="go on with a run that was cut off, in its own folder: only the scenarios that were never "
        "reached run; it needs no other option",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of repetitions")
    return int(text)


def _seed(text: str) -> str:
    if text not in ("", ANY_SEED) and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a number, or {ANY_SEED}")
    return text


def without(option: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line but for ``option`` and its value."""
    stripper = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    stripper.add_argument(option)
    return stripper.parse_known_args(arguments)[1]


def request(get: Callable[[str], Any]) -> Request:
    """Build a Request; ``get`` looks up an option's value by its Python name, None where there is none."""
    given = {field.name: value for field in fields(Request) if (value := get(field.name)) is not None}
    given["kconfig"] = tuple(given.get("kconfig", ()))
    given["requirement"] = tuple(
        word for words in given.get("requirement", ()) for word in words.replace(",", " ").split()
    )
    if not {"series", "kernel", "tree"} & given.keys():
        given["series"] = DEFAULT_SERIES
    for fragment in given["kconfig"]:
        if not fragment.is_file():
            raise UsageError(f"The kernel config fragment {fragment} (--kconfig) is not a file.")
    return Request(**given)
