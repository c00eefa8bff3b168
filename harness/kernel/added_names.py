"""The names that a series adds to the code of a kernel: identifiers, and constants of its headers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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

        The base is searched below include/ and in the subsystems of these files, which takes a
        second.  The whole of a kernel would take a minute.
        """
        found = {name: path for name, path in self.identifiers.items() if pattern.search(name)}
        wanted = [part for name in list(found)[:NAMES_LIMIT] for part in ("-e", name)]
        if not wanted:
            return {}
        search = ["grep", "-h", "-o", "-w", "-F", *wanted, tree.base.commit]
        folders = {"/".join(path.split("/")[:-1][:2]) for path in found.values()}
        places = [f":(literal){folder}" for folder in sorted(folders | {"include"}) if folder]
        try:
            there = git.query([*search, "--", *places], env=git.environment(tree.repository))
        except CommandError:
            return found  # git grep ends with 1 if there is none
        old = set(there.decode(errors="replace").split())
        return {name: path for name, path in found.items() if name not in old}


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
    content = git.query(["cat-file", "blob", blob], env=git.environment(repository))
    return content[:FILE_LIMIT].decode(errors="replace")
