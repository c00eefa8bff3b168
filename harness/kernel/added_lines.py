"""The lines that a series adds or changes, as they stand in the patched tree, and the patch of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.kernel import profile
from harness.kernel.left_out import left_out
from harness.kernel.tree import Tree
from harness.lib import git

_HEADER = re.compile(rb"([0-9a-f]{40,64}) \d+ (\d+)(?: \d+)?")
# The first line of a function in the kernel's style begins in the first column, and names it before "(".
_FUNCTION = re.compile(r"(?!typedef\b)(?:[A-Za-z_][\w\s*]*[\s*])?([A-Za-z_]\w*)\((?!.*;\s*$)")
#: Files whose lines are looked at; a series of a hundred patches changes some hundreds.
MAX_FILES = 2000


@dataclass(frozen=True)
class AddedLine:
    """A line of the patched tree that the series adds or changes.

    ``patch`` counts from 1.  ``function`` is the one around the line, empty outside of any.
    ``left_out`` means that the configuration does not compile it (``#ifdef CONFIG_X``).
    """

    patch: int
    text: str
    function: str
    left_out: bool = False


def added_lines(tree: Tree, options: Mapping[str, str]) -> dict[str, dict[int, AddedLine]]:
    """Return the added lines of each C file and header of the kernel, by path and by line number.

    ``options`` are those of the kernel's configuration.

    A line belongs to the last patch that changed it (``git blame``).
    """
    env = git.environment(tree.repository)
    span = f"{tree.base.commit}..{tree.commit}"
    commits = git.query(["rev-list", "--reverse", span], env=env).decode().split()
    patches = {commit: number for number, commit in enumerate(commits, 1)}
    paths = [path for path in profile.changed(tree) if profile.is_kernel_code(path)]
    return {path: _blamed(tree, span, path, patches, options) for path in paths[:MAX_FILES]}


def _blamed(
    tree: Tree, span: str, path: str, patches: Mapping[str, int], options: Mapping[str, str]
) -> dict[int, AddedLine]:
    blame = ["blame", "--porcelain", "-s", span, "--", path]
    output = git.query(blame, env=git.environment(tree.repository))
    found: dict[int, AddedLine] = {}
    texts: list[str] = []
    commit, number, function = "", 0, ""
    for line in output.split(b"\n"):
        if line.startswith(b"\t"):
            text = line[1:].decode(errors="replace")
            texts.append(text)
            if (begun := _FUNCTION.match(text)) is not None:
                function = begun[1]
            if commit in patches:
                found[number] = AddedLine(patches[commit], text, function)
            if text.startswith("}"):
                function = ""
        elif header := _HEADER.fullmatch(line):
            commit, number = header[1].decode(), int(header[2])
    for one in left_out(texts, options).intersection(found):
        found[one] = replace(found[one], left_out=True)
    return found
