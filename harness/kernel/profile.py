"""The C files of a tree whose execution is counted by gcov, and the words that tell make so.

With CONFIG_GCOV_KERNEL the kernel's makefiles instrument an object whose variable
``GCOV_PROFILE_name.o`` is set (Documentation/dev-tools/gcov.rst).  That variable is given on make's
command line, so no file of the tree differs, and all other objects stay as they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from harness.kernel import kconfig
from harness.kernel.tree import Tree
from harness.lib import git
from harness.lib.command import CommandError
from harness.lib.untrusted_files import copy_file

FRAGMENT = "coverage.config"
OPTION = "GCOV_KERNEL"
#: The folder of a built kernel with the notes files (gcno) of its instrumented objects.
NOTES = "gcov"
#: Bytes of the largest notes file that is taken from a build; that of a C file of 2,000 lines has 0.1 MB.
NOTES_BYTES = 16 << 20
#: Objects that are instrumented at most.  A large series makes a slow kernel otherwise.
MAX_OBJECTS = 200
#: C files that are instrumented because they include a header of the series, for each header.
MAX_INCLUDING = 20
# Folders whose C files are programs of the host or of user space, or parts of the boot loader.
_NOT_KERNEL = ("tools/", "scripts/", "usr/", "samples/", "Documentation/", "arch/x86/boot/", "rust/")
# A name that means only itself in a makefile.
_PLAIN = re.compile(r"[\w./+-]+")


def is_wanted(request: str) -> bool:
    """Return whether the configuration ``request``, the text of a fragment, asks for gcov."""
    return kconfig.values(request).get(OPTION) == "y"


def is_kernel_code(path: str) -> bool:
    """Return whether a file of the tree is C code or a header that becomes a part of the kernel."""
    return path.endswith((".c", ".h")) and not path.startswith(_NOT_KERNEL)


def changed(tree: Tree) -> list[str]:
    """Return the files of ``tree`` that its series adds or changes, in order; none for a base alone."""
    if tree.series is None or not tree.series.patches:
        return []
    argv = ["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=d"]
    names = git.query([*argv, tree.base.commit, tree.commit], env=git.environment(tree.repository))
    return [name for name in names.decode(errors="surrogateescape").split("\0") if name]


def sources(tree: Tree) -> list[str]:
    """Return the C files to instrument: those that the series changes, and those that include its headers.

    A header counts unless it is one of user space (``uapi``).  At most MAX_INCLUDING files are added
    for a header, and the result has at most MAX_OBJECTS.
    """
    code = [path for path in changed(tree) if is_kernel_code(path) and _PLAIN.fullmatch(path)]
    found = dict.fromkeys(path for path in code if path.endswith(".c"))
    for header in code:
        if header.endswith(".h") and "/uapi/" not in header:
            found |= dict.fromkeys(_including(tree, header)[:MAX_INCLUDING])
    return list(found)[:MAX_OBJECTS]


def _including(tree: Tree, header: str) -> list[str]:
    """Return the C files of the tree that include ``header`` by a line of their own, in order."""
    path = PurePosixPath(header)
    inside = header.removeprefix("include/")
    if inside != header:
        pattern, below = rf"^#[[:space:]]*include[[:space:]]*<{re.escape(inside)}>", ["*.c"]
    else:
        pattern = rf'^#[[:space:]]*include[[:space:]]*"(.*/)?{re.escape(path.name)}"'
        below = [f"{path.parent}/*.c"]
    argv = ["grep", "-lzE", pattern, tree.commit, "--", *below]
    try:
        found = git.query(argv, env=git.environment(tree.repository)).decode(errors="surrogateescape")
    except CommandError as error:
        if error.returncode != 1:
            raise
        return []  # git grep ends with 1 if there is none
    names = [name.partition(":")[2] for name in found.split("\0") if name]
    return sorted(name for name in names if is_kernel_code(name) and _PLAIN.fullmatch(name))


def make_arguments(paths: Iterable[str]) -> list[str]:
    """Return the words on make's command line that instrument the objects of these C files.

    Objects of the same name in other folders stay as they are: make expands a variable of its command
    line where it is used, and ``obj`` is the folder there.
    """
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for path in map(PurePosixPath, paths):
        folders[path.stem].append(str(path.parent))
    return [
        f"GCOV_PROFILE_{stem}.o=$(if $(filter {' '.join(inside)},$(obj)),y)"
        for stem, inside in sorted(folders.items())
    ]


def collect(build: Path, paths: Sequence[str], target: Path) -> None:
    """Copy the notes files that the compiler made of the C files ``paths`` from ``build`` into ``target``.

    A file that was not compiled has none.  Raises BuildError for one of an impossible size.
    """
    for path in paths:
        notes = PurePosixPath(path).with_suffix(".gcno")
        if (build / notes).exists():
            (target / notes).parent.mkdir(parents=True, exist_ok=True)
            copy_file(build, notes, target / notes, NOTES_BYTES)
