"""Keep the warnings of each object over builds that compile only what has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from harness.kernel.make_output import CONFIGURATION, without_position
from harness.kernel.tree import Tree
from harness.lib.files import digest, write_atomically


class ObjectWarnings:
    """The warnings of a build folder by object, in the file ``path``; ``source`` is the tree just built."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self._source = source

    def keep(self, found: Mapping[str, Sequence[str]]) -> None:
        """Store the warnings of each object, until the object is compiled again or its source is gone."""
        state = self._state()
        state["now"] = {
            target: lines
            for target, lines in {**state["now"], **found}.items()
            if lines and (target in found or target == CONFIGURATION or self._has_source(target))
        }
        write_atomically(self.path, json.dumps(state, indent=1))

    def new(self, tree: Tree, request: str) -> list[str]:
        """Return the warnings of the tree just built that its base, as last built here, does not have.

        ``request`` is the configuration of both.  A tree without patches has none; its warnings become
        those of the base.
        """
        state = self._state()
        lines = list(dict.fromkeys(line for lines in state["now"].values() for line in lines))
        base = {"commit": tree.base.commit, "config": digest(request)}
        if tree.series is None or not tree.series.patches:
            state["base"] = {**base, "lines": lines}
            write_atomically(self.path, json.dumps(state, indent=1))
            return []
        old = {
            without_position(line) for line in state["base"]["lines"] if state["base"].items() >= base.items()
        }
        return [line for line in lines if without_position(line) not in old]

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self.path.read_text())
        except FileNotFoundError:
            state = {"now": {}, "base": {"lines": []}}
        return cast(dict[str, Any], state)

    def _has_source(self, target: str) -> bool:
        try:
            return any((self._source / target).with_suffix(suffix).exists() for suffix in (".c", ".S"))
        except (ValueError, OSError):
            return False  # the output of make can name anything
