"""The names that a series adds to the code of a kernel: identifiers, and constants of its headers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.kernel.tree import Tree
from harness.kernel.uapi import Definitions, identifiers
from harness.lib import git
from harness.lib.command import CommandError
from harness.lib.errors import HarnessError

#: Files of source code.  Text beside them (Documentation/, Kconfig) has no identifiers.
CODE = (".c", ".h", ".S", ".rs")
#: Bytes of a file that are read; a larger one is read up to there.
FILE_LIMIT = 4 << 20
#: Names that git is asked for at once.
NAMES_LIMIT = 200
_NO_BLOB = re.compile("0+")


@dataclass(frozen=True)
class AddedNames:
    """The new names in the files that a series changes, each with the file that has it.

    ``identifiers`` are in code, outside of comments and strings; ``constants`` are the
    macros and enumerators of headers among them.
    """

    identifiers: Mapping[str, str]
    constants: Mapping[str, str]

    @classmethod
    def of(cls, tree: Tree) -> AddedNames:
        """Compare the files that differ between the base and the tree.

        Raises HarnessError if git cannot read them.
        """
        names: dict[str, str] = {}
        constants: dict[str, str] = {}
        had: set[str] = set()
        defined: set[str] = set()
        try:
            for path, old, new in _changed_files(tree):
                had.update(identifiers(old))
                names |= {name: path for name in identifiers(new) if name not in names}
                if path.endswith(".h"):
                    defined.update(Definitions(old).names)
                    constants |= {name: path for name in Definitions(new).names if name not in constants}
        except CommandError as error:
            raise HarnessError(
                f"The changes of the series could not be read from {tree.repository}.", tail=error.tail
            ) from error
        return cls(
            {name: path for name, path in sorted(names.items()) if name not in had},
            {name: path for name, path in sorted(constants.items()) if name not in defined},
        )

    def like(self, pattern: re.Pattern[str], tree: Tree) -> dict[str, str]:
        """Return the identifiers that match ``pattern`` and that the base lacks, with their files.

        The base is searched in the subsystems of these files, which takes a second, and below
        include/ for names of more than one word: ``revoke`` alone is a member of many a structure
        there.  The whole of a kernel would take a minute.
        """
        found = {name: path for name, path in self.identifiers.items() if pattern.search(name)}
        old: set[str] = set()
        for names, places in (
            (found, {_subsystem(path) for path in found.values()}),
            ([name for name in found if "_" in name.strip("_")], {"include"}),
        ):
            if names and places:
                old |= _identifiers_below(tree, list(names)[:NAMES_LIMIT], sorted(places))
        return {name: path for name, path in found.items() if name not in old}


def _subsystem(path: str) -> str:
    """Return the folder of a file's subsystem; a header below include/ stands for itself."""
    folder = "/".join(path.split("/")[:-1][:2])
    return path if path.startswith("include/") or not folder else folder


def _identifiers_below(tree: Tree, names: Sequence[str], places: Sequence[str]) -> frozenset[str]:
    """Return the identifiers in those files of the base below ``places`` that have one of the ``names``."""
    env = git.environment(tree.repository)
    words = [part for name in names for part in ("-e", name)]
    where = [f":(literal){place}" for place in places]
    try:
        listed = git.query(["grep", "-l", "-z", "-w", "-F", *words, tree.base.commit, "--", *where], env=env)
    except CommandError as error:
        if error.returncode != 1:
            raise
        return frozenset()  # git grep ends with 1 if there is none
    paths = [name.partition(":")[2] for name in listed.decode(errors="replace").split("\0")]
    return frozenset(
        identifier
        for path in paths
        if path.endswith(CODE)
        for identifier in identifiers(_content(tree.repository, f"{tree.base.commit}:{path}"))
    )


def _changed_files(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Yield path, old text and new text of each file of code that the series changes."""
    env = git.environment(tree.repository)
    options = ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev"]
    fields = git.query([*options, tree.base.commit, tree.commit], env=env).split(b"\0")
    for about, name in zip(fields[::2], fields[1::2], strict=False):
        old_mode, new_mode, old, new, _ = about.decode().lstrip(":").split()
        path = name.decode(errors="replace")
        if path.endswith(CODE) and "100" in (old_mode[:3], new_mode[:3]):
            yield path, _text(tree.repository, old), _text(tree.repository, new)


def _text(repository: Path, blob: str) -> str:
    if _NO_BLOB.fullmatch(blob):
        return ""
    return _content(repository, blob)


def _content(repository: Path, blob: str) -> str:
    content = git.query(["cat-file", "blob", blob], env=git.environment(repository))
    return content[:FILE_LIMIT].decode(errors="replace")
