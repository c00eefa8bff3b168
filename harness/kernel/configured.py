"""Decide whether a build folder is configured already as make would configure it.

``make allnoconfig`` asks compiler and linker more than a hundred questions, which takes 5 processor
seconds on one processor, even if nothing has changed that the answers depend on.  Most series
change no such file.
"""

from __future__ import annotations

from pathlib import Path

from harness.kernel.tree import Tree
from harness.lib import git
from harness.lib.command import SYSTEM_PATH

# What scripts/kconfig/conf reads of a tree are makefiles, files that a Kconfig file names, and the programs
# that the macros of scripts/Kconfig.include run, all of them shell scripts, most of them in scripts/.
_SOURCES = (b".c", b".h", b".S", b".rst", b".dts", b".dtsi", b".yaml", b".json")
_PROGRAMS = b"scripts/"


def inputs(tree: Tree) -> list[bytes]:
    """Return the entries of ``git ls-tree`` for the files of ``tree`` that its configuration may depend on.

    Sources and documentation are left out, except in scripts/.
    """
    listed = git.query(
        ["ls-tree", "-r", "-z", "--full-tree", tree.commit], env=git.environment(tree.repository)
    )
    return [entry for entry in listed.split(b"\0") if entry and _may_be_read(entry.partition(b"\t")[2])]


def programs() -> list[str]:
    """Return the time stamps of the folders of programs, which change with each program in them."""
    return [f"{folder} {Path(folder).stat().st_mtime_ns}" for folder in SYSTEM_PATH.split(":")]


def _may_be_read(name: bytes) -> bool:
    return not name.endswith(_SOURCES) or name.startswith(_PROGRAMS)
