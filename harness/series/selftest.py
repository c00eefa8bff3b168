"""Choose the kernel's own test programs to run: those that a series changes, and some of the tree.

A program is named by its path below ``tools/testing/selftests/``, without ``.c``.  The table
``[selftest]`` of a manifest says how programs are run, or that none is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

SELFTESTS = "tools/testing/selftests/"
NONE, AUTO, ALL = "none", "auto", "all"
CHOICES = (AUTO, NONE, ALL)
BDF_VARIABLE = "VFIO_SELFTESTS_BDF"
TIMEOUT = 60  # seconds, before the accelerator's factor
MAX_PROGRAMS = 40  # of a series

# Each of its BARs fills whole pages, and it has an MSI.  The tests of VFIO in the tree cannot map a smaller
# BAR, as the device with the RAM BAR has one (docs/findings.md).
_DEVICES = ("edu",)
_LIBRARIES = {"lib", "include", "libvfio", "scripts", "config", "settings"}
_SCRIPTS = {".sh", ".py", ".pl"}
_NO_CODE = {"", ".txt", ".rst", ".gitignore", ".mk", ".config", ".md", ".json", ".yaml"}


@dataclass(frozen=True)
class Program:
    """A test program, and the way to run it.

    ``arguments`` and the values of ``environment`` may hold ``{bdf}`` and ``{group}`` of the first of the
    ``devices`` (roles of the layout, bound to vfio-pci meanwhile), or of another one: ``{bdf:ram2}``.
    ``flags`` are for the compiler.  ``option`` is the kernel option that it needs, if any.  ``own`` is true
    for a program that the series changes, or its manifest names.  ``problem`` is why it is not run.
    """

    path: str
    arguments: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    timeout: int = TIMEOUT
    ktap_optional: bool = False
    flags: str = ""
    option: str = ""
    own: bool = True
    problem: str = ""

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> Program:
        """Return the program whose members, as asdict() gives them, went through JSON."""
        return cls(
            **{
                **members,
                "arguments": tuple(members["arguments"]),
                "devices": tuple(members["devices"]),
                "environment": tuple((name, value) for name, value in members["environment"]),
            }
        )


@dataclass(frozen=True)
class Table:
    """The table ``[selftest]`` of a manifest; ``run`` is false for ``run = "none"``."""

    run: bool = True
    programs: tuple[Program, ...] = field(default=())


def _vfio(path: str) -> Program:
    return Program(path, ("{bdf}",), _DEVICES, ((BDF_VARIABLE, "{bdf}"),), own=False)


#: Programs of the kernel that test VFIO's devices, DMABUFs and their importers.
KNOWN = (
    _vfio("vfio/vfio_pci_device_test"),
    _vfio("vfio/vfio_dma_mapping_test"),
    _vfio("vfio/vfio_dma_mapping_mmio_test"),
    _vfio("vfio/vfio_iommufd_setup_test"),
    Program("drivers/dma-buf/udmabuf", own=False),
    Program("dmabuf-heaps/dmabuf-heap", own=False),
    Program(
        "iommu/iommufd",
        ("-t", "dmabuf_simple", "-t", "dmabuf_revoke"),
        option="IOMMUFD_TEST",
        own=False,
    ),
)


def choose(choice: str, table: Table, changed: Iterable[str]) -> tuple[Program, ...]:
    """Return the programs to run, each once; those of the series first.

    ``choice`` is one of CHOICES, ``changed`` are the paths that the series changes.
    """
    if choice == NONE or (choice == AUTO and not table.run):
        return ()
    chosen: dict[str, Program] = {}
    if table.run:
        for one in (*table.programs, *_changed(changed, {one.path for one in table.programs})):
            chosen.setdefault(one.path, one)
    if choice == ALL:
        for one in KNOWN:
            chosen.setdefault(one.path, one)
    return tuple(chosen.values())


def _changed(paths: Iterable[str], named: set[str]) -> list[Program]:
    """Return the programs of the files that a series changes."""
    programs: dict[str, Program] = {}
    others: dict[str, list[str]] = {}
    for path in sorted(set(paths)):
        if not path.startswith(SELFTESTS):
            continue
        inside = PurePosixPath(path.removeprefix(SELFTESTS))
        if _LIBRARIES.isdisjoint(inside.parts[:-1]) and inside.suffix == ".c" and len(inside.parts) > 1:
            name = str(inside.with_suffix(""))
            programs[name] = _default(name)
        elif inside.suffix in _SCRIPTS:
            problem = "It is a script, and only compiled programs are run."
            programs[str(inside)] = Program(str(inside), problem=problem)
        elif inside.suffix not in _NO_CODE and inside.name != "Makefile":
            others.setdefault(inside.parts[0], []).append(str(inside))
    for folder, files in others.items():
        programs |= _of_folder(folder, files, {*named, *programs})
    return _limited(list(programs.values()))


def _default(path: str) -> Program:
    """Return the way to run a program of which no manifest speaks."""
    known = {one.path: one for one in KNOWN}
    if path in known:
        # The whole program, because the series may have added a test to it.
        return replace(
            known[path], arguments=_vfio(path).arguments if path.startswith("vfio/") else (), own=True
        )
    arguments = ("{bdf}",) if path.startswith("vfio/") else ()
    return Program(path, arguments, _DEVICES, ((BDF_VARIABLE, "{bdf}"),))


def _of_folder(folder: str, files: Sequence[str], chosen: set[str]) -> dict[str, Program]:
    """Return the programs to run because of changed ``files`` that are no program's own source."""
    known = [one for one in KNOWN if one.path.startswith(f"{folder}/")]
    if known:
        return {one.path: _default(one.path) for one in known if one.path not in chosen}
    if any(name.startswith(f"{folder}/") for name in chosen):
        return {}
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    problem = (
        f"The series changes {files[0]}{more}, which belongs to no program that is known. Name the programs "
        "in [selftest] of the manifest."
    )
    return {f"{folder}/": Program(f"{folder}/", problem=problem)}


def _limited(programs: list[Program]) -> list[Program]:
    if len(programs) <= MAX_PROGRAMS:
        return programs
    left = len(programs) - MAX_PROGRAMS
    problem = (
        f"The series changes {len(programs)} programs, and the last {left} are not run. Name those to run in "
        "[selftest] of the manifest."
    )
    return [*programs[:MAX_PROGRAMS], Program("(others)", problem=problem)]
