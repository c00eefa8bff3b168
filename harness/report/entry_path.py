"""The place of an entry in the trees of other reporting systems: file, function, parameters."""

from __future__ import annotations

import re

from harness.verdict.record import Entry
from harness.verdict.verdict import STAGES, Kind

_OTHER = re.compile(r"[^A-Za-z0-9_-]+")
_OF_KIND = {Kind.MACHINE: "machine", Kind.SELFTEST: "selftest", Kind.PATCH: "patch"}


def path_of(entry: Entry) -> tuple[str, ...]:
    """Return the words of the path, each of letters, digits, ``_`` and ``-``.

    A scenario has ``("test_map", "test_one", "c-ram")``, without the last if it has no
    parameters.  All repetitions of a scenario share a path.  A stage has ``("stage", "boot")``.
    """
    if entry.kind in STAGES:
        return ("stage", word(entry.id))
    if entry.kind in _OF_KIND:
        return (_OF_KIND[entry.kind], word(entry.id))
    file, _, function = entry.scenario.partition("::")
    name, _, parameters = function.partition("[")
    words = [word(file.removeprefix("suites/").removesuffix(".py"))]
    words += [word(name)] if name else []
    words += [word(parameters.removesuffix("]"))] if parameters else []
    return tuple(words)


def word(text: str) -> str:
    """Return ``text`` with every run of other characters replaced by ``_``; never empty."""
    return _OTHER.sub("_", text) or "_"
